"""What the relay does, one file per NIP; `supported_nips` is derived from this list."""

from collections.abc import Callable, Sequence

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature
from relay.features import (
    nip01,
    nip04,
    nip05,
    nip09,
    nip11,
    nip13,
    nip17,
    nip29,
    nip40,
    nip42,
    nip43,
    nip45,
    nip50,
    nip56,
    nip59,
    nip62,
    nip65,
    nip66,
    nip67,
    nip70,
    nip77,
    nip86,
    nip88,
)

ALL: tuple[Callable[[RelayConfig, Context], Feature], ...] = (
    nip01.feature,
    nip04.feature,
    nip05.feature,
    nip09.feature,
    nip13.feature,
    nip17.feature,
    nip29.feature,
    nip40.feature,
    nip42.feature,
    nip43.feature,
    nip45.feature,
    nip50.feature,
    nip56.feature,
    nip59.feature,
    nip62.feature,
    nip65.feature,
    nip67.feature,
    nip70.feature,
    nip77.feature,
    nip86.feature,
    nip88.feature,
)
"""In the order in which their rules and effects apply."""


def enabled(config: RelayConfig, context: Context, policies: Sequence[Feature]) -> tuple[Feature, ...]:
    """Return the features of a relay with these settings: the operator's policies first, NIP-11 last."""
    features = (
        *policies,
        *(feature(config, context) for feature in ALL),
        nip66.feature(config, context, lambda: everything),
    )
    everything = (*features, nip11.feature(config, context, features))
    return everything
