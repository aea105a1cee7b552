"""NIP-01: replaceable and addressable events compete for an address; parsing and REQ are core."""

from dataclasses import replace

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds
from relay.nostr import kinds
from relay.store.api import Write


def set_address(write: Write) -> Write:
    """Let the event replace the older holder of its address."""
    return replace(write, address=write.event.address)


def feature(config: RelayConfig, context: Context) -> Feature:
    limits = config.limits
    return Feature(
        title="Basic protocol flow",
        nip=1,
        effects=(OfKinds(kinds.is_replaceable, set_address),),
        limitation={
            "max_message_length": limits.max_message_bytes,
            "max_subscriptions": limits.max_subscriptions,
            "max_limit": limits.max_limit,
            "default_limit": limits.max_limit,
            "max_subid_length": 64,
        },
    )
