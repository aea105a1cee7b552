"""Fixtures every test may ask for."""

import pytest
from hypothesis import HealthCheck, settings

from tests.events import Clock

pytest_plugins = ["tests.serving"]

# How long an example takes depends on what else this machine does.
settings.register_profile("torv", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("torv")


@pytest.fixture
def clock() -> Clock:
    """A clock that stands at `tests.events.NOW` until the test turns it."""
    return Clock()
