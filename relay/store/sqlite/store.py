"""The SQLite store within one process: the contract over one writer thread and a few readers."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from relay.nostr.event import EventId
from relay.nostr.filter import Filter
from relay.nostr.reasons import Refusal
from relay.store.api import Bell, Change, Outcome, Seq, Stored, StoreError, Table, Veil, Write
from relay.store.sqlite.postings import Hashes, Prepared, prepare
from relay.store.sqlite.reading import Reading
from relay.store.sqlite.writer import REMOVED_AT_ONCE, Committed, SqliteWriter, Tuning

log = logging.getLogger(__name__)

_WRITES_PER_COMMIT = 2_000
"""When so many wait, the rest goes into the next transaction: a commit is a pause for everybody."""

_Waiting = tuple[list[Prepared], "asyncio.Future[list[Outcome | Refusal]]"]


class SqliteStore:
    """A `Store` in one SQLite file, written by this process only.

    A transaction holds the batches that arrived while the last one was committed; no timer.
    """

    def __init__(self, writer: SqliteWriter, reading: Reading) -> None:
        """Take both for the same file; `open` makes them."""
        self._writer = writer
        self._reading = reading
        self._hashes = Hashes(writer.key)
        self._writing = ThreadPoolExecutor(1, "write")
        self._checkpointing = ThreadPoolExecutor(1, "checkpoint")
        self._checkpoint: asyncio.Future[None] | None = None
        self._waiting: deque[_Waiting] = deque()
        self._committing: asyncio.Task[None] | None = None
        self._on_bell: list[Callable[[Bell], None]] = []
        self._on_ephemeral: list[Callable[[Sequence[bytes]], None]] = []

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        tables: Iterable[Table] = (),
        tuning: Tuning = Tuning(),  # noqa: B008
        now: Callable[[], float] = time.time,
    ) -> "SqliteStore":
        """Open or create the database; tables are told `now`. Raises StoreTooNew, StoreError."""

        def make() -> "SqliteStore":
            writer = SqliteWriter(path, tuning, tables=tables, now=now)
            try:
                return cls(writer, Reading(path))
            except BaseException:
                writer.close()
                raise

        return await asyncio.to_thread(make)

    async def write(self, batch: Sequence[Write]) -> list[Outcome | Refusal]:
        """See `Store.write`."""
        if not batch:
            return []
        prepared = [prepare(write, self._hashes) for write in batch]
        answer: asyncio.Future[list[Outcome | Refusal]] = asyncio.get_running_loop().create_future()
        self._waiting.append((prepared, answer))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_waiting())
        return await answer

    async def _commit_waiting(self) -> None:
        """Commit until nothing waits; then move what is due of the tiers while nothing arrives."""
        loop = asyncio.get_running_loop()
        try:
            is_tidy = False
            while self._waiting or not is_tidy:
                if not self._waiting:
                    is_tidy = not await loop.run_in_executor(self._writing, self._writer.tidy)
                    continue
                is_tidy = False
                group = self._next_group()
                try:
                    batch = [prepared for writes, _ in group for prepared in writes]
                    done = await loop.run_in_executor(self._writing, self._writer.commit, batch)
                except StoreError as error:
                    for _, answer in group:
                        if not answer.done():
                            answer.set_exception(StoreError(str(error)))
                    continue
                await self._remove_all()
                self._answer(group, done)
                self._begin_checkpoint()
        finally:
            self._committing = None

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        writes = 0
        while self._waiting and (not group or writes + len(self._waiting[0][0]) <= _WRITES_PER_COMMIT):
            group.append(self._waiting.popleft())
            writes += len(group[-1][0])
        return group

    def _answer(self, group: Sequence[_Waiting], done: Committed) -> None:
        start = 0
        for writes, answer in group:
            # Whoever asked may have been cancelled meanwhile.
            if not answer.done():
                answer.set_result(done.outcomes[start : start + len(writes)])
            start += len(writes)
        self._ring(done)

    def _ring(self, done: Committed) -> None:
        if done.upto > done.after:
            rows = tuple(map(Stored._make, done.rows))
            for ring in self._on_bell:
                ring(Bell(done.after, done.upto, rows))

    async def _remove_all(self) -> None:
        """Remove what those own who took leave."""
        loop = asyncio.get_running_loop()
        while self._writer.is_removing:
            await loop.run_in_executor(self._writing, self._writer.remove_slice)

    async def command(self, table: str, payload: bytes) -> bytes | Refusal:
        """See `Store.command`."""
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(self._writing, self._writer.command, table, payload)
        self._ring(done)
        return done.answer

    @property
    def version(self) -> int:
        """See `Store.version`."""
        return self._writer.version

    def changes(self, table: str, *, after: int, limit: int = 1_000) -> list[Change]:
        """See `Store.changes`."""
        return self._reading.changes(table, after=after, limit=limit)

    def record(self, table: str, key: str) -> bytes | None:
        """See `Store.record`."""
        return self._reading.record(table, key)

    def records(
        self, table: str, prefix: str, *, after: str = "", limit: int = 1_000
    ) -> list[tuple[str, bytes]]:
        """See `Store.records`."""
        return self._reading.records(table, prefix, after=after, limit=limit)

    def _begin_checkpoint(self) -> None:
        if self._checkpoint is None and self._writer.checkpoint_due():
            loop = asyncio.get_running_loop()
            self._checkpoint = loop.run_in_executor(self._checkpointing, self._writer.checkpoint)
            self._checkpoint.add_done_callback(self._end_checkpoint)

    def _end_checkpoint(self, done: "asyncio.Future[None]") -> None:
        self._checkpoint = None
        if (error := done.exception()) is not None:
            # The log grows meanwhile; the next commit asks for a checkpoint again.
            log.error("a checkpoint failed: %s", error)

    async def known(self, ids: Sequence[EventId]) -> set[EventId]:
        """See `Store.known`."""
        return await self._reading.known(ids)

    def scan(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        """See `Store.scan`."""
        return self._reading.scan(wanted, upto=upto, now=now, veil=veil)

    def at_once(
        self, wanted: Filter, *, now: int, veil: Veil | None = None
    ) -> tuple[Seq, list[Stored]] | None:
        """See `Store.at_once`."""
        return self._reading.at_once(wanted, now=now, veil=veil)

    async def count(self, wanted: Sequence[Filter], *, upto: Seq, now: int, veil: Veil | None = None) -> int:
        """See `Store.count`."""
        return await self._reading.count(wanted, upto=upto, now=now, veil=veil)

    def items(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[tuple[int, bytes]]]:
        """See `Store.items`."""
        return self._reading.items(wanted, upto=upto, now=now, veil=veil)

    async def head(self) -> Seq:
        """See `Store.head`."""
        return self._writer.head

    def log(self, *, after: Seq, upto: Seq, now: int) -> AsyncIterator[list[Stored]]:
        """See `Store.log`."""
        return self._reading.log(after=after, upto=upto, now=now)

    def dump(self, *, upto: Seq, now: int) -> AsyncIterator[list[bytes]]:
        """See `Store.dump`."""
        return self._reading.dump(upto=upto, now=now)

    def listen(self, on_bell: Callable[[Bell], None]) -> None:
        """See `Store.listen`."""
        self._on_bell.append(on_bell)

    def follow(self, wanted: bool) -> None:
        """See `Store.follow`: here a bell costs nothing."""

    async def announce(self, rows: Sequence[bytes]) -> None:
        """See `Store.announce`."""
        for hear in self._on_ephemeral:
            hear(rows)

    def listen_ephemeral(self, on_events: Callable[[Sequence[bytes]], None]) -> None:
        """See `Store.listen_ephemeral`."""
        self._on_ephemeral.append(on_events)

    async def sweep(self, now: int) -> int:
        """See `Store.sweep`."""
        loop = asyncio.get_running_loop()
        removed = 0
        while some := await loop.run_in_executor(self._writing, self._writer.sweep, now):
            removed += some
        return removed

    async def remove(self, ids: Sequence[EventId], *, barred: bool = False) -> int:
        """See `Store.remove`."""
        loop = asyncio.get_running_loop()
        removed = 0
        for start in range(0, len(ids), REMOVED_AT_ONCE):
            some = ids[start : start + REMOVED_AT_ONCE]
            removed += await loop.run_in_executor(self._writing, self._writer.remove, some, barred)
        while removed and await loop.run_in_executor(self._writing, self._writer.tidy):
            pass
        return removed

    async def close(self) -> None:
        """See `Store.close`."""
        if self._committing is not None:
            await self._committing
        if self._checkpoint is not None:
            await asyncio.wait([self._checkpoint])
        await self._reading.close()
        await asyncio.get_running_loop().run_in_executor(self._writing, self._writer.close)
        await asyncio.to_thread(self._writing.shutdown)
        await asyncio.to_thread(self._checkpointing.shutdown)
