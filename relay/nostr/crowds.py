"""Crowds: those who wrote events of one kind about one thing, such as who likes a note or follows a key.

They are what NIP-45 calls common queries, and votes in a poll (NIP-88) beside.
"""

from collections.abc import Mapping
from typing import NamedTuple

from relay.nostr import kinds
from relay.nostr.filter import Filter

MAX_VALUE_CHARS = 200

_ASKED: Mapping[tuple[frozenset[int], str], int] = {
    (frozenset({kinds.REACTION}), "e"): kinds.REACTION,
    (frozenset({kinds.REPOST}), "e"): kinds.REPOST,
    (frozenset({kinds.NOTE}), "e"): kinds.NOTE,
    (frozenset({kinds.NOTE, kinds.COMMENT}), "q"): kinds.NOTE,
    (frozenset({kinds.COMMENT}), "E"): kinds.COMMENT,
    (frozenset({kinds.FOLLOWS}), "p"): kinds.FOLLOWS,
    (frozenset({kinds.VOTE}), "e"): kinds.VOTE,
}
"""By what a filter asks for: the kind that the crowd is filed under."""
_KINDS = {(kind, letter): asked for (asked, letter), kind in _ASKED.items()}


class Crowd(NamedTuple):
    """The authors of events of one kind with one tag; of quotes, those of comments too."""

    kind: int
    letter: str
    value: str

    @property
    def kinds(self) -> frozenset[int]:
        """The kinds of the events by which one joins."""
        return _KINDS[self.kind, self.letter]

    def __str__(self) -> str:
        return f"{self.kind} {self.letter} {self.value}"


def parse_crowd(text: str) -> Crowd:
    """Read what `str` wrote."""
    kind, letter, value = text.split(" ", 2)
    return Crowd(int(kind), letter, value)


def crowd_of(wanted: Filter) -> Crowd | None:
    """Return the crowd that a filter asks for, and nothing else; None where it is no such question."""
    others = (wanted.ids, wanted.authors, wanted.since, wanted.until, wanted.search)
    if wanted.kinds is None or any(other is not None for other in others) or len(wanted.tags) != 1:
        return None
    ((letter, asked),) = wanted.tags.items()
    kind = _ASKED.get((wanted.kinds, letter))
    if kind is None or len(asked) != 1:
        return None
    (value,) = asked
    return Crowd(kind, letter, value) if len(value) <= MAX_VALUE_CHARS else None


def is_for_some(json: bytes) -> bool:
    """Say whether an event, as canonical JSON, may be one that not everybody sees: those of groups (NIP-29).

    Within a text the quotes would be escaped: only a tag begins like this.
    """
    return b'["h"' in json
