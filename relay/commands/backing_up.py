"""`torv relay backup`: a consistent copy of the relay's folder, while it serves."""

import asyncio
import fcntl
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click

from relay import __version__
from relay.assembly import DATABASE, KEY, WRITER_SOCKET
from relay.commands.opening import data_option, load_for
from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.net.workers import CannotStart
from relay.nostr.polls import fingerprint
from relay.settings import config_option
from relay.store.api import StoreError
from relay.transfer.manifest import (
    COMPRESSED,
    Manifest,
    compress,
    measure,
    private_file,
    read_manifest,
    settle_folder,
)
from relay.transfer.progress import Steps, steps

CONFIGURATION = "torv.toml"
BRIDGE_DATABASE = "bridge.sqlite3"
BRIDGE_SEED = "bridge.seed"
_LEAVE_FREE_BYTES = 64 * 2**20


@ends_with("the backup is whole and safe on the disk", "no backup was made")
@click.command("backup")
@click.argument("destination", type=click.Path(path_type=Path))
@config_option
@data_option
@click.option("--compress", "compressed", is_flag=True, help="Compress the databases (zstd).")
@click.option("--no-keys", is_flag=True, help="Leave out the relay's key and the bridge's seed.")
@json_option
@click.pass_context
def backup(
    context: click.Context,
    destination: Path,
    config: Path | None,
    data: Path | None,
    compressed: bool,
    no_keys: bool,
    as_json: bool,
) -> None:
    """Copy the relay's data into the new folder DESTINATION, with a manifest of what it holds.

    The relay may be running; its writer makes the copy then, beside its commits. In the folder are the
    database, the bridge's if there is one, their secret keys, and the text of the configuration file: it
    is for its owner's eyes only. It appears under its name when it is whole. The index for searching is
    left out, for it is made anew.
    """
    folder = load_for(context, config, data).data
    try:
        with _new_folder(destination) as partial, steps() as shown:
            sizes = _copy(folder, partial, shown, with_keys=not no_keys)
            if config is not None:
                with private_file(partial / CONFIGURATION) as file:
                    file.write(config.read_bytes())
            manifest = _described(partial, sizes, shown, compressed)
    except (StoreError, CannotStart, OSError, sqlite3.Error) as error:
        raise Failed(str(error)) from error
    size = sum(file.bytes for file in manifest.files.values())
    result = {
        "destination": str(destination),
        "events": manifest.events,
        "fingerprint": manifest.fingerprint,
        "bytes": size,
        "files": sorted(manifest.files),
    }
    lines = [
        f"{manifest.events:,} events in {destination} ({size / 2**20:,.1f} MiB)",
        f"fingerprint {manifest.fingerprint}",
    ]
    if KEY in manifest.files:
        lines.append("with the relay's secret key: keep it where nobody else reads it")
    print_result(as_json, result, lines)


@contextmanager
def _new_folder(destination: Path) -> Iterator[Path]:
    """Give a private folder that gets the name `destination` when all went well, safe on the disk."""
    if destination.exists():
        raise CannotStart(f"{destination} is there already: a backup overwrites nothing")
    parent = destination.resolve().parent
    prefix = f".{destination.name}.partial-"
    for stale in parent.glob(f"{prefix}*"):
        if not _is_held(stale):
            shutil.rmtree(stale, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    held = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield partial
        settle_folder(partial)
        os.rename(partial, destination)
        settle_folder(parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(held)


def _is_held(folder: Path) -> bool:
    """Say whether a backup that is being made holds its folder."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _copy(folder: Path, partial: Path, shown: Steps, *, with_keys: bool) -> list[str]:
    """Copy databases and keys; return the names of the databases."""
    database = folder / DATABASE
    if not database.exists():
        raise CannotStart(f"there is no database in the folder {folder}")
    _check_room(folder, partial)
    _copy_relay(folder, partial / DATABASE, shown)
    names = [DATABASE]
    if (folder / BRIDGE_DATABASE).exists():
        names.append(BRIDGE_DATABASE)
        _copy_small(folder / BRIDGE_DATABASE, partial / BRIDGE_DATABASE)
    if with_keys:
        for name in (KEY, BRIDGE_SEED):
            if (folder / name).exists():
                with private_file(partial / name) as file:
                    file.write((folder / name).read_bytes())
    return names


def _check_room(folder: Path, partial: Path) -> None:
    wanted = sum(path.stat().st_size for path in folder.glob("*.sqlite3*") if "search" not in path.name)
    free = shutil.disk_usage(partial).free
    if free < wanted + _LEAVE_FREE_BYTES:
        raise CannotStart(
            f"too little room for a backup: it may take {wanted / 2**20:,.0f} MiB, "
            f"and {free / 2**20:,.0f} are free"
        )


def _copy_relay(folder: Path, target: Path, shown: Steps) -> None:
    # Imported here: the rest needs no store.
    from relay import app
    from relay.store.link import LinkedStore
    from relay.store.sqlite.copying import copy_database
    from relay.store.sqlite.schema import check_is_ours, connect

    def on_progress(done: int, pages: int) -> None:
        shown.show("copying", done, pages)

    async def through_writer() -> None:
        store = await LinkedStore.connect(folder / DATABASE, folder / WRITER_SOCKET)
        try:
            await store.copy(target, on_progress)
        finally:
            await store.close()

    try:
        with app.locked(folder), closing(connect(folder / DATABASE, cache_mib=16)) as connection:
            check_is_ours(connection, folder / DATABASE)
            copy_database(connection, target, on_progress, rest=0)
    except CannotStart:
        if not (folder / WRITER_SOCKET).exists():
            raise
        # The relay holds the folder: only its writer can copy what it changes meanwhile.
        asyncio.run(through_writer())


def _copy_small(source: Path, target: Path) -> None:
    """Copy a database that another program writes, in one step."""
    private_file(target).close()
    with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)


def _described(partial: Path, databases: list[str], shown: Steps, compressed: bool) -> Manifest:
    """Write the manifest; compress what is to be compressed before."""
    from relay.store.sqlite.audit import contents_of

    held = contents_of(partial / DATABASE, lambda events: shown.show("reading", events, None))
    unpacked = {name: (partial / name).stat().st_size for name in databases}
    if compressed:
        for name in databases:
            with shown.counting("compressing", unpacked[name]) as advance:
                compress(partial / name, partial / (name + COMPRESSED), advance)
            (partial / name).unlink()
    files = {}
    for path in sorted(partial.iterdir()):
        with shown.counting("hashing", path.stat().st_size) as advance:
            files[path.name] = measure(path, unpacked.get(path.name.removesuffix(COMPRESSED)), advance)
            _settle(path)
    manifest = Manifest(
        made_at=int(time.time()),
        torv=__version__,
        migrations=tuple(held.migrations),
        head=held.head,
        events=held.events,
        fingerprint=fingerprint(held.total, held.events),
        counts=held.counts,
        files=files,
    )
    manifest.write(partial)
    return read_manifest(partial)


def _settle(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
