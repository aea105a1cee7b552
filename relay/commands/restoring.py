"""`torv relay restore`: a backup into a relay's folder, all of it or nothing."""

import os
from pathlib import Path

import click

from relay.assembly import DATABASE, KEY
from relay.commands.opening import data_option, load_for
from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.net.workers import CannotStart
from relay.nostr.polls import fingerprint
from relay.settings import config_option
from relay.store.api import StoreError
from relay.transfer.manifest import BadBackup, Manifest, check_files, read_manifest, restored_name
from relay.transfer.progress import Steps, steps


@ends_with("the folder holds what was backed up", "the folder is as it was before")
@click.command("restore")
@click.argument("backup", type=click.Path(path_type=Path, exists=True, file_okay=False))
@config_option
@data_option
@click.option("--replace", is_flag=True, help="Move what is in the folder aside, into a folder inside it.")
@json_option
@click.pass_context
def restore(
    context: click.Context,
    backup: Path,
    config: Path | None,
    data: Path | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Put BACKUP, which `torv relay backup` made, into the folder of a relay that is stopped.

    Every file is compared with the manifest, and the fingerprint of the restored events with the one that
    was noted. What is truncated or was changed is refused; a folder that is in use, or not empty, too.
    """
    folder = load_for(context, config, data).data
    try:
        with steps() as shown:
            manifest, aside = _restore(backup, folder, replace, shown)
    except (BadBackup, CannotStart, StoreError, OSError) as error:
        raise Failed(str(error)) from error
    result = {
        "data": str(folder),
        "events": manifest.events,
        "fingerprint": manifest.fingerprint,
        "replaced": None if aside is None else str(aside),
    }
    lines = [
        f"{manifest.events:,} events restored into {folder}",
        f"fingerprint {manifest.fingerprint}, as it was noted",
    ]
    if KEY not in manifest.files:
        lines.append(f"the backup has no {KEY}: the relay keeps the one that is there, or makes a new one")
    if aside is not None:
        lines.append(f"what was there before is in {aside}")
    print_result(as_json, result, lines)


def _restore(backup: Path, folder: Path, replace: bool, shown: Steps) -> tuple[Manifest, Path | None]:
    from relay import app
    from relay.store.sqlite.audit import contents_of
    from relay.transfer.restoring import contents
    from relay.transfer.restoring import restore as put

    manifest = read_manifest(backup)
    if DATABASE not in map(restored_name, manifest.files):
        raise BadBackup(f"{backup} holds no database")
    with shown.counting("checking", sum(file.bytes for file in manifest.files.values())) as advance:
        if wrong := check_files(backup, manifest, advance):
            raise BadBackup(f"{backup}: {'; '.join(wrong)}")

    def check(staged: Path) -> None:
        held = contents_of(staged / DATABASE, lambda events: shown.show("reading", events, manifest.events))
        found = fingerprint(held.total, held.events)
        if (held.events, found, held.counts) != (manifest.events, manifest.fingerprint, manifest.counts):
            raise BadBackup(
                f"the restored database holds {held.events:,} events (fingerprint {found}), not the "
                f"{manifest.events:,} that were backed up ({manifest.fingerprint})"
            )

    was_there = folder.exists()
    with app.locked(folder):
        if not replace and (found := contents(folder)):
            raise CannotStart(
                f"{folder} is not empty (it holds {', '.join(found[:3])}{', …' * (len(found) > 3)}); "
                "--replace moves that aside"
            )
        with shown.counting(
            "restoring", sum(file.unpacked_bytes for file in manifest.files.values())
        ) as advance:
            aside = put(backup, manifest, folder, check=check, on_advance=advance)
    if not was_there:
        os.chmod(folder, 0o700)
    return manifest, aside
