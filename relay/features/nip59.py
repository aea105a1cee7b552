"""NIP-59: gift wraps (kind 1059, ephemeral 21059) are shown to their receivers only.

NIP-17 messages travel in them: who gets how many is private too, so COUNT is veiled as REQ is.
"""

from dataclasses import replace

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Origin, VeilRule
from relay.nostr import kinds
from relay.nostr.event import Event, PubKey
from relay.nostr.tags import HEX_64, values
from relay.store.api import Write

_WRAPS = frozenset({kinds.GIFT_WRAP, kinds.EPHEMERAL_GIFT_WRAP})


def is_receiver(event: Event, origin: Origin) -> bool:
    """Say whether the reader authenticated as a `p`-tagged receiver."""
    return not origin.authenticated.isdisjoint(values(event.tags, "p"))


def give_to_receivers(write: Write) -> Write:
    """Let the receivers delete a wrap: its author's key was made for it alone and is thrown away."""
    event = write.event
    if event.kind != kinds.GIFT_WRAP:
        return write
    receivers = (PubKey(value) for value in values(event.tags, "p") if HEX_64(value))
    return replace(write, owners=tuple(dict.fromkeys((event.pubkey, *receivers))))


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(
        title="Gift wrap",
        nip=59,
        veils=(VeilRule(_WRAPS, is_receiver),),
        effects=(give_to_receivers,),
    )
