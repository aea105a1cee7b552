"""Proof of work by kind (NIP-13)."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds, Origin, Rule
from relay.lists import chosen
from relay.nostr.event import Event
from relay.nostr.reasons import Refusal
from relay.nostr.work import refuse_difficulty
from relay.policies.standing import FROM_ANYBODY


def feature(config: RelayConfig, context: Context) -> Feature:
    entries = config.policies.work.least
    least_of = chosen(entries, int)

    def refuse_too_little_work(event: Event, origin: Origin, now: int) -> Refusal | None:
        least = least_of(event.kind)
        return None if not least or origin.exempt else refuse_difficulty(event.id, event.tags, least)

    rule: OfKinds[Rule] = OfKinds(
        lambda kind: kind not in FROM_ANYBODY and bool(least_of(kind)), refuse_too_little_work
    )
    return Feature(
        title="Proof of work by kind",
        before_signature=(rule,) if entries else (),
        limitation={"restricted_writes": True} if entries else {},
    )
