"""From postings to rows in the order of answers: by created_at, and by lowest id within a second.

Postings come by (created_at, seq), so rows are put in order second by second. Nothing else is ever
sorted, and a second with very many events is read in passes of bounded memory.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge, nsmallest
from typing import NamedTuple

from relay.nostr.event import decode
from relay.nostr.filter import Filter
from relay.store.api import Seq, Stored
from relay.store.sqlite.cursors import Cursors, Hit
from relay.store.sqlite.plan import Drive, Keys, Span
from relay.store.sqlite.postings import AUTHOR, ID, MAX_TS, SEQ_BITS, SEQ_MASK
from relay.store.sqlite.rows import ROWS_AT_ONCE, Rows

POSTINGS_AT_ONCE = 1_000
"""Postings read by one statement where no limit asks for fewer."""

_FLOOD = 128
"""A second with more postings than this is put in order by its ids alone, before its rows are read."""
_IDS_AT_ONCE = 8_192


class Page(NamedTuple):
    """Rows in order, with the kind of each."""

    rows: list[Stored]
    kinds: list[int]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for, and how it is looked up."""

    wanted: Filter
    drive: Drive
    span: Span
    upto: Seq
    now: int
    is_oldest_first: bool = False

    @property
    def needs_rows(self) -> bool:
        """Whether postings alone cannot say what matches."""
        return not self.drive.is_exact or self.drive.keys is Keys.IDS

    def admits(self, row: Stored) -> bool:
        """Check what the postings did not: their kinds were checked, and hashes are trusted but for ids."""
        if self.wanted.ids is not None and row.id not in self.wanted.ids:
            return False
        if self.drive.is_exact:
            return True
        if self.wanted.tags:
            return self.wanted.matches(decode(row.json))
        return self.wanted.authors is None or row.json[AUTHOR].decode() in self.wanted.authors

    def until(self, high: int) -> Span:
        """Return the span up to a ts."""
        return Span(self.span.low, high)


class Scan:
    """One question being answered, page by page. A page may be empty: then others get a turn."""

    def __init__(self, question: Question, cursors: Cursors, rows: Rows) -> None:
        self._question = question
        self._cursors = cursors
        self._rows = rows
        limit = question.wanted.limit
        # As many as may be sent; what follows a page that did not suffice was mostly removed or hidden.
        self._rows_at_once = ROWS_AT_ONCE if limit is None else min(max(8, limit), ROWS_AT_ONCE)

    def newest_first(self) -> Iterator[Page]:
        """Yield all rows, newest first. `wanted.limit` only sizes the pages: who sees them may vary."""
        question = self._question
        limit = question.wanted.limit
        # Some more than the limit: the last second counts only when it is known to be complete.
        at_once = POSTINGS_AT_ONCE if limit is None else min(limit + 32, POSTINGS_AT_ONCE)
        high = question.span.high
        while high >= 0:
            held: list[Hit] = []
            for hits in self._cursors.hits(question.drive, question.until(high), at_once):
                held += [hit for hit in hits if hit[0] & SEQ_MASK <= question.upto]
                complete = _complete_seconds(held)
                yield from self._pages(held[:complete])
                del held[:complete]
                if len(held) > _FLOOD:
                    break
                if not complete:
                    yield Page([], [])
            else:
                yield from self._pages(held)
                return
            second = held[0][0] >> SEQ_BITS
            yield from self._flooded_second(second)
            high = (second << SEQ_BITS) - 1

    def oldest_first(self) -> Iterator[Page]:
        """Yield all rows, oldest first; the drive must be a single hash."""
        question = self._question
        (h,) = question.drive.hashes
        low = question.span.low
        while low <= question.span.high:
            hits = self._cursors.oldest(h, low, POSTINGS_AT_ONCE)
            if not hits:
                return
            last = hits[-1][0] >> SEQ_BITS
            # All but the last second, which may go on; one that is alone is read by itself.
            complete = [hit for hit in hits if hit[0] >> SEQ_BITS < last]
            if complete:
                yield from self._pages([hit for hit in complete if hit[0] & SEQ_MASK <= question.upto])
                low = last << SEQ_BITS
            else:
                yield from self._flooded_second(last)
                low = (last + 1) << SEQ_BITS
            if low > MAX_TS:
                return

    def _pages(self, hits: list[Hit]) -> Iterator[Page]:
        """Read the rows of complete seconds; pages end with a second."""
        start = 0
        while start < len(hits):
            end = min(start + self._rows_at_once, len(hits))
            last = hits[end - 1][0] >> SEQ_BITS
            while end < len(hits) and hits[end][0] >> SEQ_BITS == last:
                end += 1
            if end - start <= ROWS_AT_ONCE + _FLOOD:
                yield self._page(hits[start:end])
            else:
                before = start
                while hits[before][0] >> SEQ_BITS != last:
                    before += 1
                if before > start:
                    yield self._page(hits[start:before])
                yield from self._flooded_second(last)
            start = end

    def _page(self, hits: Sequence[Hit]) -> Page:
        question = self._question
        found = self._rows.of(hits, question.now)
        if len({ts >> SEQ_BITS for ts, _ in hits}) < len(hits):
            # In order but for ties: those go by id.
            sign = 1 if question.is_oldest_first else -1
            found.sort(key=lambda row: (sign * row[0].created_at, row[0].json[ID]))
        if question.needs_rows:
            found = [row for row in found if question.admits(row[0])]
        self._rows_at_once = min(2 * self._rows_at_once, ROWS_AT_ONCE)
        return Page([row for row, _ in found], [kind for _, kind in found])

    def _flooded_second(self, second: int) -> Iterator[Page]:
        """Read one second of any number of events by lowest id, some thousand ids in each pass."""
        question = self._question
        span = Span(
            max(question.span.low, second << SEQ_BITS),
            min(question.span.high, second << SEQ_BITS | SEQ_MASK),
        )
        above = b""
        while True:
            lowest: list[tuple[bytes, Hit]] = []
            for hits in self._cursors.hits(question.drive, span, POSTINGS_AT_ONCE):
                by_seq = {hit[0] & SEQ_MASK: hit for hit in hits if hit[0] & SEQ_MASK <= question.upto}
                found = sorted((id_, by_seq[seq]) for seq, id_ in self._rows.ids(by_seq) if id_ > above)
                lowest = nsmallest(_IDS_AT_ONCE, merge(lowest, found))
                yield Page([], [])
            for start in range(0, len(lowest), ROWS_AT_ONCE):
                yield self._page([hit for _, hit in lowest[start : start + ROWS_AT_ONCE]])
            if len(lowest) < _IDS_AT_ONCE:
                return
            above = lowest[-1][0]


def _complete_seconds(hits: list[Hit]) -> int:
    """Return how many of the hits, descending, come before the last one's second, which may go on."""
    if not hits:
        return 0
    last = hits[-1][0] >> SEQ_BITS
    return bisect_left(hits, -last, key=lambda hit: -(hit[0] >> SEQ_BITS))
