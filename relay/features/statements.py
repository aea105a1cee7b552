"""What the relay itself says of people: it goes when they vanish (NIP-62), and in no other way."""

from dataclasses import replace

from relay.nostr.event import PubKey
from relay.nostr.tags import HEX_64, values
from relay.store.api import Write


def owned_by_named(write: Write) -> Write:
    """Let an event by the relay go, and stay out, with all that somebody owns whom a `p` tag names."""
    named = (PubKey(key) for key in values(write.event.tags, "p") if HEX_64(key))
    return replace(write, owners=(write.event.pubkey, *named), is_final=True)
