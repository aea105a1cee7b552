"""A store, its index and who searches in it, all real, in one process."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

from relay.assembly import relay_features, tables_of
from relay.config import RelayConfig
from relay.nostr.event import Event
from relay.nostr.filter import parse_filter
from relay.search.finding import IndexReader
from relay.search.index_file import IndexFile
from relay.search.indexer import Indexer
from relay.search.searcher import Searcher
from relay.store.api import Removal, Veil
from relay.store.sqlite import SqliteStore
from relay.store.sqlite.reader import SqliteReader
from tests.events import BOB, Clock, author, event, write

SEARCHED = frozenset({0, 1, 11, 1068, 30_023, 39_000})


class Library:
    """What was published, and what is found of it."""

    def __init__(self, folder: Path, store: SqliteStore, clock: Clock) -> None:
        self.folder = folder
        self.store = store
        self.clock = clock
        self.database = folder / "torv.sqlite3"
        self.path = folder / "torv-search.sqlite3"
        self.searcher = Searcher(IndexReader(self.path), searched=SEARCHED)
        self._seconds = count()
        self._removals = count()
        self.open()

    def open(self) -> None:
        """Start the indexer, again after `close`."""
        self.log = SqliteReader(self.database)
        self.index = IndexFile(self.path, source=self.log.key, kinds=SEARCHED)
        self.indexer = Indexer(
            self.log,
            self.index,
            searched=SEARCHED,
            now=self.clock,
            monotonic=lambda: float(next(self._seconds)),
        )

    def close(self) -> None:
        """Stop the indexer."""
        self.index.close()
        self.log.close()

    def catch_up(self) -> None:
        """Index all there is."""
        while self.indexer.step():
            pass

    async def keep(self, *events: Event, **more: Any) -> None:
        """Store events without indexing them; `more` are fields of their Write."""
        await self.store.write([write(one, **more) for one in events])

    async def publish(self, *events: Event, **more: Any) -> None:
        """Store and index events."""
        await self.keep(*events, **more)
        self.catch_up()

    async def remove(self, *removals: Removal, kind: int = 20_000) -> None:
        """Remove events by an event that the log shows under this kind."""
        by = event(BOB, kind, f"removal {next(self._removals)}")
        await self.store.write([write(by, removals=removals)])

    async def found(self, search: str, veil: Veil | None = None, **wanted: object) -> list[Event]:
        """Return what a filter with this search finds, in order."""
        asked = parse_filter({"limit": 100, **wanted, "search": search})
        upto = await self.store.head()
        pages: list[Event] = []
        async for page in self.searcher.stored(self.store, asked, upto=upto, now=self.clock(), veil=veil):
            pages += [row.event() for row in page]
        return pages

    async def find(self, search: str, **wanted: object) -> list[str]:
        """Return the contents of what is found."""
        return contents(await self.found(search, None, **wanted))


def contents(events: Sequence[Event]) -> list[str]:
    return [one.content for one in events]


@asynccontextmanager
async def opened(folder: Path, clock: Clock) -> AsyncIterator[Library]:
    """Open an empty library."""
    tables = tables_of(relay_features(RelayConfig(), author("the relay itself")))
    store = await SqliteStore.open(folder / "torv.sqlite3", tables=tables, now=clock)
    try:
        library = Library(folder, store, clock)
        try:
            yield library
        finally:
            library.searcher.close()
            library.close()
    finally:
        await store.close()
