"""NIP-40: expiration timestamps. Expired events are refused on arrival and never shown again."""

from dataclasses import replace

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Origin
from relay.nostr.event import Event
from relay.nostr.reasons import Refusal, invalid
from relay.nostr.tags import first_value, seconds
from relay.store.api import Write


def expires_at(event: Event) -> int | None:
    """Return the unix time from which the event counts as gone; None when it names none that is readable."""
    text = first_value(event.tags, "expiration")
    return None if text is None else seconds(text)


def has_expired(event: Event, now: int) -> bool:
    """Say whether the event's time is over."""
    at = expires_at(event)
    return at is not None and at <= now


def refuse_expired(event: Event, origin: Origin, now: int) -> Refusal | None:
    """Refuse an event whose time is over."""
    return invalid("the event has expired") if has_expired(event, now) else None


def set_expiry(write: Write) -> Write:
    """Let the store forget the event at its time."""
    at = expires_at(write.event)
    return write if at is None else replace(write, expires_at=at)


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(
        title="Expiration timestamp",
        nip=40,
        before_signature=(refuse_expired,),
        effects=(set_expiry,),
        lapses=(has_expired,),
    )
