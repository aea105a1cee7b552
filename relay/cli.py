"""`torv relay …`: commands for who runs the relay. Progress goes to standard error, results to output."""

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import quote

import click

from relay.assembly import CannotRead
from relay.config import RelayConfig
from relay.engine.admission import Admission
from relay.net.workers import CannotStart
from relay.nostr import kinds, nip19, polls
from relay.nostr.filter import Filter
from relay.nostr.tags import HEX_64
from relay.settings import Loader, config_option
from relay.store.api import Store, StoreError
from relay.transfer.exporting import export_events, output
from relay.transfer.importing import Importer
from relay.transfer.progress import Meter, meter
from relay.transfer.report import Mark, Marks, Report
from relay.transfer.source import STANDARD_INPUT, Chunk, Source, Unreadable
from relay.transfer.verification import VerifierLost, verifiers

MARKS = "imports.json"
_MARK_SECONDS = 1.0

data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="The folder of databases [default: data]."
)


class Configuration(Protocol):
    """What these commands need of the whole configuration."""

    @property
    def data(self) -> Path: ...

    @property
    def relay(self) -> RelayConfig: ...


def _load(context: click.Context, config: Path | None, data: Path | None) -> Configuration:
    loader: Loader[Configuration] = context.obj
    return loader(config, {"data": data})


@click.group()
def relay() -> None:
    """Look after the relay's events."""


@relay.command("import")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@config_option
@data_option
@click.option("--rejects", type=click.Path(path_type=Path), help="Write the rejected lines to this file.")
@click.pass_context
def import_(
    context: click.Context,
    files: tuple[Path, ...],
    config: Path | None,
    data: Path | None,
    rejects: Path | None,
) -> None:
    """Store the events of FILES: JSON lines, plain or compressed with gzip or zstd; - is standard input.

    Every id and signature is verified. Events that are there already do no harm. An import that was
    broken off goes on where it stopped when it is started again with the same files. The relay may be
    running meanwhile; its subscribers are not sent what is imported.

    Ends with status 1 if a line was rejected, or the import did not come to its end.
    """
    if not files and sys.stdin.isatty():
        raise click.UsageError("name files to import, or pipe events to standard input")
    loaded = _load(context, config, data)
    report = Report()
    try:
        finished = asyncio.run(_import(loaded, files or (STANDARD_INPUT,), rejects, report))
    except (StoreError, VerifierLost, Unreadable, CannotStart, CannotRead) as error:
        click.echo(f"error: {error}", err=True)
        finished = False
    for line in report.lines():
        click.echo(line)
    if not finished:
        click.echo("stopped before the end; with the same files, it will go on from here", err=True)
    sys.exit(0 if finished and not report.rejects else 1)


async def _import(config: Configuration, files: Sequence[Path], rejects: Path | None, total: Report) -> bool:
    """Import the files one after the other; return whether all were read to their ends."""
    # What is there now stays, and events are many objects without cycles: look for some rarely.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    stop = asyncio.Event()
    max_line_bytes = config.relay.limits.max_message_bytes
    async with _opened(config, make=True) as (store, admission), verifiers(os.cpu_count() or 1) as processes:
        _stop_on_signals(stop)
        importer = Importer(
            store,
            admission,
            processes,
            max_line_bytes=max_line_bytes,
            now=lambda: int(time.time()),
            stop=stop,
        )
        marks = Marks(config.data / MARKS)
        keys: list[str] = []
        for path in files:
            with ExitStack() as opened:
                source = opened.enter_context(Source(path, max_line_bytes=max_line_bytes))
                mark = marks.get(source.key, head=await store.head()) if source.key else None
                bad_lines = opened.enter_context(_bad_lines(rejects, fresh=not keys and mark is None))
                shown = opened.enter_context(meter(Path(source.name).name, source.size))
                report = Report()
                if mark is not None:
                    report = mark.report
                    await asyncio.to_thread(source.skip, end=mark.end, line=mark.line)
                following = _Following(source, report, store, marks, shown)
                try:
                    finished = await importer.run(source, report, on_done=following.done, rejects=bad_lines)
                finally:
                    await following.save()
                    total.include(report)
                if not finished:
                    return False
                if source.key is not None:
                    keys.append(source.key)
        # Only now: who starts anew after a stop in a later file skips the ones that are done.
        marks.forget(keys)
        return True


class _Following:
    """Follows an import: shows how far it is, and notes it for a later start."""

    def __init__(self, source: Source, report: Report, store: Store, marks: Marks, shown: Meter) -> None:
        self._source = source
        self._report = report
        self._store = store
        self._marks = marks
        self._shown = shown
        self._last: Chunk | None = None
        self._saved = time.monotonic()

    async def done(self, chunk: Chunk) -> None:
        """Take note of a chunk that is durable."""
        self._last = chunk
        self._shown.show(self._report.events, chunk.position)
        if time.monotonic() - self._saved >= _MARK_SECONDS:
            await self.save()

    async def save(self) -> None:
        """Write the mark."""
        self._saved = time.monotonic()
        if self._last is None or self._source.key is None:
            return
        line = self._last.first + len(self._last.lines)
        mark = Mark(self._last.end, line, self._report)
        self._marks.set(self._source.key, mark, head=await self._store.head())


@contextmanager
def _bad_lines(path: Path | None, *, fresh: bool) -> Iterator[BinaryIO | None]:
    if path is None:
        yield None
        return
    with path.open("wb" if fresh else "ab") as file:
        yield file


@relay.command("export")
@config_option
@data_option
@click.option(
    "--output",
    "-o",
    "path",
    type=click.Path(path_type=Path),
    help="Write to this file, compressed if its name ends in .gz or .zst [default: standard output].",
)
@click.pass_context
def export(context: click.Context, config: Path | None, data: Path | None, path: Path | None) -> None:
    """Write every stored event as a JSON line in canonical form, oldest first.

    That is all a relay holds, also what it shows only to some readers. Equal stores give equal files.
    The relay may be running meanwhile.
    """
    loaded = _load(context, config, data)
    try:
        count = asyncio.run(_export(loaded, path))
    except (StoreError, CannotStart, CannotRead) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{count:,} events exported", err=True)


async def _export(config: Configuration, path: Path | None) -> int:
    async with _opened(config, make=False) as (store, _):
        with output(path) as file, meter("export", None) as shown:
            return await export_events(store, file.write, now=int(time.time()), on_page=shown.show)


@relay.command("audit-poll")
@click.argument("poll")
@click.option(
    "--relay", "url", required=True, help="The relay whose signed tally is audited: ws:// or wss://."
)
@click.option("--votes", "source", help="Count the votes that this relay has [default: the same one's].")
def audit_poll(poll: str, url: str, source: str | None) -> None:
    """Count the votes of POLL anew, and compare them with the tally that a relay signed at its end.

    POLL is 64 hex digits, note1… or nevent1…. Ends with status 1 where the two differ.
    """
    from relay.client import RelayFailure

    try:
        differences = asyncio.run(_audit_poll(_event_id(poll), url, source or url))
    except (RelayFailure, ValueError) as error:
        raise click.ClickException(str(error)) from error
    for difference in differences or ["the tally agrees with the votes"]:
        click.echo(difference)
    sys.exit(1 if differences else 0)


def _event_id(text: str) -> str:
    if HEX_64(text):
        return text
    try:
        entity = nip19.decode(text)
    except nip19.InvalidEntity as error:
        raise click.BadParameter(str(error), param_hint="POLL") from error
    if not isinstance(entity, nip19.Note | nip19.Nevent):
        raise click.BadParameter("this names no event", param_hint="POLL")
    return entity.id


async def _audit_poll(id_: str, url: str, source: str) -> list[str]:
    from relay.client import RelayClient

    async with RelayClient(url) as client:
        polls_found = await client.fetch([Filter(ids=frozenset([id_]), kinds=frozenset([kinds.POLL]))])
        wanted = Filter(kinds=frozenset([kinds.TALLY]), tags={"d": frozenset([id_])})
        tallies = await client.fetch([wanted])
    if not polls_found or not tallies:
        missing = "tally of that poll" if polls_found else "such poll"
        raise click.ClickException(f"{url} has no {missing}")
    if len({tally.pubkey for tally in tallies}) > 1:
        click.echo(f"several keys signed tallies; this is {tallies[0].pubkey}'s", err=True)
    # Only votes that may count; and of these all, whatever the relay sends at a time.
    poll = polls.parse_poll(polls_found[0])
    cast = Filter(kinds=frozenset([kinds.VOTE]), tags={"e": frozenset([id_])}, until=poll.ends_at)
    async with RelayClient(source) as client:
        votes = [vote async for vote in client.page_back(cast)]
    return polls.audit(poll, votes, tallies[0])


@asynccontextmanager
async def _opened(config: Configuration, *, make: bool) -> AsyncIterator[tuple[Store, Admission]]:
    """Open the relay's store: through its writer if the relay is running, else for ourselves.

    `make` says whether a store that is not there is made. Raises CannotStart, StoreError.
    """
    # Imported here, for `torv --help` needs none of it and would wait for it.
    from relay import app, assembly
    from relay.store import open_store
    from relay.store.link import LinkedStore

    database, socket = config.data / assembly.DATABASE, config.data / assembly.WRITER_SOCKET
    if not make and not database.exists():
        raise CannotStart(f"there is no database in the folder {config.data}")
    with ExitStack() as held:
        config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        features = assembly.relay_features(config.relay, assembly.read_key(config.data / assembly.KEY))
        try:
            held.enter_context(app.locked(config.data))
        except CannotStart:
            if not socket.exists():
                raise
            # The relay holds the folder, and writes for others.
            store: Store = await LinkedStore.connect(database, socket)
        else:
            store = await open_store(
                f"sqlite:///{quote(str(database.resolve()))}", assembly.tables_of(features)
            )
        try:
            yield store, Admission(features)
        finally:
            await store.close()


def _stop_on_signals(stop: asyncio.Event) -> None:
    """Let the first Ctrl-C or SIGTERM finish what was begun; the next one ends the program."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
