"""How many events match: from the postings alone wherever they can say it."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from relay.store.api import Stored
from relay.store.sqlite.cursors import KEYS_AT_ONCE, Asking, Cursors, Hit
from relay.store.sqlite.plan import Span
from relay.store.sqlite.postings import SEQ_BITS, SEQ_MASK
from relay.store.sqlite.removed import Removed
from relay.store.sqlite.rows import ROWS_AT_ONCE, Rows
from relay.store.sqlite.scanning import Question
from relay.store.sqlite.statements import kind_condition, kind_value, numbers
from relay.store.sqlite.tiers import TIERS

_MATCHED_AT_ONCE = 400
"""Postings that are compared with what was removed in one slice."""
_COUNTED_AT_FIRST = 2_048
_COUNTED_AT_ONCE = 8_192
"""Postings of each tier that one statement counts at most."""

_OF_HASHES = (
    "SELECT count(*) FROM {tier} WHERE h IN (SELECT value FROM json_each(:hashes)) "
    "AND ts BETWEEN :low AND :high"
)
_OF_REMOVED = (
    "SELECT count(*) FROM json_each(:removed) CROSS JOIN {tier} ON h = json_extract(:hashes, '$[0]') "
    "AND ts = value WHERE TRUE"
)


class Found(NamedTuple):
    """A slice of what matches, descending by ts."""

    low: int
    """No later slice has a ts of this or above."""
    ts: list[int]
    rows: list[Stored]
    """Parallel to `ts`, or empty where they were not asked for."""


class Count:
    """One question being counted. Each step is a slice of bounded work."""

    def __init__(
        self, question: Question, ask: Asking, removed: Removed, cursors: Cursors, rows: Rows
    ) -> None:
        self._question = question
        self._ask = ask
        self._removed = removed
        self._cursors = cursors
        self._rows = rows

    def numbers(self) -> Iterator[int]:
        """Yield numbers whose sum is how many events match."""
        drive = self._question.drive
        if self._question.needs_rows or not drive.is_disjoint:
            for found in self.matches(with_rows=False):
                yield len(found.ts)
            return
        for start in range(0, len(drive.hashes), KEYS_AT_ONCE):
            hashes = drive.hashes[start : start + KEYS_AT_ONCE]
            most = _COUNTED_AT_ONCE
            if len(hashes) > 1 and self._cursors.number(hashes, self._question.span, most) < most:
                yield self._living(hashes, self._question.span)
                continue
            for h in hashes:
                yield from self._of_one(h)

    def _of_one(self, h: int) -> Iterator[int]:
        high = self._question.span.high
        at_once = _COUNTED_AT_FIRST
        while high >= self._question.span.low:
            span = Span(self._question.span.low, high)
            low = self._cursors.floor([h], span, at_once)
            yield self._living([h], Span(low, high), low > span.low or at_once > _COUNTED_AT_FIRST)
            high = low - 1
            at_once = _COUNTED_AT_ONCE

    def _living(self, hashes: Sequence[int], span: Span, is_large: bool = False) -> int:
        """Count the postings of events that are neither removed nor expired, within one snapshot.

        `is_large` says that it is worth while to learn which events of the only hash were removed.
        """
        question = self._question
        kinds = question.drive.kinds
        # Each condition costs as much as the counting itself, and is seldom needed.
        with self._ask.snapshot():
            ((head, has_dead, has_expired),) = self._ask(
                "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'event'), 0), "
                "EXISTS (SELECT 1 FROM dead WHERE seq > 0), "
                "EXISTS (SELECT 1 FROM event WHERE expires_at <= ?)",
                question.now,
            )
            conditions = kind_condition(kinds, ":kinds")
            if question.upto < head:
                conditions += f" AND ts & {SEQ_MASK} <= :upto"
            removed = self._removed.under(hashes[0]) if has_dead and is_large else None
            gone = 0
            if removed is not None:
                removed = removed[bisect_left(removed, span.low) : bisect_right(removed, span.high)]
                # Some postings may have been purged.
                gone = self._counted(f"{_OF_REMOVED} {conditions}", hashes, span, removed) if removed else 0
            elif has_dead:
                conditions += f" AND ts & {SEQ_MASK} NOT IN (SELECT seq FROM dead)"
            if has_expired:
                conditions += f" AND ts & {SEQ_MASK} NOT IN (SELECT seq FROM event WHERE expires_at <= :now)"
            return self._counted(f"{_OF_HASHES} {conditions}", hashes, span) - gone

    def _counted(self, count: str, hashes: Sequence[int], span: Span, removed: Sequence[int] = ()) -> int:
        """Return the sum of a count over all tiers."""
        question = self._question
        kinds = question.drive.kinds
        counts = self._ask(
            " UNION ALL ".join(count.format(tier=tier) for tier in TIERS),
            hashes=numbers(hashes),
            low=span.low,
            high=span.high,
            upto=question.upto,
            now=question.now,
            kinds=kind_value(kinds),
            removed=numbers(removed),
        )
        return sum(count for (count,) in counts)

    def matches(self, *, with_rows: bool) -> Iterator[Found]:
        """Yield what matches, descending by ts; with the rows themselves if they are asked for."""
        question = self._question
        low = question.span.high + 1
        for hits in self._cursors.hits(question.drive, question.span, _MATCHED_AT_ONCE):
            kept = [hit for hit in hits if hit[0] & SEQ_MASK <= question.upto]
            if not kept:
                yield Found(low, [], [])
                continue
            if question.needs_rows or with_rows:
                for start in range(0, len(kept), ROWS_AT_ONCE):
                    yield self._with_rows(kept[start : start + ROWS_AT_ONCE])
            else:
                gone = self._rows.gone(kept, question.now)
                yield Found(kept[-1][0], [ts for ts, _ in kept if ts & SEQ_MASK not in gone], [])
            low = kept[-1][0]

    def _with_rows(self, hits: list[Hit]) -> Found:
        question = self._question
        rows = question.matching(self._rows.of(hits, question.now), question.drive)
        rows.sort(key=_ts, reverse=True)
        return Found(hits[-1][0], [_ts(row) for row in rows], rows)


def _ts(row: Stored) -> int:
    return row.created_at << SEQ_BITS | row.seq
