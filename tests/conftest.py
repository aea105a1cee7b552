"""Fixtures every test may ask for."""

import pytest

from tests.events import Clock

pytest_plugins = ["tests.serving"]


@pytest.fixture
def clock() -> Clock:
    """A clock that stands at `tests.events.NOW` until the test turns it."""
    return Clock()
