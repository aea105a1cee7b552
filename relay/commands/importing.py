"""`torv relay import`: files of events into the store."""

import asyncio
import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import click

from relay.assembly import CannotRead
from relay.commands.opening import Configuration, data_option, load_for, opened, stop_on_signals
from relay.commands.results import ends_with, json_option, print_result
from relay.net.workers import CannotStart
from relay.settings import config_option
from relay.store.api import Store, StoreError
from relay.transfer.importing import Importer
from relay.transfer.progress import Meter, meter
from relay.transfer.report import Mark, Marks, Report
from relay.transfer.source import STANDARD_INPUT, Chunk, Source, Unreadable
from relay.transfer.verification import VerifierLost, verifiers

MARKS = "imports.json"
_MARK_SECONDS = 1.0


@ends_with("all lines were taken or left out", "a line was rejected, or the import did not come to its end")
@click.command("import")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@config_option
@data_option
@click.option("--rejects", type=click.Path(path_type=Path), help="Write the rejected lines to this file.")
@json_option
@click.pass_context
def import_(
    context: click.Context,
    files: tuple[Path, ...],
    config: Path | None,
    data: Path | None,
    rejects: Path | None,
    as_json: bool,
) -> None:
    """Store the events of FILES: JSON lines, plain or compressed with gzip or zstd; - is standard input.

    Every id and signature is verified. Events that are there already do no harm. An import that was
    broken off goes on where it stopped when it is started again with the same files. The relay may be
    running meanwhile; its subscribers are not sent what is imported.
    """
    if not files and sys.stdin.isatty():
        raise click.UsageError("name files to import, or pipe events to standard input")
    loaded = load_for(context, config, data)
    report = Report()
    try:
        finished = asyncio.run(_import(loaded, files or (STANDARD_INPUT,), rejects, report))
    except (StoreError, VerifierLost, Unreadable, CannotStart, CannotRead) as error:
        click.echo(f"error: {error}", err=True)
        finished = False
    print_result(as_json, {"finished": finished, **asdict(report)}, report.lines())
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
    async with opened(config, make=True) as (store, admission), verifiers(os.cpu_count() or 1) as processes:
        stop_on_signals(stop)
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
            with ExitStack() as files_of_one:
                source = files_of_one.enter_context(Source(path, max_line_bytes=max_line_bytes))
                mark = marks.get(source.key, head=await store.head()) if source.key else None
                bad_lines = files_of_one.enter_context(_bad_lines(rejects, fresh=not keys and mark is None))
                shown = files_of_one.enter_context(meter(Path(source.name).name, source.size))
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
