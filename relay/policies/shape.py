"""How large an event may be, and how many people it may name: for all kinds, and for some."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds, Origin, Rule
from relay.lists import chosen
from relay.nostr.event import Event
from relay.nostr.reasons import Refusal, invalid
from relay.nostr.tags import values


def feature(config: RelayConfig, context: Context) -> Feature:
    max_tags, max_chars = config.limits.max_event_tags, config.limits.max_content_chars

    def refuse_too_large(event: Event, origin: Origin, now: int) -> Refusal | None:
        """Refuse an event with more tags or longer content than the relay keeps."""
        if len(event.tags) > max_tags:
            return invalid(f"{len(event.tags)} tags, this relay takes {max_tags}")
        if len(event.content) > max_chars:
            return invalid(f"content has {len(event.content)} characters, this relay takes {max_chars}")
        return None

    rules: list[Rule | OfKinds[Rule]] = [refuse_too_large]
    shape = config.policies.shape
    chars_of, tags_of = chosen(shape.max_content_chars, int), chosen(shape.max_tags, int)
    mentions_of = chosen(shape.max_mentions, int)

    def refuse_too_large_of_kind(event: Event, origin: Origin, now: int) -> Refusal | None:
        kind = event.kind
        most = tags_of(kind)
        if most is not None and (found := len(event.tags)) > most:
            return invalid(f"{found} tags, this relay takes {most} of kind {kind}")
        most = chars_of(kind)
        if most is not None and (found := len(event.content)) > most:
            return invalid(f"content has {found} characters, this relay takes {most} of kind {kind}")
        most = mentions_of(kind)
        if most is not None and (found := len(set(values(event.tags, "p")))) > most:
            return invalid(f"{found} people are named, this relay takes {most} of kind {kind}")
        return None

    if shape.max_content_chars or shape.max_tags or shape.max_mentions:
        rules.append(
            OfKinds(
                lambda kind: any(of(kind) is not None for of in (chars_of, tags_of, mentions_of)),
                refuse_too_large_of_kind,
            )
        )
    return Feature(
        title="Size of events",
        before_signature=tuple(rules),
        limitation={"max_event_tags": max_tags, "max_content_length": max_chars},
    )
