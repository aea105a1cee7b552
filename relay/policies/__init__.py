"""The operator's choices that have no NIP number, one file each."""

from collections.abc import Callable

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature
from relay.policies import clock, shape

ALL: tuple[Callable[[RelayConfig, Context], Feature], ...] = (shape.feature, clock.feature)
"""In the order in which their rules apply."""


def enabled(config: RelayConfig, context: Context) -> tuple[Feature, ...]:
    """Return the policies of a relay with these settings."""
    return tuple(feature(config, context) for feature in ALL)
