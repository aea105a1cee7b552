"""Conditions of filters as words of the index: kind, author and tags, so that one look-up meets them all.

Marks are hashed short, and may collide: the store checks every condition again before anything is sent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.tags import indexed
from relay.search.words import words

NAMED = frozenset({kinds.PROFILE, 40, 39_000})
"""Kinds that people look up by the beginning of a name: profiles, channels, groups."""
MAX_TAGS = 128
"""Tags of one event that get a mark."""
MAX_VALUES = 512
"""A condition of more values is left to the store."""
MAX_PREFIX = 12

# Private-use characters, which no word holds; to the tokenizer they are letters.
_CONDITION = "\ue000"
_BEGINNING = "\ue001"


def kind_mark(kind: int) -> str:
    """Return the mark of events of a kind; notes have none."""
    return f"{_CONDITION}{kind}"


def author_mark(pubkey: str) -> str:
    """Return the mark of an author's events."""
    return _hashed("", pubkey)


def prefix_mark(beginning: str) -> str:
    """Return the mark of names that have a longer word with this beginning."""
    return _BEGINNING + beginning


def _hashed(name: str, value: str) -> str:
    # 40 bits: of a million different values, one in a million hits another one's mark.
    return _CONDITION + blake2b(f"{name}\n{value}".encode(), digest_size=5).hexdigest()


def marks_of(event: Event, heading: str) -> Iterator[str]:
    """Yield the marks of an event; `heading` is folded."""
    if event.kind != kinds.NOTE:
        yield kind_mark(event.kind)
    yield author_mark(event.pubkey)
    for letter, value in sorted(indexed(event.tags))[:MAX_TAGS]:
        yield _hashed(letter, value)
    if event.kind in NAMED:
        for word in sorted(set(words(heading))):
            for end in range(1, min(len(word), MAX_PREFIX + 1)):
                yield prefix_mark(word[:end])


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the marks of a wanted event are like."""

    groups: list[list[str]]
    """Of each it has one."""
    none_of: list[str]


def conditions(wanted: Filter, searched: frozenset[int]) -> Conditions | None:
    """Return a filter's conditions; None where nothing can match. `searched` kinds are indexed."""
    if wanted.is_empty:
        return None
    groups: list[list[str]] = []
    none_of: list[str] = []
    if wanted.kinds is not None and not searched <= wanted.kinds:
        chosen = wanted.kinds & searched
        if not chosen:
            return None
        # Most entries are notes: a mark of theirs would be looked for in vain, so they have none.
        if kinds.NOTE in chosen:
            none_of += map(kind_mark, sorted(searched - chosen))
        else:
            groups.append([kind_mark(kind) for kind in sorted(chosen)])
    if wanted.authors is not None and len(wanted.authors) <= MAX_VALUES:
        groups.append([author_mark(author) for author in sorted(wanted.authors)])
    for letter, values in sorted(wanted.tags.items()):
        if len(values) <= MAX_VALUES:
            groups.append([_hashed(letter, value) for value in sorted(values)])
    return Conditions(groups, none_of)
