"""Reading events as postings name them."""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from relay.store.api import Seq, Stored
from relay.store.sqlite.cursors import Asking, Hit
from relay.store.sqlite.merging import parameters, statements
from relay.store.sqlite.plan import Drive, Span
from relay.store.sqlite.postings import SEQ_BITS, SEQ_MASK
from relay.store.sqlite.statements import Value, numbers
from relay.store.sqlite.tiers import TIERS

ROWS_AT_ONCE = 128
"""Events read before their size is looked at; 30 MB if each is as long as the relay allows."""

_ENOUGH_BYTES = 2**22
"""A slice ends behind so much JSON."""

_REST_OF_SECOND = 16
_LIVING = "(expires_at IS NULL OR expires_at > :now)"
_UNDER = (
    f"SELECT ts & {SEQ_MASK}, ts >> {SEQ_BITS}, json FROM ("
    + " UNION ALL ".join(
        f"SELECT ts FROM json_each(:hashes) CROSS JOIN {tier} ON h = value AND ts BETWEEN :low AND :high"
        for tier in TIERS
    )
    + f") CROSS JOIN event ON seq = ts & {SEQ_MASK} AND seq <= :upto AND {_LIVING} LIMIT :most"
)
_OF_HITS = (
    f"SELECT seq, value >> {SEQ_BITS}, event.json FROM json_each(:hits) "
    f"CROSS JOIN event ON seq = value & {SEQ_MASK} AND {_LIVING}"
)
_JSON = itemgetter(2)
_KIND = b',"kind":'
_BEHIND_AUTHOR = 147

_as_stored = partial(tuple.__new__, Stored)
"""Make a `Stored` of a row (seq, created_at, json) in half the time that its own constructor takes."""


_Row = tuple[int, int, bytes]
_Posting = tuple[int, int, bytes | None]


class Slice(NamedTuple):
    """Some rows, newest first; within a second in the order of the log."""

    rows: list[Stored]
    low: int
    """Down to this ts all was looked at."""


class Rows:
    """The events of one database."""

    def __init__(self, ask: Asking) -> None:
        self._ask = ask

    def newest(self, drive: Drive, span: Span, *, rows: int, walk: int, upto: Seq, now: int) -> Slice:
        """Read about so many rows under a few hashes, newest first; fewer behind `walk` postings.

        A second that was begun is read to its end where that costs little. Only the drive's condition on
        the kind was checked.
        """
        ask = statements(drive.hashes, drive.kinds)
        low, most = span.low, walk
        if drive.kinds is not None:
            # Where most kinds are not wanted, few postings may be found on a long way.
            floor = parameters(drive.hashes, None, span, max(1, walk // len(drive.hashes)))
            low, most = self._ask(statements(drive.hashes, None).floor, *floor)[0][0], -1
        asked = parameters(drive.hashes, drive.kinds, Span(low, span.high), most, upto, now)
        found, last = self._read(ask.rows, asked, rows, most)
        if last is not None:
            low = last[1] << SEQ_BITS | last[0]
        if not drive.is_disjoint:
            found = list({row[0]: row for row in found}.values())
        return Slice(list(map(_as_stored, found)), low)

    def _read(
        self, question: str, values: Sequence[Value], rows: int, most: int
    ) -> tuple[list[_Row], _Posting | None]:
        """Read on until there are `rows` and the last one's second is another one, or behind `most` postings.

        Also returns the last posting that was looked at; None where there are no more.
        """
        found: list[_Row] = []
        last: _Posting | None = None
        size = walked = 0
        cursor = None
        # No context manager: it would take as long as the rows of a small answer.
        try:
            cursor = self._ask.open(question, values)
            while True:
                asked = min(max(rows - len(found), _REST_OF_SECOND), ROWS_AT_ONCE)
                some = cursor.fetchmany(asked)
                walked += len(some)
                last = some[-1] if some else last
                there = [row for row in some if row[2] is not None]
                found += there
                if len(some) < asked:
                    return found, last if walked == most else None
                size += sum(map(len, map(_JSON, there)))
                if len(found) >= rows and found[-1][1] != found[rows - 2][1]:
                    return found, last
                if size >= _ENOUGH_BYTES or len(found) >= rows + ROWS_AT_ONCE:
                    return found, last
        except sqlite3.Error as error:
            raise self._ask.failure(error) from error
        finally:
            if cursor is not None:
                cursor.close()

    def under(self, hashes: Sequence[int], span: Span, *, most: int, upto: Seq, now: int) -> list[Stored]:
        """Return the rows under these hashes, in no order, at most `most` of them."""
        found = self._ask(
            _UNDER,
            hashes=numbers(hashes),
            low=span.low,
            high=span.high,
            upto=upto,
            now=now,
            most=most,
        )
        return list(map(_as_stored, found))

    def of(self, hits: Sequence[Hit], now: int) -> list[Stored]:
        """Return the rows that are there and have not expired, in the hits' order."""
        return list(map(_as_stored, self._ask(_OF_HITS, hits=numbers(ts for ts, _ in hits), now=now)))

    def ids(self, seqs: Iterable[int]) -> list[tuple[int, bytes]]:
        """Return (seq, id as 64 hex digits) of those that are there."""
        return self._ask(  # type: ignore[return-value]
            "SELECT seq, substr(json, 8, 64) FROM event WHERE seq IN (SELECT value FROM json_each(?))",
            numbers(seqs),
        )

    def gone(self, hits: Sequence[Hit], now: int) -> set[int]:
        """Return the seqs of those that were removed or have expired, without reading the events."""
        found = self._ask(
            "SELECT seq FROM dead WHERE seq IN (SELECT value FROM json_each(?1)) UNION ALL "
            # The plus keeps SQLite from reading each event: few have expired and are still there.
            "SELECT seq FROM event WHERE expires_at <= ?2 AND +seq IN (SELECT value FROM json_each(?1))",
            numbers(ts & SEQ_MASK for ts, _ in hits),
            now,
        )
        return {seq for (seq,) in found}

    def log(self, after: Seq, upto: Seq, now: int, live_only: bool) -> list[Stored]:
        """Return the live rows with after < seq ≤ upto, or all of these, in order of seq."""
        rows = self._ask(
            f"SELECT seq, created_at, json FROM event WHERE seq > ? AND seq <= ? {'AND live ' * live_only}"
            "AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq",
            after,
            upto,
            now,
        )
        return list(map(_as_stored, rows))


def kind_of(row: Stored) -> int:
    """Read the kind out of the canonical JSON, without parsing the rest."""
    start = row.json.index(_KIND, _BEHIND_AUTHOR) + len(_KIND)
    return int(row.json[start : row.json.index(b",", start)])
