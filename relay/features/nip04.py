"""NIP-04: encrypted direct messages (kind 4) are shown to their author and their receivers only."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Origin, VeilRule
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.tags import values


def is_party(event: Event, origin: Origin) -> bool:
    """Say whether the reader authenticated as the author or as a `p`-tagged receiver."""
    return event.pubkey in origin.authenticated or not origin.authenticated.isdisjoint(
        values(event.tags, "p")
    )


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(
        title="Encrypted direct messages",
        nip=4,
        veils=(VeilRule(frozenset({kinds.DIRECT_MESSAGE}), is_party),),
    )
