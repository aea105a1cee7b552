"""The stores that the conformance table and the differential test run on."""

from collections.abc import AsyncIterator

import pytest

from relay.store.api import Store
from relay.store.memory import MemoryStore


@pytest.fixture(params=["memory"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    """An empty store of each kind in turn."""
    opened = MemoryStore()
    yield opened
    await opened.close()
