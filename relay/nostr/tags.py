"""Reading tags, and addresses of replaceable events (NIP-01)."""

import re
from string import ascii_letters
from typing import NamedTuple

from relay.nostr.kinds import MAX_KIND, Retention, retention

Tag = tuple[str, ...]
Tags = tuple[Tag, ...]

HEX_64 = re.compile(r"[0-9a-f]{64}").fullmatch
"""Match 32 bytes as lowercase hex: the only form of ids and keys that NIP-01 knows."""

LETTERS = frozenset(ascii_letters)
"""The names of the tags that filters can ask for (NIP-01)."""

# int() would also accept "1_000", " 1" and other scripts' digits.
_KIND = re.compile(r"(?:0|[1-9][0-9]{0,4})").fullmatch
_SECONDS = re.compile(r"[0-9]{1,12}").fullmatch


class Address(NamedTuple):
    """The coordinates of a replaceable or addressable event, written `kind:pubkey:d`."""

    kind: int
    pubkey: str
    d: str
    """Empty for replaceable kinds."""

    def __str__(self) -> str:
        return f"{self.kind}:{self.pubkey}:{self.d}"


def parse_address(text: str) -> Address | None:
    """Read `kind:pubkey:d`; None when it is not the address of a replaceable or addressable event.

    The `d` part may itself hold colons. A replaceable kind's `d` is empty whatever the text says.
    """
    parts = text.split(":", 2)
    if len(parts) < 2 or not _KIND(parts[0]) or not HEX_64(parts[1]):
        return None
    kind = int(parts[0])
    if kind > MAX_KIND:
        return None
    match retention(kind):
        case Retention.REPLACEABLE:
            return Address(kind, parts[1], "")
        case Retention.ADDRESSABLE if len(parts) == 3:
            return Address(kind, parts[1], parts[2])
    return None


def first_value(tags: Tags, name: str) -> str | None:
    """Return the first value of the first tag called `name`; None when absent or without value."""
    for tag in tags:
        if tag and tag[0] == name:
            return tag[1] if len(tag) > 1 else None
    return None


def values(tags: Tags, name: str) -> list[str]:
    """Return the first value of every tag called `name`, in order."""
    return [tag[1] for tag in tags if len(tag) > 1 and tag[0] == name]


def indexed(tags: Tags) -> set[tuple[str, str]]:
    """Return the (letter, value) pairs that filters can ask for.

    NIP-01: only tags named by one letter a-z or A-Z, and only their first value.
    """
    return {(tag[0], tag[1]) for tag in tags if len(tag) > 1 and tag[0] in LETTERS}


def seconds(text: str) -> int | None:
    """Read a unix time written in ASCII digits, 12 at most; None when it is anything else."""
    return int(text) if _SECONDS(text) else None
