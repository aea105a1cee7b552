"""NIP-70: an event with a `-` tag is accepted only from its own authenticated author."""

import orjson

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds, Origin
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.reasons import Prefix, Refusal

_REPOSTS = frozenset({kinds.REPOST, kinds.GENERIC_REPOST})


def refuse_foreign_protected(event: Event, origin: Origin, now: int) -> Refusal | None:
    """Refuse a protected event unless the connection authenticated as its author."""
    for tag in event.tags:
        # "When the "-" tag is present": whatever follows in it.
        if tag and tag[0] == "-":
            break
    else:
        return None
    if event.pubkey in origin.authenticated:
        return None
    if origin.authenticated:
        return Refusal(Prefix.RESTRICTED, "a protected event is accepted only from its author")
    return Refusal(Prefix.AUTH_REQUIRED, "a protected event is accepted only from its author")


def refuse_embedded_protected(event: Event, origin: Origin, now: int) -> Refusal | None:
    """Refuse a repost that carries a protected event in its content, whoever sends it."""
    # "Reposts of protected events MUST NOT embed the reposted event."
    try:
        match orjson.loads(event.content):
            case {"tags": [*tags]} if any(type(tag) is list and tag[:1] == ["-"] for tag in tags):
                return Refusal(Prefix.BLOCKED, "a repost must not carry a protected event")
    except orjson.JSONDecodeError:
        pass  # not an event, then
    return None


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(
        title="Protected events",
        nip=70,
        after_signature=(refuse_foreign_protected, OfKinds(_REPOSTS.__contains__, refuse_embedded_protected)),
    )
