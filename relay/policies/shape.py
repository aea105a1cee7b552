"""How large an event may be: tags and content."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Origin
from relay.nostr.event import Event
from relay.nostr.reasons import Refusal, invalid


def feature(config: RelayConfig, context: Context) -> Feature:
    max_tags, max_chars = config.limits.max_event_tags, config.limits.max_content_chars

    def refuse_too_large(event: Event, origin: Origin, now: int) -> Refusal | None:
        """Refuse an event with more tags or longer content than the relay keeps."""
        if len(event.tags) > max_tags:
            return invalid(f"{len(event.tags)} tags, this relay takes {max_tags}")
        if len(event.content) > max_chars:
            return invalid(f"content has {len(event.content)} characters, this relay takes {max_chars}")
        return None

    return Feature(
        title="Size of events",
        before_signature=(refuse_too_large,),
        limitation={"max_event_tags": max_tags, "max_content_length": max_chars},
    )
