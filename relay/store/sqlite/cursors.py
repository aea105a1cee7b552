"""Reading postings in slices, each one statement of bounded work and one snapshot of all tiers.

Between two slices the writer may move or remove postings; a cursor by ts neither repeats nor
misses what stays.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from relay.store.sqlite.plan import Drive, Keys, Kinds, Span
from relay.store.sqlite.postings import MAX_TS, SEQ_BITS
from relay.store.sqlite.schema import failures_as_store_errors
from relay.store.sqlite.statements import numbers
from relay.store.sqlite.tiers import TIERS

Hit = tuple[int, int]
"""(ts, kind) of a posting; ts = created_at << 31 | seq."""

KEYS_AT_ONCE = 512
"""Hashes looked up by one statement."""

_ESTIMATED = 2_000
_ESTIMATED_KEYS = 64
_FIRST_WINDOW = (6 * 3_600) << SEQ_BITS
_LARGEST_GROWTH = 36
_SAMPLED = 1_000
_SAMPLE_USES = 1_000
"""After so many uses a sample is taken anew."""
_SMALLEST_GROWTH = 1 / 8
_LONGEST_WALK = 16_384
_MOST_AT_ONCE = 1_000

_OF_MANY = " UNION ALL ".join(
    f"SELECT ts, kind FROM {tier} WHERE h IN (SELECT value FROM json_each(?1)) AND ts BETWEEN ?2 AND ?3"
    for tier in TIERS
)


def kind_condition(kinds: Kinds | None, parameter: str) -> str:
    """Return the condition on `kind` as SQL; the parameter is the JSON list of the kinds."""
    if kinds is None:
        return ""
    return f"AND kind {'NOT ' * kinds.excluded}IN (SELECT value FROM json_each({parameter}))"


class Asking:
    """A connection that answers questions; the database's failures become StoreError."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path

    def __call__(self, question: str, *values: int | str, **named: int | str) -> list[tuple[int, ...]]:
        """Return all rows; give values by position or by name, where some may be left unused."""
        with failures_as_store_errors(f"cannot read {self._path}"):
            return self._connection.execute(question, named or values).fetchall()


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
                f"SELECT count(*) FROM (SELECT 1 FROM {tier} WHERE h IN (SELECT value FROM json_each(?1)) "
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
        if drive.keys is Keys.IDS:
            yield from self._by_id(drive, span)
        elif len(drive.hashes) == 1:
            yield from self._of_one(drive.hashes[0], drive.kinds, span, at_once)
        else:
            yield from self._in_windows(drive, span, at_once)

    def of_many(self, hashes: Sequence[int], span: Span, limit: int = -1) -> list[Hit]:
        """Return postings in no order, at most `limit` of them."""
        return self._ask(  # type: ignore[return-value]  # two columns
            f"{_OF_MANY} LIMIT ?4", numbers(hashes), span.low, span.high, limit
        )

    def _by_id(self, drive: Drive, span: Span) -> Iterator[list[Hit]]:
        found: list[Hit] = []
        for start in range(0, len(drive.hashes), KEYS_AT_ONCE):
            found += _admitted(drive, self.of_many(drive.hashes[start : start + KEYS_AT_ONCE], span))
            yield []
        yield sorted(found, reverse=True)

    def _of_one(self, h: int, kinds: Kinds | None, span: Span, at_once: int) -> Iterator[list[Hit]]:
        high = span.high
        # Where most kinds are not wanted, few postings may be found on a long way.
        walk = 4 * at_once
        while high >= span.low:
            low = span.low if kinds is None else self.floor(h, Span(span.low, high), walk)
            found = self._ask(
                " UNION ALL ".join(
                    f"SELECT * FROM (SELECT {n}, ts, kind FROM {tier} WHERE h = ?1 AND ts BETWEEN ?2 AND ?3 "
                    f"{kind_condition(kinds, '?5')} ORDER BY ts DESC LIMIT ?4)"
                    for n, tier in enumerate(TIERS)
                ),
                h,
                low,
                high,
                at_once,
                *([] if kinds is None else [numbers(kinds.of)]),
            )
            low = max(low, *(_last_of_full(found, n, at_once, low) for n in range(len(TIERS))))
            yield sorted(((ts, kind) for _, ts, kind in found if ts >= low), reverse=True)
            # Who asks on found little that could be shown: the next step may be longer.
            walk = min(4 * walk, _LONGEST_WALK)
            at_once = min(2 * at_once, _MOST_AT_ONCE)
            high = low - 1

    def floor(self, h: int, span: Span, walk: int) -> int:
        """Return the lowest ts of the span down to which no tier has more than `walk` postings of h."""
        return self._ask(
            "SELECT max("
            + ", ".join(
                f"coalesce((SELECT ts FROM {tier} WHERE h = ?1 AND ts BETWEEN ?2 AND ?3 "
                "ORDER BY ts DESC LIMIT 1 OFFSET ?4), ?2)"
                for tier in TIERS
            )
            + ")",
            h,
            span.low,
            span.high,
            walk,
        )[0][0]

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
        found = self._ask(
            " UNION ALL ".join(
                f"SELECT * FROM (SELECT {n}, ts, kind FROM {tier} WHERE h = ?1 AND ts >= ?2 "
                "ORDER BY ts LIMIT ?3)"
                for n, tier in enumerate(TIERS)
            ),
            h,
            low,
            at_once,
        )
        end = min(_last_of_full(found, n, at_once, MAX_TS) for n in range(len(TIERS)))
        return sorted((ts, kind) for _, ts, kind in found if ts <= end)


def _admitted(drive: Drive, hits: list[Hit]) -> list[Hit]:
    kinds = drive.kinds
    return hits if kinds is None else [hit for hit in hits if kinds.admits(hit[1])]


def _last_of_full(found: list[tuple[int, ...]], tier: int, limit: int, otherwise: int) -> int:
    """Return the last ts of a tier that gave as many rows as it may, and so may have more beyond it."""
    part = [ts for n, ts, _ in found if n == tier]
    return part[-1] if len(part) == limit else otherwise
