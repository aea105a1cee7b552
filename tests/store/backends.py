"""The stores that the conformance table and the differential test run on, by name."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from relay.store.api import Store
from relay.store.link import LinkedStore
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from tests.store.tables import TABLES
from tests.store.writers import TINY, Writers

Backend = Callable[[Path, Writers], AbstractAsyncContextManager[Store]]
"""Opens the store in a folder; the same folder again gives the same store, where it is durable."""


@asynccontextmanager
async def memory(folder: Path, writers: Writers) -> AsyncIterator[Store]:
    """Open a new store in memory."""
    store = MemoryStore(TABLES)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def sqlite(folder: Path, writers: Writers) -> AsyncIterator[Store]:
    """Open a SQLite store as it comes."""
    store = await SqliteStore.open(folder / "torv.sqlite3", tables=TABLES)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def tiny(folder: Path, writers: Writers) -> AsyncIterator[Store]:
    """Open a SQLite store whose tiers are so small that they are merged all the time."""
    store = await SqliteStore.open(folder / "torv.sqlite3", tables=TABLES, tuning=TINY)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def linked(folder: Path, writers: Writers) -> AsyncIterator[Store]:
    """Open a SQLite store that another process writes, with tiny tiers."""
    database, socket_path = folder / "torv.sqlite3", folder / "writer.sock"
    writer = writers.start(database, socket_path)
    try:
        store = await LinkedStore.connect(database, socket_path, answer_seconds=20)
        try:
            yield store
        finally:
            await store.close()
    finally:
        writers.stop(writer)


DURABLE: dict[str, Backend] = {"sqlite": sqlite, "tiny": tiny, "linked": linked}
BACKENDS: dict[str, Backend] = {"memory": memory, **DURABLE}
