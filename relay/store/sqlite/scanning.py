"""From postings to rows in the order of answers: by created_at, and by lowest id within a second.

Postings come by (created_at, seq), so rows are put in order second by second. Nothing else is ever
sorted, and a second with very many events is read in passes of bounded memory.
"""

from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge, nsmallest
from operator import itemgetter

from relay.nostr.event import decode
from relay.nostr.filter import Filter
from relay.store.api import Seq, Stored
from relay.store.sqlite.cursors import Cursors, Hit
from relay.store.sqlite.plan import MOST_MERGED, Drive, Keys, Span
from relay.store.sqlite.postings import AUTHOR, ID, MAX_TS, SEQ_BITS, SEQ_MASK
from relay.store.sqlite.rows import ROWS_AT_ONCE, Rows, kind_of

POSTINGS_AT_ONCE = 1_000
"""Postings read by one statement where no limit asks for fewer."""

_FLOOD = 128
"""A second with more postings than this is put in order by its ids alone, before its rows are read."""
_IDS_AT_ONCE = 8_192
_MOST_ROWS = 512
"""Rows of one slice; their bytes are bounded too."""
_PARSED_AT_ONCE = 64
_FIRST_WALK = 1_024
_LONGEST_WALK = 4_096
"""Postings looked through in a slice that finds little."""
_ROWS_FOR_A_HASH = 4
"""So many rows are read in the time that it takes to look up a hash in a window of time."""

_CREATED_AT = itemgetter(1)

Page = list[Stored]
"""Rows in order."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for, and how it is looked up."""

    wanted: Filter
    drive: Drive
    span: Span
    upto: Seq
    now: int
    recent: Drive | None = None
    """Postings that may hold enough of the answer among the newest (see `plan.recent_rows`)."""
    is_oldest_first: bool = False

    @property
    def needs_rows(self) -> bool:
        """Whether postings alone cannot say what matches."""
        return not self.drive.is_exact or self.drive.keys is Keys.IDS

    def matching(self, rows: list[Stored], drive: Drive) -> list[Stored]:
        """Return those of the rows that this drive found which match: what postings do not say is checked.

        They said the kinds, and hashes are trusted but for ids.
        """
        ids, authors = self.wanted.ids, self.wanted.authors
        if drive.keys is Keys.IDS and ids is not None:
            rows = [row for row in rows if row[2][ID].decode() in ids]
        if drive.is_exact:
            return rows
        if self.wanted.tags or authors is None:
            return [row for row in rows if self.wanted.matches(decode(row[2]))]
        return [row for row in rows if row[2][AUTHOR].decode() in authors]


class Scan:
    """One question being answered, page by page. A page may be empty: then others get a turn."""

    def __init__(self, question: Question, cursors: Cursors, rows: Rows) -> None:
        self._question = question
        self._cursors = cursors
        self._rows = rows
        self._left = question.wanted.limit
        """How many more are asked for, as far as is known here: who may see them is decided above."""

    def newest_first(self) -> Iterator[Page]:
        """Yield all rows, newest first. `wanted.limit` only sizes the pages: who sees them may vary."""
        question = self._question
        drive, span = question.drive, question.span
        if drive.is_single and len(drive.hashes) <= ROWS_AT_ONCE:
            yield from self._single(drive, span)
        elif len(drive.hashes) <= MOST_MERGED:
            yield from self._merged(drive, span)
        else:
            if question.recent is not None and not drive.is_single:
                patience = _ROWS_FOR_A_HASH * len(drive.hashes)
                span = yield from self._merged(question.recent, span, patience=patience)
            yield from self._by_postings(drive, span)

    def first(self) -> tuple[Page, bool] | None:
        """Return the first rows, newest first, and whether they are all; None where they may be few.

        What `newest_first` yields first, without its steps.
        """
        question = self._question
        drive, span = question.drive, question.span
        if drive.is_single and len(drive.hashes) <= ROWS_AT_ONCE:
            most = ROWS_AT_ONCE + 1
            found = self._rows.under(drive.hashes, span, most=most, upto=question.upto, now=question.now)
            return None if len(found) == most else (self._of_single(found), True)
        if not drive.is_exact or len(drive.hashes) > MOST_MERGED:
            return None
        held, low = self._rows.newest(
            drive,
            span,
            rows=self._rows_wanted(0, 0, True),
            walk=_FIRST_WALK,
            upto=question.upto,
            now=question.now,
        )
        is_all = low <= span.low
        return self._ordered(held if is_all else _taken_before(low >> SEQ_BITS, held), drive), is_all

    def _single(self, drive: Drive, span: Span) -> Iterator[Page]:
        """Read all rows at once: there is one under each hash, in the order of the hashes."""
        question = self._question
        most = ROWS_AT_ONCE + 1
        found = self._rows.under(drive.hashes, span, most=most, upto=question.upto, now=question.now)
        if len(found) == most:
            # Replaceable events that were not written as such.
            yield from self._by_postings(drive, span)
            return
        yield self._of_single(found)

    def _of_single(self, found: list[Stored]) -> Page:
        kinds = self._question.drive.kinds
        if kinds is not None:
            found = [row for row in found if kinds.admits(kind_of(row))]
        found.sort(key=_newest_first)
        return self._checked(found, self._question.drive)

    def _merged(self, drive: Drive, span: Span, patience: int | None = None) -> Generator[Page, None, Span]:
        """Read the rows of a few hashes as one stream; return the span that was not read.

        Nothing is left unread but where, going on as it went so far, more than `patience` rows would have
        to be read.
        """
        question = self._question
        high, walk = span.high, _FIRST_WALK
        held: list[Stored] = []
        read = kept = 0
        while high >= span.low:
            rows = self._rows_wanted(read, kept, drive.is_exact)
            found, low = self._rows.newest(
                drive, Span(span.low, high), rows=rows, walk=walk, upto=question.upto, now=question.now
            )
            read += len(found)
            held += found
            # The last second counts only when it is known to be complete.
            second = low >> SEQ_BITS if low > span.low else -1
            page = self._ordered(_taken_before(second, held), drive)
            kept += len(page)
            yield page
            if len(held) > _FLOOD:
                held.clear()
                yield from self._flooded_second(drive, second)
                low = max(span.low, second << SEQ_BITS)
            elif (
                patience is not None
                and self._left is not None
                and self._left * read > patience * max(1, kept)
                and low > span.low
            ):
                # What is held is found again.
                return Span(span.low, min(high, second << SEQ_BITS | SEQ_MASK))
            high = low - 1
            walk = min(4 * walk, _LONGEST_WALK)
        return Span(1, 0)

    def _rows_wanted(self, read: int, kept: int, is_exact: bool) -> int:
        """Say how many rows the next slice should read."""
        left = self._left
        if left is None:
            return _MOST_ROWS
        if left <= 0:
            # Enough was found already: who asks on does not show all of it.
            left = ROWS_AT_ONCE
        if not is_exact:
            left = left * read // kept + left // 8 if kept else max(64, 2 * left)
        # Where rows must be parsed, each costs ten times as much.
        most = _PARSED_AT_ONCE if not is_exact and self._question.wanted.tags else _MOST_ROWS
        # One more, to end with a whole second.
        return min(left + 1, most)

    def _by_postings(self, drive: Drive, span: Span) -> Iterator[Page]:
        """Read postings in slices, and then their rows."""
        question = self._question
        # Some more than the limit, for the sake of the last second.
        at_once = POSTINGS_AT_ONCE if self._left is None else min(max(self._left, 0) + 32, POSTINGS_AT_ONCE)
        high = span.high
        while high >= span.low:
            held: list[Hit] = []
            for hits in self._cursors.hits(drive, Span(span.low, high), at_once):
                held += [hit for hit in hits if hit[0] & SEQ_MASK <= question.upto]
                complete = _complete_seconds(held)
                yield from self._pages(drive, held[:complete])
                del held[:complete]
                if len(held) > _FLOOD:
                    break
                if not complete:
                    yield []
            else:
                yield from self._pages(drive, held)
                return
            second = held[0][0] >> SEQ_BITS
            yield from self._flooded_second(drive, second)
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
                yield from self._pages(
                    question.drive, [hit for hit in complete if hit[0] & SEQ_MASK <= question.upto]
                )
                low = last << SEQ_BITS
            else:
                yield from self._flooded_second(question.drive, last)
                low = (last + 1) << SEQ_BITS
            if low > MAX_TS:
                return

    def _pages(self, drive: Drive, hits: list[Hit]) -> Iterator[Page]:
        """Read the rows of complete seconds; pages end with a second."""
        start = 0
        while start < len(hits):
            end = min(start + min(self._rows_wanted(0, 0, drive.is_exact), ROWS_AT_ONCE), len(hits))
            last = hits[end - 1][0] >> SEQ_BITS
            while end < len(hits) and hits[end][0] >> SEQ_BITS == last:
                end += 1
            if end - start <= ROWS_AT_ONCE + _FLOOD:
                yield self._page(drive, hits[start:end])
            else:
                before = start
                while hits[before][0] >> SEQ_BITS != last:
                    before += 1
                if before > start:
                    yield self._page(drive, hits[start:before])
                yield from self._flooded_second(drive, last)
            start = end

    def _page(self, drive: Drive, hits: Sequence[Hit]) -> Page:
        return self._ordered(self._rows.of(hits, self._question.now), drive)

    def _ordered(self, rows: list[Stored], drive: Drive) -> Page:
        """Put rows that are in order but for ties in order: those go by id."""
        if len(set(map(_CREATED_AT, rows))) < len(rows):
            rows.sort(key=_oldest_first if self._question.is_oldest_first else _newest_first)
        return self._checked(rows, drive)

    def _checked(self, rows: list[Stored], drive: Drive) -> Page:
        page = self._question.matching(rows, drive)
        if self._left is not None:
            self._left -= len(page)
        return page

    def _flooded_second(self, drive: Drive, second: int) -> Iterator[Page]:
        """Read one second of any number of events by lowest id, some thousand ids in each pass."""
        question = self._question
        span = Span(
            max(question.span.low, second << SEQ_BITS),
            min(question.span.high, second << SEQ_BITS | SEQ_MASK),
        )
        above = b""
        while True:
            lowest: list[tuple[bytes, Hit]] = []
            for hits in self._cursors.hits(drive, span, POSTINGS_AT_ONCE):
                by_seq = {hit[0] & SEQ_MASK: hit for hit in hits if hit[0] & SEQ_MASK <= question.upto}
                found = sorted((id_, by_seq[seq]) for seq, id_ in self._rows.ids(by_seq) if id_ > above)
                lowest = nsmallest(_IDS_AT_ONCE, merge(lowest, found))
                yield []
            for start in range(0, len(lowest), ROWS_AT_ONCE):
                yield self._page(drive, [hit for _, hit in lowest[start : start + ROWS_AT_ONCE]])
            if len(lowest) < _IDS_AT_ONCE:
                return
            above = lowest[-1][0]


def _newest_first(row: Stored) -> tuple[int, bytes]:
    return -row[1], row[2][ID]


def _oldest_first(row: Stored) -> tuple[int, bytes]:
    return row[1], row[2][ID]


def _taken_before(second: int, rows: list[Stored]) -> list[Stored]:
    """Remove and return those of the rows, newest first, that are newer than the second."""
    end = len(rows)
    while end and rows[end - 1].created_at <= second:
        end -= 1
    taken = rows[:end]
    del rows[:end]
    return taken


def _complete_seconds(hits: list[Hit]) -> int:
    """Return how many of the hits, descending, come before the last one's second, which may go on."""
    if not hits:
        return 0
    last = hits[-1][0] >> SEQ_BITS
    return bisect_left(hits, -last, key=lambda hit: -(hit[0] >> SEQ_BITS))
