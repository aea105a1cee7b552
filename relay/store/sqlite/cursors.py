"""Reading postings in slices, each one statement of bounded work and one snapshot of all tiers.

Between two slices the writer may move or remove postings; a cursor by ts neither repeats nor
misses what stays.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from relay.store.api import StoreError
from relay.store.sqlite.merging import parameters, statements
from relay.store.sqlite.plan import MOST_MERGED, Drive, Keys, Span
from relay.store.sqlite.postings import MAX_TS, SEQ_BITS
from relay.store.sqlite.statements import Value, numbers
from relay.store.sqlite.tiers import TIERS

Hit = tuple[int, int]
"""(ts, kind) of a posting; ts = created_at << 31 | seq."""

KEYS_AT_ONCE = 128
"""Hashes looked up by one statement: half a millisecond."""

_ESTIMATED = 2_000
_ESTIMATED_KEYS = 64
_FIRST_WINDOW = (6 * 3_600) << SEQ_BITS
_LARGEST_GROWTH = 36
_SAMPLED = 1_000
_SAMPLE_USES = 1_000
"""After so many uses a sample is taken anew."""
_SMALLEST_GROWTH = 1 / 8
_LONGEST_WALK = 4_096
_MOST_AT_ONCE = 1_000

_OLDEST = (
    " UNION ALL ".join(f"SELECT ts, kind FROM {tier} WHERE h = ?1 AND ts >= ?2" for tier in TIERS)
    + " ORDER BY ts LIMIT ?3"
)
_OF_MANY = " UNION ALL ".join(
    f"SELECT ts, kind FROM json_each(?1) CROSS JOIN {tier} ON h = value AND ts BETWEEN ?2 AND ?3"
    for tier in TIERS
)
"""Nested loops: a fifth cheaper than `h IN (SELECT …)`, which fills a table with the hashes first."""


class Asking:
    """A connection that answers questions; the database's failures become StoreError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def __call__(self, question: str, *values: Value, **named: Value) -> list[tuple[int, ...]]:
        """Return all rows; give values by position or by name, where some may be left unused."""
        try:
            return self._connection.execute(question, named or values).fetchall()
        except sqlite3.Error as error:
            raise self.failure(error) from error

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let the statements of a slice see one state of the database."""
        self("BEGIN")
        try:
            yield
        finally:
            self("COMMIT")

    def open(self, question: str, values: Sequence[Value]) -> sqlite3.Cursor:
        """Return a cursor whose rows need not all be read, to be closed; its errors are for `failure`."""
        return self._connection.execute(question, values)

    def failure(self, error: sqlite3.Error) -> StoreError:
        """Return the error as who asks knows it."""
        return StoreError(f"cannot read {self._path}: {error}")


class Cursors:
    """Slices of the postings of one database."""

    def __init__(self, ask: Asking, everything: int) -> None:
        """`everything` is the hash of all events."""
        self._ask = ask
        self._everything = everything
        self._widths: dict[tuple[Keys, int], int] = {}
        """The first window that lately held enough, by what is looked for and about how many of it."""
        self._sample: Counter[int] = Counter()
        """The kinds of the newest events."""
        self._sample_uses = 0

    def share(self, kinds: frozenset[int]) -> float:
        """Say about which part of all events is of these kinds: of a sample of the newest, 0…1."""
        if self._sample_uses % _SAMPLE_USES == 0:
            newest = Drive(Keys.EVERYTHING, (self._everything,), None, True)
            self._sample = Counter(kind for _, kind in next(self.hits(newest, Span(0, MAX_TS), _SAMPLED), []))
        self._sample_uses += 1
        return sum(self._sample[kind] for kind in kinds) / max(1, self._sample.total())

    def estimate(self, hashes: Sequence[int], span: Span) -> int:
        """Say about how many postings there are, up to a bound; of many hashes, some stand for all."""
        asked = hashes[:_ESTIMATED_KEYS]
        return self.number(asked, span, _ESTIMATED) * len(hashes) // len(asked)

    def number(self, hashes: Sequence[int], span: Span, most: int) -> int:
        """Count postings, removed events' included; of each tier `most` at most."""
        counts = self._ask(
            " UNION ALL ".join(
                f"SELECT count(*) FROM (SELECT 1 FROM json_each(?1) CROSS JOIN {tier} ON h = value "
                "AND ts BETWEEN ?2 AND ?3 LIMIT ?4)"
                for tier in TIERS
            ),
            numbers(hashes),
            span.low,
            span.high,
            most,
        )
        return sum(count for (count,) in counts)

    def hits(self, drive: Drive, span: Span, at_once: int) -> Iterator[list[Hit]]:
        """Yield the drive's postings within the span, descending, at first about `at_once` in a slice.

        Slices may be empty. Only the drive's condition on the kind was checked.
        """
        if drive.is_single:
            yield from self._all_at_once(drive, span, at_once)
        elif len(drive.hashes) <= MOST_MERGED:
            yield from self._merged(drive, span, at_once)
        else:
            yield from self._in_windows(drive, span, at_once)

    def of_many(self, hashes: Sequence[int], span: Span, limit: int = -1) -> list[Hit]:
        """Return postings in no order, at most `limit` of them."""
        return self._ask(  # type: ignore[return-value]  # two columns
            f"{_OF_MANY} LIMIT ?4", numbers(hashes), span.low, span.high, limit
        )

    def _all_at_once(self, drive: Drive, span: Span, at_once: int) -> Iterator[list[Hit]]:
        """Read a posting of each hash; they come in no order, so the first slice with any has all."""
        found: list[Hit] = []
        for start in range(0, len(drive.hashes), KEYS_AT_ONCE):
            hashes = drive.hashes[start : start + KEYS_AT_ONCE]
            some = self.of_many(hashes, span, 2 * KEYS_AT_ONCE)
            if len(some) == 2 * KEYS_AT_ONCE:
                # Replaceable events that were not written as such.
                yield from self._in_windows(drive, span, at_once)
                return
            found += _admitted(drive, some)
            yield []
        yield sorted(found, reverse=True)

    def _merged(self, drive: Drive, span: Span, at_once: int) -> Iterator[list[Hit]]:
        hashes, kinds = drive.hashes, drive.kinds
        ask = statements(hashes, kinds)
        high = span.high
        walk = 4 * at_once
        while high >= span.low:
            # Where most kinds are not wanted, few postings may be found on a long way.
            low = span.low if kinds is None else self.floor(hashes, Span(span.low, high), walk)
            found: list[Hit] = self._ask(  # type: ignore[assignment]  # two columns
                ask.postings, *parameters(hashes, kinds, Span(low, high), at_once)
            )
            if len(found) == at_once:
                low = found[-1][0]
            yield found if drive.is_disjoint else list(dict.fromkeys(found))
            # Who asks on found little that could be shown: the next step may be longer.
            walk = min(4 * walk, _LONGEST_WALK)
            at_once = min(2 * at_once, _MOST_AT_ONCE)
            high = low - 1

    def floor(self, hashes: Sequence[int], span: Span, walk: int) -> int:
        """Return the lowest ts of the span down to which there are about `walk` postings.

        No tier has more than that of one hash.
        """
        most = max(1, walk // len(hashes))
        return self._ask(statements(hashes, None).floor, *parameters(hashes, None, span, most))[0][0]

    def _in_windows(self, drive: Drive, span: Span, at_once: int) -> Iterator[list[Hit]]:
        """Look at windows of time that grow while little is found and shrink when too much is.

        One statement for all hashes beats a merge of one cursor for each.
        """
        # Reading a posting costs far less than seeking to it.
        most = max(4 * at_once, 2_000)
        shape = drive.keys, len(drive.hashes).bit_length()
        width = self._widths.get(shape, _FIRST_WINDOW)
        is_first = True
        high = min(span.high, self._newest())
        while high >= span.low:
            low = max(span.low, high - width)
            found: list[Hit] = []
            for start in range(0, len(drive.hashes), KEYS_AT_ONCE):
                if start:
                    yield []
                # A window of one ts holds one event, once under each hash: that is never too much.
                limit = most + 1 - len(found) if low < high else -1
                found += self.of_many(drive.hashes[start : start + KEYS_AT_ONCE], Span(low, high), limit)
                if low < high and len(found) > most:
                    break
            if low < high and len(found) > most:
                width = (high - low) // 8
                yield []
                continue
            admitted = _admitted(drive, found)
            yield sorted(admitted if drive.is_disjoint else set(admitted), reverse=True)
            growth = at_once / len(admitted) if admitted else _LARGEST_GROWTH
            width = min(int(width * min(max(growth, _SMALLEST_GROWTH), _LARGEST_GROWTH)) + 1, MAX_TS)
            if is_first:
                self._widths[shape] = width
                is_first = False
            high = low - 1

    def _newest(self) -> int:
        """Return the highest ts of all, -1 if there is none."""
        found = self._ask(
            " UNION ALL ".join(f"SELECT max(ts) FROM {tier} WHERE h = ?1" for tier in TIERS), self._everything
        )
        return max((ts for (ts,) in found if ts is not None), default=-1)

    def oldest(self, h: int, low: int, at_once: int) -> list[Hit]:
        """Return the first postings of h from `low` on, ascending; fewer than `at_once` only at the end."""
        return self._ask(_OLDEST, h, low, at_once)  # type: ignore[return-value]  # two columns


def _admitted(drive: Drive, hits: list[Hit]) -> list[Hit]:
    kinds = drive.kinds
    return hits if kinds is None else [hit for hit in hits if kinds.admits(hit[1])]
