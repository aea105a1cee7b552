"""NIP-09: deletion requests (kind 5), by `e` and `a` tags.

They take effect before their target arrives too, never on other people's events, and have no effect
on deletion requests. What was deleted stays deleted; a newer version of a deleted address is welcome.
"""

from dataclasses import replace

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds
from relay.nostr import kinds
from relay.nostr.event import EventId
from relay.nostr.tags import HEX_64, parse_address
from relay.store.api import Removal, RemoveAddress, RemoveEvent, Write


def remove_targets(write: Write) -> Write:
    """Turn the tags of a deletion request into removals; others' and malformed targets are passed over."""
    event = write.event
    removals: list[Removal] = []
    for tag in event.tags:
        if len(tag) < 2:
            continue
        if tag[0] == "e" and HEX_64(tag[1]):
            removals.append(RemoveEvent(EventId(tag[1]), event.pubkey))
        elif tag[0] == "a":
            address = parse_address(tag[1])
            if address is not None and address.pubkey == event.pubkey:
                removals.append(RemoveAddress(address, event.created_at))
    # "Publishing a deletion request event against a deletion request has no effect."
    return replace(write, removals=tuple(dict.fromkeys(removals)), is_final=True)


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(
        title="Event deletion requests", nip=9, effects=(OfKinds(kinds.DELETION.__eq__, remove_targets),)
    )
