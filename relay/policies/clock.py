"""How far an event's created_at may lie from the relay's clock: for all kinds, and for some."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds, Origin, Rule
from relay.lists import chosen
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

    rules: list[Rule | OfKinds[Rule]] = [refuse_wrong_time]
    window = config.policies.window
    ahead_of, age_of = chosen(window.max_seconds_in_future, int), chosen(window.max_age_seconds, int)

    def refuse_wrong_time_of_kind(event: Event, origin: Origin, now: int) -> Refusal | None:
        ahead, age = ahead_of(event.kind), age_of(event.kind)
        if ahead is not None and event.created_at > now + ahead:
            return invalid(f"created_at of kind {event.kind} is more than {ahead} seconds in the future")
        if age is not None and event.created_at < now - age and not origin.exempt:
            return invalid(f"created_at of kind {event.kind} is more than {age} seconds ago")
        return None

    if window.max_seconds_in_future or window.max_age_seconds:
        rules.append(
            OfKinds(
                lambda kind: ahead_of(kind) is not None or age_of(kind) is not None, refuse_wrong_time_of_kind
            )
        )
    limitation = {"created_at_upper_limit": ahead}
    if age is not None:
        limitation["created_at_lower_limit"] = age
    return Feature(title="Window of created_at", before_signature=tuple(rules), limitation=limitation)
