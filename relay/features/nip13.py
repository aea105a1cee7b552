"""NIP-13: events carry proof of work, where the operator asks for it."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Origin, Rule
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.reasons import Refusal
from relay.nostr.work import refuse_difficulty


def too_little_work(least: int) -> Rule:
    """Return the rule that refuses events with less than `least` bits of work."""

    def refuse_too_little_work(event: Event, origin: Origin, now: int) -> Refusal | None:
        # NIP-62 wants requests to vanish served whatever else a relay demands.
        if event.kind == kinds.VANISH or origin.exempt:
            return None
        return refuse_difficulty(event.id, event.tags, least)

    return refuse_too_little_work


def feature(config: RelayConfig, context: Context) -> Feature:
    least = config.limits.min_pow_difficulty
    return Feature(
        title="Proof of work",
        nip=13,
        # The id is not yet known to be right; a wrong one is found by the next check, for one hash.
        before_signature=(too_little_work(least),) if least else (),
        # "restricted_writes: … including payment_required and min_pow_difficulty" (NIP-11)
        limitation={"min_pow_difficulty": least} | ({"restricted_writes": True} if least else {}),
    )
