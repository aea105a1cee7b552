"""NIP-17: private messages travel in gift wraps only; bare ones are refused.

A seal (kind 13) outside of its wrap tells who writes to somebody and when, and a message (14, 15) is
never to be signed: whoever sends one bare has a mistake in the client, and its user is told.
"""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds, Origin
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.reasons import Prefix, Refusal

_WRAPPED = frozenset({kinds.SEAL, kinds.CHAT_MESSAGE, kinds.FILE_MESSAGE})


def refuse_unwrapped(event: Event, origin: Origin, now: int) -> Refusal:
    """Refuse what may only travel inside a gift wrap."""
    return Refusal(Prefix.BLOCKED, f"kind {event.kind} is private; send it in a gift wrap (kind 1059)")


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(
        title="Private direct messages",
        nip=17,
        before_signature=(OfKinds(_WRAPPED.__contains__, refuse_unwrapped),),
    )
