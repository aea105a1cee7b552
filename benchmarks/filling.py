"""A database that grows by unsigned events, written through the store itself.

Signatures are the relay's affair, not the store's: nothing here verifies, and what is found in such a
database is what the store would find among signed events. Filling it is also how the store's own cost
is measured.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter, process_time, thread_time
from typing import BinaryIO

from benchmarks import filler
from benchmarks.questions import Subjects
from benchmarks.server import DATABASE, fresh_data
from relay.nostr.event import decode
from relay.nostr.tags import Address
from relay.store.api import Outcome, Write
from relay.store.sqlite import SqliteStore

PER_COMMIT = 500
"""About what sixty-four busy connections give the writer at a time."""
_SAMPLED = 16
"""Of so many events one may become the subject of a question."""


@dataclass(frozen=True)
class Cost:
    """What a stretch of filling cost."""

    events: int
    seconds: float
    store_cpu_seconds: float
    """Of the store's own threads: its writer and its checkpoints."""


class Filling:
    """One growing database. The store is open only while it grows."""

    def __init__(self, data: Path, events: BinaryIO) -> None:
        """`events` as from `filler.streamed`."""
        self.data = data
        self.size = 0
        """Events written; superseded ones among them count."""
        self._events = events
        self._notes: list[str] = []
        self._parents: list[str] = []
        self._versions = 0
        self._addresses: set[Address] = set()

    @property
    def stored(self) -> int:
        """Events that are stored now: of each address one."""
        return self.size - self._versions + len(self._addresses)

    @property
    def subjects(self) -> Subjects:
        """What can be asked about."""
        newest = filler.FIRST + self.size * filler.EVERY_SECONDS
        return Subjects(tuple(self._notes), tuple(self._parents), filler.FIRST, newest)

    @property
    def database_bytes(self) -> int:
        """The size of the database's file; its log is copied into it when the store is closed."""
        return (self.data / DATABASE).stat().st_size

    def grow(self, size: int, on_progress: Callable[[int], None]) -> Cost:
        """Write until there are `size` events, then close the store; `on_progress` is told the size."""
        self.data.mkdir(exist_ok=True)
        return asyncio.run(self._grow(size, on_progress))

    async def _grow(self, size: int, on_progress: Callable[[int], None]) -> Cost:
        count = size - self.size
        store = await SqliteStore.open(self.data / DATABASE)
        began, own, every = perf_counter(), thread_time(), process_time()
        writing: asyncio.Task[Sequence[object]] | None = None
        while self.size < size:
            batch = self._next_batch(min(PER_COMMIT, size - self.size))
            # The next batch is read while the last one is written.
            if writing is not None:
                self._check(await writing)
            writing = asyncio.create_task(store.write(batch))
            await asyncio.sleep(0)
            on_progress(self.size)
        if writing is not None:
            self._check(await writing)
        await store.close()
        cpu = (process_time() - every) - (thread_time() - own)
        return Cost(count, perf_counter() - began, cpu)

    def _next_batch(self, count: int) -> list[Write]:
        batch = []
        for json in islice(self._events, count):
            json = json[:-1]
            event = decode(json)
            address = event.address
            self.size += 1
            if address is not None:
                self._versions += 1
                self._addresses.add(address)
            elif event.kind == 1 and self.size % _SAMPLED == 0:
                self._notes.append(event.id)
                self._parents += [tag[1] for tag in event.tags[:1] if tag[0] == "e"]
            batch.append(Write(event, json, address=address, live=False))
        if len(batch) < count:
            raise RuntimeError("the filler ended early")
        return batch

    @staticmethod
    def _check(outcomes: Sequence[object]) -> None:
        if strange := set(outcomes) - {Outcome.STORED}:
            raise RuntimeError(f"the store answered {strange}")


@contextmanager
def filling(count: int, *, prose: bool = False) -> Iterator[Filling]:
    """Begin an empty database that can grow to `count` events; removed at the end."""
    with fresh_data() as data, filler.streamed(count, prose=prose) as events:
        yield Filling(data, events)


@contextmanager
def copied(data: Path) -> Iterator[Path]:
    """Copy a data folder that no relay uses now; the copy is removed at the end."""
    with fresh_data() as copy:
        shutil.copytree(data, copy)
        yield copy
