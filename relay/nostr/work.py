"""Proof of work: how many bits of an event id were mined, and how many its author meant to (NIP-13)."""

import re

from relay.nostr.tags import Tags

ID_BITS = 256

_BITS = re.compile(r"[0-9]{1,3}").fullmatch


def difficulty(id_: str) -> int:
    """Return the number of leading zero bits of an event id (64 hex digits)."""
    return ID_BITS - int(id_, 16).bit_length()


def committed_target(tags: Tags) -> int | None:
    """Return the difficulty that the first `nonce` tag commits to; None when it names none that is readable.

    NIP-13: "The third entry to the nonce tag SHOULD contain the target difficulty."
    """
    for tag in tags:
        if tag and tag[0] == "nonce":
            return int(tag[2]) if len(tag) > 2 and _BITS(tag[2]) else None
    return None
