"""Finding events, synchronously, in slices of bounded work.

Every generator here gives a page, perhaps an empty one, after each statement: no read transaction
outlives a slice, and between two slices others get their turn. Nothing is ever sorted but one
slice. A slice sees one snapshot of all tiers; between slices the writer may move or remove rows,
which a cursor by ts neither repeats nor misses.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge, nsmallest
from pathlib import Path
from typing import NamedTuple

from relay.nostr.event import EventId, decode
from relay.nostr.filter import Filter
from relay.store.api import Seq, Stored
from relay.store.sqlite.plan import Drive, Keys, Kinds, Span, cheapest, drives, span_of
from relay.store.sqlite.postings import AUTHOR, ID, MAX_TS, SEQ_BITS, SEQ_MASK, Hashes
from relay.store.sqlite.schema import failures_as_store_errors, hash_key, open_for_reading
from relay.store.sqlite.statements import numbers

_CACHE_MIB = 32
_DAY = 86_400 << SEQ_BITS
_TIERS = ("ix0", "ix1", "ix2")

_ROWS_AT_ONCE = 128
"""Events read by one statement; 30 MB if each is as long as the relay allows."""
_KEYS_AT_ONCE = 256
_POSTINGS_AT_ONCE = 1_000
_COUNTED_AT_ONCE = 20_000
_ESTIMATED = 2_000
_FLOOD = 128
"""A second with more postings than this is sorted by passes over its ids, in bounded memory."""
_IDS_AT_ONCE = 8_192

Hit = tuple[int, int]
"""(ts, kind) of a posting."""


class Page(NamedTuple):
    """Rows in order, newest first, with the kind of each."""

    rows: list[Stored]
    kinds: list[int]


_EMPTY = Page([], [])


class Found(NamedTuple):
    """A slice of what matches, descending by ts."""

    low: int
    """No later slice has a ts of this or above."""
    ts: list[int]
    rows: list[Stored]
    """Parallel to `ts`, or empty where they were not asked for."""


@dataclass(slots=True)
class _Scan:
    """One question under way."""

    wanted: Filter
    drive: Drive
    span: Span
    upto: Seq
    now: int
    is_oldest_first: bool = False
    passed: int = 0
    """Rows given so far."""

    @property
    def left(self) -> int:
        """How many rows are worth reading at once."""
        if self.wanted.limit is None:
            return _ROWS_AT_ONCE
        return max(8, self.wanted.limit - self.passed)

    @property
    def needs_rows(self) -> bool:
        """Whether postings alone cannot say what matches."""
        return not self.drive.is_exact or self.drive.keys is Keys.IDS

    def admits(self, row: Stored) -> bool:
        """Check what the postings did not: their kinds were checked, and hashes are trusted but for ids."""
        wanted = self.wanted
        if wanted.ids is not None and row.id not in wanted.ids:
            return False
        if self.drive.is_exact:
            return True
        if wanted.tags:
            return wanted.matches(decode(row.json))
        return wanted.authors is None or row.json[AUTHOR].decode() in wanted.authors


class SqliteReader:
    """Questions to one database, over one connection; one thread at a time."""

    def __init__(self, path: Path) -> None:
        """The database must exist, migrated by its writer. Raises StoreTooNew, StoreError."""
        self._path = path
        self._connection = open_for_reading(path, cache_mib=_CACHE_MIB)
        with failures_as_store_errors(f"cannot read {path}"):
            self.key = hash_key(self._connection)
        self._hashes = Hashes(self.key)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _ask(self, question: str, *values: int | str) -> list[tuple[int, ...]]:
        with failures_as_store_errors(f"cannot read {self._path}"):
            return self._connection.execute(question, values).fetchall()

    def head(self) -> Seq:
        """Return the seq of the newest commit."""
        found = self._ask("SELECT seq FROM sqlite_sequence WHERE name = 'event'")
        return Seq(found[0][0] if found else 0)

    def known(self, ids: Sequence[EventId]) -> set[EventId]:
        """Return those of the ids whose events are stored."""
        found: set[EventId] = set()
        for start in range(0, len(ids), _KEYS_AT_ONCE):
            hashes = [self._hashes.id(id_) for id_ in ids[start : start + _KEYS_AT_ONCE]]
            hits = self._hits_of(hashes, Span(0, MAX_TS), -1)
            found.update(EventId(id_.decode()) for _, id_ in self._ids_of(hits))
        return found & set(ids)

    def log(self, *, after: Seq, upto: Seq, now: int) -> Iterator[list[Stored]]:
        """Yield the live rows with after < seq ≤ upto, in order of seq."""
        while after < upto:
            end = min(upto, after + _ROWS_AT_ONCE)
            rows = self._ask(
                "SELECT seq, created_at, json FROM event WHERE seq > ? AND seq <= ? AND live "
                "AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq",
                after,
                end,
                now,
            )
            yield [Stored(*row) for row in rows]  # type: ignore[arg-type]
            after = Seq(end)

    def dump(self, *, upto: Seq, now: int) -> Iterator[list[bytes]]:
        """Yield the json of every row, oldest first, ties by lowest id."""
        drive = Drive(Keys.EVERYTHING, (self._hashes.everything,), None, True)
        scan = _Scan(Filter(), drive, Span(0, MAX_TS), upto, now, is_oldest_first=True)
        low = 0
        while True:
            hits = self._oldest_hits(low)
            if not hits:
                return
            last = hits[-1][0] >> SEQ_BITS
            # All but the last second, which may go on; one that is the only one is read by itself.
            whole = [hit for hit in hits if hit[0] >> SEQ_BITS < last]
            if whole or len(hits) < _POSTINGS_AT_ONCE:
                kept = [hit for hit in (whole or hits) if hit[0] & SEQ_MASK <= upto]
                for page in self._pages(kept, scan):
                    yield [row.json for row in page.rows]
                low = (last if whole else last + 1) << SEQ_BITS
            else:
                for page in self._flooded_second(last, scan):
                    yield [row.json for row in page.rows]
                low = (last + 1) << SEQ_BITS
            if low > MAX_TS:
                return

    def _oldest_hits(self, low: int) -> list[Hit]:
        """Return the first postings of all from `low` on, ascending."""
        found = self._ask(
            " UNION ALL ".join(
                f"SELECT * FROM (SELECT {n}, ts, kind FROM {tier} WHERE h = ?1 AND ts >= ?2 "
                "ORDER BY ts LIMIT ?3)"
                for n, tier in enumerate(_TIERS)
            ),
            self._hashes.everything,
            low,
            _POSTINGS_AT_ONCE,
        )
        ends = [
            part[-1][1]
            for n in range(len(_TIERS))
            if len(part := [row for row in found if row[0] == n]) == _POSTINGS_AT_ONCE
        ]
        # A tier that gave all it may has more above its last one.
        end = min(ends, default=MAX_TS)
        return sorted((ts, kind) for _, ts, kind in found if ts <= end)

    def scan(self, wanted: Filter, *, upto: Seq, now: int) -> Iterator[Page]:
        """Yield matching rows, newest first, ties by lowest id; `wanted.limit` only sizes the pages."""
        if wanted.is_empty or wanted.limit == 0:
            return
        span = span_of(wanted)
        drive = self._choose(wanted, _kinds_of(wanted), span)
        scan = _Scan(wanted, drive, span, upto, now)
        at_once = _POSTINGS_AT_ONCE if wanted.limit is None else min(wanted.limit + 2, _POSTINGS_AT_ONCE)
        while True:
            held: list[Hit] = []
            for hits in self._hits(drive, span, at_once, now):
                held += [hit for hit in hits if hit[0] & SEQ_MASK <= upto]
                whole = _whole_seconds(held)
                yield from self._pages(held[:whole], scan)
                del held[:whole]
                if len(held) > _FLOOD:
                    break
            else:
                yield from self._pages(held, scan)
                return
            second = held[0][0] >> SEQ_BITS
            yield from self._flooded_second(second, scan)
            span = Span(span.low, (second << SEQ_BITS) - 1)

    def _choose(self, wanted: Filter, kinds: Kinds | None, span: Span) -> Drive:
        return cheapest(drives(wanted, kinds, self._hashes), lambda drive: self._estimate(drive.hashes, span))

    def _estimate(self, hashes: Sequence[int], span: Span) -> int:
        """Count postings, up to a bound; of many hashes, a part stands for all."""
        asked = hashes[:64]
        counted = 0
        for tier in _TIERS:
            counted += self._ask(
                f"SELECT count(*) FROM (SELECT 1 FROM {tier} WHERE h IN (SELECT value FROM json_each(?)) "
                "AND ts BETWEEN ? AND ? LIMIT ?)",
                numbers(asked),
                span.low,
                span.high,
                _ESTIMATED,
            )[0][0]
        return counted * len(hashes) // len(asked)

    def _hits(self, drive: Drive, span: Span, at_once: int, now: int) -> Iterator[list[Hit]]:
        """Yield the drive's postings within the span, descending; slices may be empty."""
        if drive.keys is Keys.IDS:
            found: list[Hit] = []
            for start in range(0, len(drive.hashes), _KEYS_AT_ONCE):
                found += self._hits_of(drive.hashes[start : start + _KEYS_AT_ONCE], span, -1)
                yield []
            slices: Iterator[list[Hit]] = iter([sorted(found, reverse=True)])
        elif len(drive.hashes) == 1:
            slices = self._hits_of_one(drive.hashes[0], span, at_once)
        else:
            slices = self._hits_in_windows(drive, span, max(at_once, 256), now)
        for hits in slices:
            yield [hit for hit in hits if drive.kinds is None or drive.kinds.admits(hit[1])]

    def _hits_of_one(self, h: int, span: Span, at_once: int) -> Iterator[list[Hit]]:
        high = span.high
        while high >= span.low:
            found = self._ask(
                " UNION ALL ".join(
                    f"SELECT * FROM (SELECT {n}, ts, kind FROM {tier} WHERE h = ?1 AND ts BETWEEN ?2 AND ?3 "
                    "ORDER BY ts DESC LIMIT ?4)"
                    for n, tier in enumerate(_TIERS)
                ),
                h,
                span.low,
                high,
                at_once,
            )
            parts: list[list[Hit]] = [[], [], []]
            for n, ts, kind in found:
                parts[n].append((ts, kind))
            low = span.low
            for part in parts:
                # A tier that gave all it may has more below its last one.
                if len(part) == at_once:
                    low = max(low, part[-1][0])
            yield sorted((hit for part in parts for hit in part if hit[0] >= low), reverse=True)
            high = low - 1

    def _hits_in_windows(self, drive: Drive, span: Span, at_once: int, now: int) -> Iterator[list[Hit]]:
        """Look at windows of time that grow while little is found and shrink when too much is."""
        width = _DAY
        high = span.high
        # Few events are from the future: the first window ends with it, but begins before now.
        edge = min(high, now << SEQ_BITS)
        while high >= span.low:
            low = max(span.low, min(high, edge) - width)
            found: list[Hit] = []
            is_too_much = False
            for start in range(0, len(drive.hashes), _KEYS_AT_ONCE):
                if start:
                    yield []
                # A window of one ts holds one event, once under each hash: that is never too much.
                limit = at_once + 1 - len(found) if low < high else -1
                hashes = drive.hashes[start : start + _KEYS_AT_ONCE]
                found += self._hits_of(hashes, Span(low, high), limit)
                is_too_much = low < high and len(found) > at_once
                if is_too_much:
                    break
            if is_too_much:
                width = (high - low) // 8
                edge = high
                yield []
                continue
            yield sorted(found if drive.is_disjoint else set(found), reverse=True)
            if len(found) < at_once // 4:
                width = min(width * 6 + 1, MAX_TS)
            elif len(found) > at_once // 2:
                width //= 2
            high = low - 1

    def _hits_of(self, hashes: Iterable[int], span: Span, limit: int) -> list[Hit]:
        listed = numbers(hashes)
        return self._ask(  # type: ignore[return-value]
            " UNION ALL ".join(
                f"SELECT ts, kind FROM {tier} "
                "WHERE h IN (SELECT value FROM json_each(?1)) AND ts BETWEEN ?2 AND ?3"
                for tier in _TIERS
            )
            + " LIMIT ?4",
            listed,
            span.low,
            span.high,
            limit,
        )

    def _pages(self, hits: list[Hit], scan: "_Scan") -> Iterator[Page]:
        """Read the rows of whole seconds; pages end with a second, for rows are put in order within it."""
        start = 0
        while start < len(hits):
            end = start + min(_ROWS_AT_ONCE, scan.left)
            while end < len(hits) and hits[end][0] >> SEQ_BITS == hits[end - 1][0] >> SEQ_BITS:
                end += 1
            if end - start > _ROWS_AT_ONCE + _FLOOD:
                second = hits[end - 1][0] >> SEQ_BITS
                while hits[end - 1][0] >> SEQ_BITS == second and end > start:
                    end -= 1
                if end > start:
                    yield self._page(hits[start:end], scan)
                yield from self._flooded_second(second, scan)
                while end < len(hits) and hits[end][0] >> SEQ_BITS == second:
                    end += 1
            else:
                yield self._page(hits[start:end], scan)
            start = end

    def _page(self, hits: list[Hit], scan: "_Scan") -> Page:
        rows = self._rows(hits, scan.now)
        sign = 1 if scan.is_oldest_first else -1
        rows.sort(key=lambda row: (sign * row[0].created_at, row[0].json[ID]))
        found = [row for row in rows if scan.admits(row[0])]
        scan.passed += len(found)
        return Page([row for row, _ in found], [kind for _, kind in found])

    def _rows(self, hits: Sequence[Hit], now: int) -> list[tuple[Stored, int]]:
        by_seq = {hit[0] & SEQ_MASK: hit for hit in hits}
        rows = self._ask(
            "SELECT seq, json FROM event WHERE seq IN (SELECT value FROM json_each(?)) "
            "AND (expires_at IS NULL OR expires_at > ?)",
            numbers(by_seq),
            now,
        )
        return [
            (Stored(Seq(seq), by_seq[seq][0] >> SEQ_BITS, json), by_seq[seq][1])  # type: ignore[arg-type]
            for seq, json in rows
        ]

    def _ids_of(self, hits: Sequence[Hit]) -> list[tuple[int, bytes]]:
        return self._ask(  # type: ignore[return-value]
            "SELECT seq, substr(json, 8, 64) FROM event WHERE seq IN (SELECT value FROM json_each(?))",
            numbers(ts & SEQ_MASK for ts, _ in hits),
        )

    def _flooded_second(self, second: int, scan: "_Scan") -> Iterator[Page]:
        """Read one second of very many events by lowest id, a bounded number of ids in each pass."""
        low = max(scan.span.low, second << SEQ_BITS)
        high = min(scan.span.high, second << SEQ_BITS | SEQ_MASK)
        above = b""
        while True:
            lowest: list[tuple[bytes, Hit]] = []
            for hits in self._hits(scan.drive, Span(low, high), _POSTINGS_AT_ONCE, scan.now):
                by_seq = {hit[0] & SEQ_MASK: hit for hit in hits if hit[0] & SEQ_MASK <= scan.upto}
                found = [
                    (id_, by_seq[seq]) for seq, id_ in self._ids_of(list(by_seq.values())) if id_ > above
                ]
                lowest = nsmallest(_IDS_AT_ONCE, merge(lowest, sorted(found)))
                yield _EMPTY
            for start in range(0, len(lowest), _ROWS_AT_ONCE):
                yield self._page([hit for _, hit in lowest[start : start + _ROWS_AT_ONCE]], scan)
            if len(lowest) < _IDS_AT_ONCE:
                return
            above = lowest[-1][0]

    def count(self, wanted: Filter, kinds: Kinds | None, *, upto: Seq, now: int) -> Iterator[int]:
        """Yield numbers whose sum is how many events match.

        `kinds` stands for the filter's own condition.
        """
        span = span_of(wanted)
        drive = self._choose(wanted, kinds, span)
        if drive.is_exact and drive.is_disjoint and drive.keys is not Keys.IDS:
            yield from self._tally(drive, span, upto, now)
            return
        for found in self.matches(wanted, kinds, upto=upto, now=now, with_rows=False):
            yield len(found.ts)

    def _tally(self, drive: Drive, span: Span, upto: Seq, now: int) -> Iterator[int]:
        for start in range(0, len(drive.hashes), _KEYS_AT_ONCE):
            hashes = drive.hashes[start : start + _KEYS_AT_ONCE]
            counted = self._count(hashes, drive.kinds, span, upto, now)
            if counted is not None:
                yield counted
                continue
            for h in hashes:
                yield from self._tally_one(h, drive.kinds, span, upto, now)

    def _tally_one(self, h: int, kinds: Kinds | None, span: Span, upto: Seq, now: int) -> Iterator[int]:
        high = span.high
        while high >= span.low:
            # The lowest ts of which no tier has too many rows down to it.
            low = self._ask(
                "SELECT max("
                + ", ".join(
                    f"coalesce((SELECT ts FROM {tier} WHERE h = ?1 AND ts BETWEEN ?2 AND ?3 "
                    "ORDER BY ts DESC LIMIT 1 OFFSET ?4), ?2)"
                    for tier in _TIERS
                )
                + ")",
                h,
                span.low,
                high,
                _COUNTED_AT_ONCE // 2,
            )[0][0]
            counted = self._count([h], kinds, Span(low, high), upto, now)
            if counted is None:
                # Rows were moved into one tier in between.
                continue
            yield counted
            high = low - 1

    def _count(
        self, hashes: Sequence[int], kinds: Kinds | None, span: Span, upto: Seq, now: int
    ) -> int | None:
        """Count the living within the span from the index alone; None if there is too much in a tier."""
        kind = "1" if kinds is None else f"kind {'NOT ' * kinds.excluded}IN (SELECT value FROM json_each(?7))"
        counts = self._ask(
            " UNION ALL ".join(
                f"""SELECT count(*), coalesce(sum(
                    ts & {SEQ_MASK} <= ?4 AND {kind}
                    AND ts & {SEQ_MASK} NOT IN (SELECT seq FROM dead)
                    AND ts & {SEQ_MASK} NOT IN (SELECT seq FROM event WHERE expires_at <= ?5)
                ), 0) FROM (
                    SELECT ts, kind FROM {tier}
                    WHERE h IN (SELECT value FROM json_each(?1)) AND ts BETWEEN ?2 AND ?3 LIMIT ?6
                )"""
                for tier in _TIERS
            ),
            numbers(hashes),
            span.low,
            span.high,
            upto,
            now,
            _COUNTED_AT_ONCE,
            *([] if kinds is None else [numbers(kinds.of)]),
        )
        if any(rows == _COUNTED_AT_ONCE for rows, _ in counts):
            return None
        return sum(living for _, living in counts)

    def matches(
        self, wanted: Filter, kinds: Kinds | None, *, upto: Seq, now: int, with_rows: bool
    ) -> Iterator[Found]:
        """Yield what matches, descending by ts; with the rows themselves if they are asked for.

        `kinds` stands for the filter's own condition.
        """
        span = span_of(wanted)
        scan = _Scan(wanted, self._choose(wanted, kinds, span), span, upto, now)
        low = span.high + 1
        for hits in self._hits(scan.drive, span, _POSTINGS_AT_ONCE, now):
            kept = [hit for hit in hits if hit[0] & SEQ_MASK <= upto]
            if not kept:
                yield Found(low, [], [])
            elif scan.needs_rows or with_rows:
                for start in range(0, len(kept), _ROWS_AT_ONCE):
                    yield self._found_rows(kept[start : start + _ROWS_AT_ONCE], scan)
            else:
                gone = self._gone(kept, now)
                yield Found(kept[-1][0], [ts for ts, _ in kept if ts & SEQ_MASK not in gone], [])
            low = kept[-1][0] if kept else low

    def _found_rows(self, hits: list[Hit], scan: "_Scan") -> Found:
        rows = [row for row, _ in self._rows(hits, scan.now) if scan.admits(row)]
        rows.sort(key=_ts, reverse=True)
        return Found(hits[-1][0], [_ts(row) for row in rows], rows)

    def _gone(self, hits: Sequence[Hit], now: int) -> set[int]:
        """Return the seqs of those that were removed or have expired."""
        return {
            seq
            for (seq,) in self._ask(
                "SELECT seq FROM dead WHERE seq IN (SELECT value FROM json_each(?1)) UNION ALL "
                # The plus keeps SQLite from reading each row: few have expired and are still there.
                "SELECT seq FROM event WHERE expires_at <= ?2 AND +seq IN (SELECT value FROM json_each(?1))",
                numbers(ts & SEQ_MASK for ts, _ in hits),
                now,
            )
        }


def _ts(row: Stored) -> int:
    return row.created_at << SEQ_BITS | row.seq


def _kinds_of(wanted: Filter) -> Kinds | None:
    return None if wanted.kinds is None else Kinds(wanted.kinds)


def _whole_seconds(hits: list[Hit]) -> int:
    """Return how many of the hits, descending, come before the last one's second."""
    if not hits:
        return 0
    last = hits[-1][0] >> SEQ_BITS
    # Ascending in minus ts: where the last second begins.
    return bisect_left(hits, -last, key=lambda hit: -(hit[0] >> SEQ_BITS))
