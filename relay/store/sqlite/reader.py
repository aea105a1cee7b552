"""Questions to one database, synchronously, in slices of bounded work.

Every generator here gives a page, perhaps an empty one, after each statement: no transaction
outlives a slice, and between two slices others get their turn.
"""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from relay.nostr.event import MAX_CREATED_AT, EventId
from relay.nostr.filter import Filter
from relay.store.api import Seq, Stored
from relay.store.sqlite.counting import Count, Found
from relay.store.sqlite.cursors import KEYS_AT_ONCE, Asking, Cursors
from relay.store.sqlite.listing import Listed, Listing
from relay.store.sqlite.plan import (
    MOST_MERGED,
    Drive,
    Keys,
    Kinds,
    Span,
    cheapest,
    drives,
    hashed,
    recent_rows,
    span_of,
)
from relay.store.sqlite.postings import MAX_TS, SEQ_MASK, Hashes
from relay.store.sqlite.records import RecordReading
from relay.store.sqlite.removed import Removed
from relay.store.sqlite.rows import ROWS_AT_ONCE, Rows
from relay.store.sqlite.scanning import Page, Question, Scan
from relay.store.sqlite.schema import failures_as_store_errors, hash_key, open_for_reading

_CACHE_MIB = 32
_MOST_EVENTS = 0.25
"""A share of all events with which it costs less to walk through them all."""

_T = TypeVar("_T")


class SqliteReader:
    """Questions to one database over one connection; one thread at a time."""

    def __init__(self, path: Path) -> None:
        """The database must exist, migrated by its writer. Raises StoreTooNew, StoreError."""
        self._connection = open_for_reading(path, cache_mib=_CACHE_MIB)
        self._ask = Asking(self._connection, path)
        with failures_as_store_errors(f"cannot read {path}"):
            self.key = hash_key(self._connection)
            """The database's hash key, for `Hashes`."""
        self._hashes = Hashes(self.key)
        self._cursors = Cursors(self._ask, self._hashes.everything)
        self._rows = Rows(self._ask)
        self._removed = Removed(self._ask)
        self.records = RecordReading(self._ask)
        """The records of tables."""

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def head(self) -> Seq:
        """Return the seq of the newest commit."""
        found = self._ask("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        return Seq(found[0][0] if found else 0)

    def known(self, ids: Sequence[EventId]) -> set[EventId]:
        """Return those of the ids whose events are stored."""
        found: set[EventId] = set()
        for start in range(0, len(ids), KEYS_AT_ONCE):
            hashes = [self._hashes.id(id_) for id_ in ids[start : start + KEYS_AT_ONCE]]
            hits = self._cursors.of_many(hashes, Span(0, MAX_TS))
            stored = self._rows.ids(ts & SEQ_MASK for ts, _ in hits)
            found.update(EventId(id_.decode()) for _, id_ in stored)
        return found & set(ids)

    def log(self, *, after: Seq, upto: Seq, now: int, live_only: bool = True) -> Iterator[list[Stored]]:
        """Yield the live rows with after < seq ≤ upto, in order of seq; or all, imported ones too."""
        while after < upto:
            end = min(upto, Seq(after + ROWS_AT_ONCE))
            yield self._rows.log(after, end, now, live_only)
            after = end

    def removals(self, *, after: int, limit: int) -> list[tuple[int, int]]:
        """Return (n, ts) of events that went without a word in the log, behind n, the oldest first.

        Only the newest hundred thousand are known; ts is created_at << 31 | seq.
        """
        found = self._ask("SELECT n, ts FROM removal WHERE n > ? ORDER BY n LIMIT ?", after, limit)
        return [(n, ts) for n, ts in found]

    def dump(self, *, upto: Seq, now: int) -> Iterator[list[bytes]]:
        """Yield the json of every row, oldest first, ties by lowest id."""
        drive = Drive(Keys.EVERYTHING, (self._hashes.everything,), None, True)
        question = Question(Filter(), drive, Span(0, MAX_TS), upto, now, is_oldest_first=True)
        for page in Scan(question, self._cursors, self._rows).oldest_first():
            yield [row.json for row in page]

    def scan(self, wanted: Filter, *, upto: Seq, now: int) -> Iterator[Page]:
        """Yield matching rows, newest first, ties by lowest id; `wanted.limit` only sizes the pages."""
        if wanted.is_empty or wanted.limit == 0:
            return
        kinds = None if wanted.kinds is None else Kinds(wanted.kinds)
        nothing: Page = []
        question = yield from self._plan(wanted, kinds, upto, now, nothing, ends_early=True)
        yield from Scan(question, self._cursors, self._rows).newest_first()

    def at_once(self, wanted: Filter, *, upto: Seq, now: int) -> tuple[Page, bool] | None:
        """Return what the first slice of `scan` finds, and whether it is all; None where it may be little."""
        kinds = None if wanted.kinds is None else Kinds(wanted.kinds)
        nothing: Page = []
        question = _at_first(self._plan(wanted, kinds, upto, now, nothing, ends_early=True))
        return None if question is None else Scan(question, self._cursors, self._rows).first()

    def count(self, wanted: Filter, kinds: Kinds | None, *, upto: Seq, now: int) -> Iterator[int]:
        """Yield numbers whose sum is how many events match.

        `kinds` stands for the filter's own condition.
        """
        question = yield from self._plan(wanted, self._needed(kinds), upto, now, 0)
        yield from Count(question, self._ask, self._removed, self._cursors, self._rows).numbers()

    def matches(
        self, wanted: Filter, kinds: Kinds | None, *, upto: Seq, now: int, with_rows: bool
    ) -> Iterator[Found]:
        """Yield what matches, descending by ts; with the rows themselves if they are asked for.

        `kinds` stands for the filter's own condition.
        """
        question = yield from self._plan(wanted, kinds, upto, now, Found(2**63 - 1, [], []))
        yield from Count(question, self._ask, self._removed, self._cursors, self._rows).matches(
            with_rows=with_rows
        )

    def items(self, wanted: Filter, kinds: Kinds | None, *, upto: Seq, now: int) -> Iterator[Listed]:
        """Yield what matches as (created_at, id), the newest second first.

        `kinds` stands for the filter's own condition.
        """
        question = yield from self._plan(wanted, kinds, upto, now, Listed(MAX_CREATED_AT, []))
        drive = question.drive
        is_of_many_kinds = drive.keys is Keys.KINDS and drive.is_exact and len(drive.hashes) > MOST_MERGED
        if is_of_many_kinds and kinds is not None and self._cursors.share(kinds.of) > _MOST_EVENTS:
            # All events are walked through, rather than many parts merged.
            everything = Drive(Keys.EVERYTHING, (self._hashes.everything,), kinds, True)
            question = Question(wanted, everything, question.span, upto, now)
        yield from Listing(question, self._ask, self._cursors, self._rows).slices()

    def _needed(self, kinds: Kinds | None) -> Kinds | None:
        """Leave out a condition that excludes only kinds of which there are none: it would cost most."""
        if kinds is None or not kinds.excluded:
            return kinds
        hashes = [self._hashes.kind(kind) for kind in kinds.of]
        return kinds if self._cursors.number(hashes, Span(0, MAX_TS), 1) else None

    def _plan(
        self,
        wanted: Filter,
        kinds: Kinds | None,
        upto: Seq,
        now: int,
        nothing: _T,
        *,
        ends_early: bool = False,
    ) -> Generator[_T, None, Question]:
        """Choose how to answer, in steps with `nothing` between them.

        `ends_early` says that not all of the answer may be read.
        """
        span = span_of(wanted)
        of = yield from hashed(wanted, kinds, self._hashes, nothing)
        share = self._cursors.share if ends_early else None
        options = drives(wanted, kinds, self._hashes, of, share)
        drive = yield from cheapest(
            options, lambda drive: self._cursors.estimate(drive.hashes, span), nothing
        )
        recent = recent_rows(wanted, kinds, self._hashes, of) if ends_early else None
        return Question(wanted, drive, span, upto, now, recent)


def _at_first(steps: Generator[object, None, _T]) -> _T | None:
    """Return what the steps come to if there is only one; else None."""
    try:
        next(steps)
    except StopIteration as end:
        found: _T = end.value
        return found
    return None
