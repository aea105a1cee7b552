"""The postings of a few hashes as one stream, newest first, which SQLite merges from all tiers.

The sorted parts of a compound SELECT are merged lazily, row by row: a statement that is left early has
read hardly more than it gave. So what is asked about few hashes costs work in proportion to its answer.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from relay.store.sqlite.plan import MOST_MERGED, Kinds, Span
from relay.store.sqlite.postings import SEQ_BITS, SEQ_MASK
from relay.store.sqlite.statements import Value, kind_condition, kind_value
from relay.store.sqlite.tiers import TIERS

_SIZES = (1, 2, 4, 8, MOST_MERGED)
"""Few sizes, so that each statement is compiled once (the largest takes 6 ms) and then found in the
connection's cache. A row passes through a merge for each part, three for each hash. Where there are
fewer hashes the others are NULL, which costs next to nothing."""

_SIZE_OF = [next(size for size in _SIZES if size >= count) for count in range(MOST_MERGED + 1)]


class Statements(NamedTuple):
    """What can be asked about the postings of so many hashes; all take the same parameters."""

    postings: str
    """(ts, kind), descending, `most` at most. An event under two of the hashes comes twice, in a row."""
    rows: str
    """(seq, created_at, json) of `postings`; json is NULL where the event is not there or has expired."""
    floor: str
    """The lowest ts of the span down to which no hash has more than `most` postings in any tier, of
    whatever kind."""


def statements(hashes: Sequence[int], kinds: Kinds | None) -> Statements:
    """Return the statements about these hashes' postings of these kinds."""
    if kinds is None:
        return _statements(_size(hashes), "")
    return _statements(_size(hashes), kind_condition(kinds, "?6"))


def parameters(
    hashes: Sequence[int], kinds: Kinds | None, span: Span, most: int, upto: int = 0, now: int = 0
) -> tuple[Value, ...]:
    """Return the parameters; `upto` and `now` are for `rows` alone. A `most` of -1 is no bound."""
    padding = (None,) * (_size(hashes) - len(hashes))
    return (span.low, span.high, most, upto, now, kind_value(kinds), *hashes, *padding)


def _size(hashes: Sequence[int]) -> int:
    return _SIZE_OF[len(hashes)]


@cache
def _statements(size: int, condition: str) -> Statements:
    parts = [(tier, f"h = ?{7 + n} AND ts BETWEEN ?1 AND ?2") for n in range(size) for tier in TIERS]
    merged = " UNION ALL ".join(
        f"SELECT ts, kind FROM {tier} WHERE {wanted} {condition}" for tier, wanted in parts
    )
    merged += " ORDER BY ts DESC"
    floors = ", ".join(
        f"coalesce((SELECT ts FROM {tier} WHERE {wanted} ORDER BY ts DESC LIMIT 1 OFFSET ?3), ?1)"
        for tier, wanted in parts
    )
    return Statements(
        postings=f"{merged} LIMIT ?3",
        rows=f"SELECT ts & {SEQ_MASK}, ts >> {SEQ_BITS}, json FROM ({merged} LIMIT ?3) LEFT JOIN event "
        f"ON seq = ts & {SEQ_MASK} AND seq <= ?4 AND (expires_at IS NULL OR expires_at > ?5)",
        floor=f"SELECT max({floors})",
    )
