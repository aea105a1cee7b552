"""The stores that the conformance table and the differential test run on, by name."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from relay.store.api import Store
from relay.store.memory import MemoryStore


@asynccontextmanager
async def memory(folder: Path) -> AsyncIterator[Store]:
    """Open a new store in memory."""
    store = MemoryStore()
    try:
        yield store
    finally:
        await store.close()


BACKENDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Store]]] = {"memory": memory}
