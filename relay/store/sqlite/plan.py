"""From a filter to the postings that hold its answer."""

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from itertools import islice
from typing import NamedTuple, TypeVar

from relay.nostr.event import MAX_CREATED_AT
from relay.nostr.filter import Filter
from relay.nostr.kinds import Retention, retention
from relay.store.sqlite.postings import SEQ_BITS, SEQ_MASK, Hashes

_MAX_PAIRS = 1024
"""Up to so many authors × kinds are looked up as pairs; beyond it by author alone."""


MOST_MERGED = 16
"""Hashes whose postings are read as one stream (see `merging`); of more, windows of time are looked at."""
_FEED_KINDS = 4
"""Of more kinds than this, everybody's newest events are looked through without an index of the kind."""
_ROW = 10
"""A row that must be read and matched costs as much as so many postings."""
_FEW = 64
"""A drive with so few postings is taken without looking at others."""
_HASHED_AT_ONCE = 512
_ESTIMATED_AT_ONCE = 3
"""Ways to answer whose postings are counted in one step."""

_T = TypeVar("_T")
_V = TypeVar("_V")


@dataclass(frozen=True, slots=True)
class Kinds:
    """A condition on the kind, which postings hold."""

    of: frozenset[int]
    excluded: bool = False
    """The kinds are those that are not wanted."""

    def admits(self, kind: int) -> bool:
        """Say whether the kind meets the condition."""
        return (kind in self.of) != self.excluded


class Keys(IntEnum):
    """What the hashes of a drive stand for; the lower is preferred where estimates tie."""

    IDS = 0
    AUTHOR_KINDS = 1
    TAGS = 2
    AUTHORS = 3
    KINDS = 4
    EVERYTHING = 5


@dataclass(frozen=True, slots=True)
class Drive:
    """One way to find the answer: the postings of some hashes, and what remains to be checked."""

    keys: Keys
    hashes: tuple[int, ...]
    kinds: Kinds | None
    """To be checked on each posting."""
    is_exact: bool
    """Whether nothing else is left to check; otherwise rows must be read and matched."""
    is_single: bool = False
    """Whether each hash has one posting at most: ids, and replaceable events of an author."""

    @property
    def is_disjoint(self) -> bool:
        """Whether no event can be found under two of the hashes."""
        return len(self.hashes) == 1 or self.keys is not Keys.TAGS


@dataclass(frozen=True, slots=True)
class Span:
    """A range of ts (created_at << 31 | seq), both ends included; empty if low > high."""

    low: int
    high: int


def span_of(wanted: Filter) -> Span:
    """Return the range of ts that the filter's times allow."""
    since = 0 if wanted.since is None else max(0, wanted.since)
    until = MAX_CREATED_AT if wanted.until is None else min(MAX_CREATED_AT, wanted.until)
    if since > until:
        return Span(1, 0)
    return Span(since << SEQ_BITS, until << SEQ_BITS | SEQ_MASK)


class Hashed(NamedTuple):
    """The hashes of a filter's values."""

    ids: Sequence[int] = ()
    authors: Sequence[int] = ()
    kinds: Sequence[int] = ()
    """Of the condition on the kind, unless it excludes them."""
    tags: Mapping[str, Sequence[int]] = {}


def hashed(wanted: Filter, kinds: Kinds | None, hashes: Hashes, nothing: _T) -> Generator[_T, None, Hashed]:
    """Hash what `drives` needs, thousands of values in several steps; give `nothing` between them.

    `kinds` stands for the filter's own condition.
    """
    if wanted.ids is not None:
        return Hashed(ids=(yield from _in_steps(wanted.ids, hashes.id, nothing)))
    authors: Sequence[int] = ()
    if wanted.authors is not None:
        authors = yield from _in_steps(wanted.authors, hashes.author, nothing)
    of_kinds: Sequence[int] = ()
    if kinds is not None and not kinds.excluded:
        of_kinds = yield from _in_steps(kinds.of, hashes.kind, nothing)
    tags = {}
    for letter, values in wanted.tags.items():
        tags[letter] = yield from _in_steps(values, partial(hashes.tag, letter), nothing)
    return Hashed((), authors, of_kinds, tags)


def _in_steps(
    values: Collection[_V], hash_: Callable[[_V], int], nothing: _T
) -> Generator[_T, None, list[int]]:
    left = iter(values)
    found = list(map(hash_, islice(left, _HASHED_AT_ONCE)))
    while len(found) < len(values):
        yield nothing
        found += map(hash_, islice(left, _HASHED_AT_ONCE))
    return found


def drives(
    wanted: Filter,
    kinds: Kinds | None,
    hashes: Hashes,
    of: Hashed,
    share: Callable[[frozenset[int]], float] | None = None,
) -> list[Drive]:
    """Return the ways to answer, at least one; `kinds` stands for the filter's own condition.

    `of` is what `hashed` gave. `share` says about which part of all events is of some kinds; None where all
    of the answer is read.
    """
    if wanted.ids is not None:
        is_exact = wanted.authors is None and not wanted.tags
        return [Drive(Keys.IDS, tuple(of.ids), kinds, is_exact, is_single=True)]
    found: list[Drive] = []
    if wanted.authors is not None:
        found.append(_by_author(wanted, wanted.authors, kinds, hashes, of, share))
    for tagged in of.tags.values():
        is_exact = wanted.authors is None and len(wanted.tags) == 1
        found.append(Drive(Keys.TAGS, tuple(tagged), kinds, is_exact))
    # Pairs of authors and kinds are fewer than the kinds' postings in any case.
    if kinds is not None and not kinds.excluded and not _has_pairs(wanted, kinds):
        found.append(Drive(Keys.KINDS, tuple(of.kinds), None, not found))
    return found or [Drive(Keys.EVERYTHING, (hashes.everything,), kinds, True)]


def _has_pairs(wanted: Filter, kinds: Kinds) -> bool:
    return wanted.authors is not None and len(wanted.authors) * len(kinds.of) <= _MAX_PAIRS


def _by_author(
    wanted: Filter,
    authors: frozenset[str],
    kinds: Kinds | None,
    hashes: Hashes,
    of: Hashed,
    share: Callable[[frozenset[int]], float] | None,
) -> Drive:
    is_exact = not wanted.tags
    if kinds is None or kinds.excluded or not _has_pairs(wanted, kinds):
        return Drive(Keys.AUTHORS, tuple(of.authors), kinds, is_exact)
    is_single = all(retention(kind) is Retention.REPLACEABLE for kind in kinds.of)
    number = len(authors) * len(kinds.of)
    if len(kinds.of) > 1 and number > MOST_MERGED and not is_single and share is not None and wanted.limit:
        # A hash costs a seek in each tier, as much as reading ten postings there. Feeds ask for two or
        # three kinds that are most of what their authors write.
        postings = wanted.limit / max(share(kinds.of), 1e-6)
        if postings < 10 * len(authors) * (len(kinds.of) - 1):
            return Drive(Keys.AUTHORS, tuple(of.authors), kinds, is_exact)
    pairs = hashes.pairs(of.authors, kinds.of)
    return Drive(Keys.AUTHOR_KINDS, tuple(pairs), None, is_exact, is_single)


def recent_rows(wanted: Filter, kinds: Kinds | None, hashes: Hashes, of: Hashed) -> Drive | None:
    """Return a way to look through everybody's newest events for those of many authors; None if useless.

    Who reads a feed follows those who write much. Whether that pays is seen on the way.
    """
    if wanted.authors is None or wanted.ids is not None or wanted.tags or wanted.limit is None:
        return None
    if kinds is None or kinds.excluded or len(kinds.of) > _FEED_KINDS:
        return Drive(Keys.EVERYTHING, (hashes.everything,), kinds, False)
    return Drive(Keys.KINDS, tuple(of.kinds), None, False)


def cheapest(
    options: Sequence[Drive], estimate: Callable[[Drive], int], nothing: _T
) -> Generator[_T, None, Drive]:
    """Find the drive that costs least; `estimate` counts postings, and may stop at a bound.

    Of many ways some are looked at in each step; gives `nothing` between them.
    """
    best, fewest = options[0], None
    if len(options) > 1:
        for number, drive in enumerate(sorted(options, key=lambda drive: drive.keys), 1):
            estimated = estimate(drive) * (1 if drive.is_exact else _ROW)
            if fewest is None or estimated < fewest:
                best, fewest = drive, estimated
            if estimated <= _FEW:
                break
            if number % _ESTIMATED_AT_ONCE == 0:
                yield nothing
    return best
