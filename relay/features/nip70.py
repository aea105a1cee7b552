"""NIP-70: an event with a `-` tag is accepted only from its own authenticated author."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Origin
from relay.nostr.event import Event
from relay.nostr.reasons import Prefix, Refusal


def refuse_foreign_protected(event: Event, origin: Origin, now: int) -> Refusal | None:
    """Refuse a protected event unless the connection authenticated as its author."""
    if ("-",) not in event.tags or event.pubkey in origin.authenticated:
        return None
    if origin.authenticated:
        return Refusal(Prefix.RESTRICTED, "a protected event is accepted only from its author")
    return Refusal(Prefix.AUTH_REQUIRED, "a protected event is accepted only from its author")


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(title="Protected events", nip=70, after_signature=(refuse_foreign_protected,))
