"""An empty store of each kind in turn."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay.store.api import Store
from tests.store.backends import BACKENDS
from tests.store.writers import Writers


@pytest.fixture(scope="session")
def writers() -> Iterator[Writers]:
    """Who starts writer processes."""
    started = Writers()
    yield started
    started.close()


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path, writers: Writers) -> AsyncIterator[Store]:
    """An empty store."""
    async with BACKENDS[request.param](tmp_path, writers) as opened:
        yield opened
