"""Proof of work: how many bits of an event id were mined, and how many its author meant to (NIP-13)."""

import re

from relay.nostr.reasons import Prefix, Refusal
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


def refuse_difficulty(id_: str, tags: Tags, least: int) -> Refusal | None:
    """Say why an event with this id and these tags lacks `least` bits of work, or None.

    The id has to show it, and the `nonce` tag has to commit to it: who mines very many events at a
    low target gets some high ones by luck, and has not worked for those.
    """
    found = difficulty(id_)
    if found < least:
        return Refusal(Prefix.POW, f"difficulty {found} is less than {least}")
    target = committed_target(tags)
    if target is None:
        return Refusal(Prefix.POW, f"the nonce tag must commit to a difficulty of {least} or more")
    if target < least:
        return Refusal(Prefix.POW, f"the committed difficulty {target} is less than {least}")
    return None
