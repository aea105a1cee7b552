"""The operator's choices that have no NIP number, one file each."""

from collections.abc import Callable

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature
from relay.policies import (
    budget,
    clock,
    lists,
    names,
    rates,
    read_plugin,
    reading,
    retention,
    shape,
    trust,
    work,
    write_plugin,
)

ALL: tuple[Callable[[RelayConfig, Context], Feature], ...] = (
    lists.feature,
    shape.feature,
    clock.feature,
    retention.feature,
    work.feature,
    reading.feature,
    trust.feature,
    rates.feature,
    budget.feature,
    names.feature,
    write_plugin.feature,
    read_plugin.feature,
)
"""In the order in which their rules apply: what costs little first, and what counts last."""


def enabled(config: RelayConfig, context: Context) -> tuple[Feature, ...]:
    """Return the policies of a relay with these settings."""
    return tuple(feature(config, context) for feature in ALL)
