"""How far an event's created_at may lie from the relay's clock."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Origin
from relay.nostr.event import Event
from relay.nostr.reasons import Refusal, invalid


def feature(config: RelayConfig, context: Context) -> Feature:
    ahead, age = config.limits.max_seconds_in_future, config.limits.max_age_seconds

    def refuse_wrong_time(event: Event, origin: Origin, now: int) -> Refusal | None:
        """Refuse what comes from too far in the future, or is too old; our own bridge may be late."""
        if event.created_at > now + ahead:
            return invalid(f"created_at is more than {ahead} seconds in the future")
        if age is not None and event.created_at < now - age and not origin.exempt:
            return invalid(f"created_at is more than {age} seconds ago")
        return None

    limitation = {"created_at_upper_limit": ahead}
    if age is not None:
        limitation["created_at_lower_limit"] = age
    return Feature(title="Window of created_at", before_signature=(refuse_wrong_time,), limitation=limitation)
