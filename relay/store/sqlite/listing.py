"""Which events match, as (created_at, id): without their rows wherever postings can say it."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from relay.store.sqlite.cursors import Asking, Cursors
from relay.store.sqlite.plan import MOST_MERGED, Keys, Span
from relay.store.sqlite.postings import SEQ_BITS, SEQ_MASK
from relay.store.sqlite.rows import ROWS_AT_ONCE, Rows
from relay.store.sqlite.scanning import POSTINGS_AT_ONCE, Question
from relay.store.sqlite.statements import kind_condition, kind_value, numbers
from relay.store.sqlite.tiers import TIERS

Item = tuple[int, bytes]
"""(created_at in unix seconds, id as 32 bytes)."""

# A row for each posting or event would cost twice as much as one text of all. Two of these in one
# statement meet the same rows in the same order.
_IDS = "group_concat(substr(json, 8, 64), '')"
_LIVING = "(expires_at IS NULL OR expires_at > :now)"

_ITEMS_AT_ONCE = 2_500
"""About so many are listed in a slice, at 1.2 µs each: more of several hashes, where they are alike."""
_SIZES = (1, 2, 4, 8, MOST_MERGED)
"""Numbers of hashes in a statement, few of them, so that each is compiled once; what is left over is NULL."""


@cache
def _joined(size: int, kinds: str) -> str:
    # CROSS: the postings first, then each one's event.
    return " UNION ALL ".join(
        f"SELECT group_concat(ts), {_IDS} FROM {tier} CROSS JOIN event ON seq = (ts & {SEQ_MASK}) "
        f"WHERE h = :h{n} AND ts BETWEEN :low AND :high AND seq <= :upto AND {_LIVING} {kinds}"
        for n in range(size)
        for tier in TIERS
    )


class Listed(NamedTuple):
    """A slice of what matches."""

    low: int
    """No later slice has a newer item than this second; -1: there is none."""
    items: list[Item]
    """In no order."""


class Listing:
    """One question whose answer is asked for by id. Each step is a slice of bounded work."""

    def __init__(self, question: Question, ask: Asking, cursors: Cursors, rows: Rows) -> None:
        self._question = question
        self._ask = ask
        self._cursors = cursors
        self._rows = rows

    def slices(self) -> Iterator[Listed]:
        """Yield all that matches, each slice older than those before it or of the same second."""
        question = self._question
        drive = question.drive
        if len(drive.hashes) <= MOST_MERGED and drive.is_exact and drive.keys is not Keys.IDS:
            yield from self._of_few()
            return
        # Ids alone cost a tenth of rows that have to be matched.
        at_once = ROWS_AT_ONCE if question.needs_rows else POSTINGS_AT_ONCE
        for hits in self._cursors.hits(drive, question.span, POSTINGS_AT_ONCE):
            kept = [hit for hit in hits if hit[0] & SEQ_MASK <= question.upto]
            for start in range(0, len(kept), at_once):
                some = kept[start : start + at_once]
                yield Listed(some[-1][0] >> SEQ_BITS, self._of_hits(some))

    def _of_few(self) -> Iterator[Listed]:
        """Read postings and ids together: 1.2 µs an event, where one after the other takes 3."""
        question = self._question
        drive, kinds = question.drive, question.drive.kinds
        size = next(size for size in _SIZES if size >= len(drive.hashes))
        joined = _joined(size, kind_condition(kinds, ":kinds"))
        hashes = {f"h{n}": drive.hashes[n] if n < len(drive.hashes) else None for n in range(size)}
        walk = POSTINGS_AT_ONCE if size == 1 else _ITEMS_AT_ONCE
        high = question.span.high
        while high >= question.span.low:
            low = self._cursors.floor(drive.hashes, Span(question.span.low, high), walk)
            parts = self._ask(
                joined,
                **hashes,
                low=low,
                high=high,
                upto=question.upto,
                now=question.now,
                kinds=kind_value(kinds),
            )
            found = [item for part in parts for item in _items(part, SEQ_BITS)]
            # An event may have two of the tags that are asked for.
            yield Listed(low >> SEQ_BITS, found if drive.is_disjoint else list(dict.fromkeys(found)))
            high = low - 1

    def _of_hits(self, hits: Sequence[tuple[int, int]]) -> list[Item]:
        question = self._question
        if question.needs_rows:
            rows = question.matching(self._rows.of(hits, question.now), question.drive)
            return [(row.created_at, bytes.fromhex(row.id)) for row in rows]
        (part,) = self._ask(
            f"SELECT group_concat(created_at), {_IDS} FROM event "
            f"WHERE seq IN (SELECT value FROM json_each(:seqs)) AND {_LIVING}",
            seqs=numbers(ts & SEQ_MASK for ts, _ in hits),
            now=question.now,
        )
        return _items(part, 0)


def _items(part: Sequence[object], shift: int) -> list[Item]:
    """Take apart the texts of one part: times, shifted by so many bits, and ids; None for no rows."""
    times, ids = part
    if not isinstance(times, str) or not isinstance(ids, str):
        return []
    packed = bytes.fromhex(ids)
    return [(int(time) >> shift, packed[32 * n : 32 * n + 32]) for n, time in enumerate(times.split(","))]
