"""An empty library for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.events import Clock
from tests.search.library import Library, opened


@pytest.fixture
async def library(tmp_path: Path, clock: Clock) -> AsyncIterator[Library]:
    async with opened(tmp_path, clock) as made:
        yield made
