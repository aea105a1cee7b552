"""NIP-62: requests to vanish (kind 62) from this relay, or from all.

A cut-off, not a ban: everything by the key up to the request's time goes and stays gone, whoever sends
it again, gift wraps to the key among it; what it writes later is welcome. The request itself is kept for
ever: it goes into exports, so that a relay that imports them refuses the same events.
"""

from dataclasses import replace

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds, Origin
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.nostr.tags import values
from relay.nostr.urls import normalize
from relay.store.api import RemoveOwned, Write

ALL_RELAYS = "ALL_RELAYS"

_NAMES_NONE = invalid("a request to vanish names a relay, or ALL_RELAYS")
_NAMES_OTHERS = Refusal(Prefix.BLOCKED, "this request to vanish names other relays")
_UNPROVED = Refusal(
    Prefix.AUTH_REQUIRED,
    "prove your key: somebody else could have brought here what you sent to another relay",
)


def refuse_without_relay(event: Event, origin: Origin, now: int) -> Refusal | None:
    """Refuse a request without a `relay` tag. NIP-62: "MUST include at least one `relay` value"."""
    return None if values(event.tags, "relay") else _NAMES_NONE


def names(event: Event, url: str) -> bool:
    """Say whether a request is meant for the relay at `url`, or for all.

    With or without encryption, and with or without a slash at the end, it is the same relay.
    """
    named = values(event.tags, "relay")
    own = _place(url)
    return ALL_RELAYS in named or (own is not None and own in map(_place, named))


def _place(url: str) -> str | None:
    normal = normalize(url)
    return None if normal is None else normal.partition("://")[2].rstrip("/")


def remove_all(write: Write) -> Write:
    """Let everything go that the author owns; keep the request, whatever it says about its expiry."""
    removal = RemoveOwned(write.event.pubkey, write.event.created_at)
    return replace(write, removals=(removal,), owners=(), expires_at=None)


def feature(config: RelayConfig, context: Context) -> Feature:
    def refuse_others(event: Event, origin: Origin, now: int) -> Refusal | None:
        """Refuse what is meant for other relays."""
        return None if names(event, config.url) else _NAMES_OTHERS

    def refuse_unproved(event: Event, origin: Origin, now: int) -> Refusal | None:
        """Refuse what the author did not bring, where it has only the client's word for the relay's name.

        A request for another relay would otherwise count here for whoever calls this one by that name.
        """
        if not names(event, origin.url):
            return _NAMES_OTHERS
        if ALL_RELAYS in values(event.tags, "relay") or event.pubkey in origin.authenticated:
            return None
        return _UNPROVED

    # A relay that does not know its URL takes all requests that are imported, for it has kept only those
    # that were meant for it.
    is_ours = (refuse_others,) if config.url else ()
    has_proof = () if config.url else (refuse_unproved,)
    is_vanish = kinds.VANISH.__eq__
    return Feature(
        title="Requests to vanish",
        nip=62,
        before_signature=tuple(OfKinds(is_vanish, rule) for rule in (refuse_without_relay, *is_ours)),
        after_signature=tuple(OfKinds(is_vanish, rule) for rule in has_proof),
        effects=(OfKinds(is_vanish, remove_all),),
    )
