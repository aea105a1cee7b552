"""Whom policies let pass, and whose keys stand behind an event."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Origin
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.tags import values

FROM_ANYBODY = frozenset({kinds.VANISH, kinds.JOIN_REQUEST, kinds.LEAVE_REQUEST})
"""NIP-62 must be served whatever else a relay demands; the others ask to become somebody, or nobody."""
WRAPS = frozenset({kinds.GIFT_WRAP, kinds.EPHEMERAL_GIFT_WRAP})
ENCRYPTED = WRAPS | {kinds.DIRECT_MESSAGE, kinds.SEAL}


def keys_behind(event: Event, origin: Origin) -> tuple[str, ...]:
    """Return the keys of which one has to be known: the author's, and those that brought the event.

    Who wraps a message signs with a key of the moment: there the receivers count too, or nobody could
    write to those who are known.
    """
    keys = (event.pubkey, *origin.authenticated)
    return (*keys, *values(event.tags, "p")) if event.kind in WRAPS else keys


class Known:
    """The relay's people: the operator's settings name some, and its list of members the others."""

    def __init__(self, config: RelayConfig, context: Context) -> None:
        self._staff = frozenset((*config.admins, *config.moderation.keys, context.key.public))
        self._is_member = context.is_member

    def __contains__(self, key: str) -> bool:
        return key in self._staff or self._is_member(key)

    def stands_behind(self, event: Event, origin: Origin) -> bool:
        """Say whether one of them wrote or brought the event, or our own bridge did."""
        return origin.exempt or any(key in self for key in keys_behind(event, origin))

    def asks(self, origin: Origin) -> bool:
        """Say whether one of them asks, or our own bridge does."""
        return origin.exempt or any(key in self for key in origin.authenticated)
