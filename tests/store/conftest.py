"""An empty store of each kind in turn."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.store.api import Store
from tests.store.backends import BACKENDS


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store."""
    async with BACKENDS[request.param](tmp_path) as opened:
        yield opened
