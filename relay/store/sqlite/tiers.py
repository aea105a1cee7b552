"""The postings of a database, in three tables of one shape, each about ten times the one before.

New postings gather in the small tail and move on in sorted slices that ride along with commits, so
that a commit rewrites few pages however large the database is (docs/decisions/0001). Postings of
removed events stay until they are purged, in sorted slices too; `dead` tells them from the others.

Every function here runs inside the writer's transaction. Slices are bounded by rows, even within
one hash that has millions.
"""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain

from relay.store.sqlite.postings import SEQ_BITS, unpack_hashes
from relay.store.sqlite.statements import insert_rows, numbers

Posting = tuple[int, int, int]
"""(h, ts, kind): the keyed hash, created_at << 31 | seq, and the event's kind.

A tombstone's posting has minus its number as ts, and TOMBSTONE as kind."""

Postings = tuple[Sequence[int], int, int]
"""(hashes, ts, kind): all postings of one event or tombstone; no hash twice."""

TOMBSTONE = -1

TIERS = ("ix0", "ix1", "ix2")
"""The tables: the tail, the middle tier, the big one."""

_OF_ONE = " UNION ALL ".join(f"SELECT h, ts FROM {tier} WHERE h = ?1" for tier in TIERS)
_OF_MANY = " UNION ALL ".join(
    f"SELECT h, ts FROM {tier} WHERE h IN (SELECT value FROM json_each(?1))" for tier in TIERS
)

_FIRST = (-(2**63), -(2**63))
_LAST = (2**63 - 1, 2**63 - 1)


@dataclass(frozen=True, slots=True)
class Tuning:
    """Sizes of the tiers; tests make them tiny, so that merges run within a few events."""

    tail_rows: int = 65_536
    """Postings in the smallest tier before it begins to move into the middle one."""
    middle_rows: int = 655_360
    """Postings in the middle tier before it begins to move into the big one."""
    hot_rows: int = 16
    """A hash with so many postings in one batch goes straight into the big tier: few pages hold them."""
    dead_postings: int = 65_536
    """Postings of removed events before they are purged (at least; see `Tiers.is_purge_due`)."""
    slice_rows: int = 8_192
    """Rows that one commit moves or purges at most, of each tier."""
    free_pages: int = 2_048
    """Unused pages of the file before they are given back (at least; see `Shrinking`)."""
    given_back: int = 64
    """Pages that are given back in one transaction."""


class _Stage(Enum):
    GATHER = auto()
    """Dead postings are being read into memory."""
    DELETE = auto()
    """They are being deleted, by (h, ts)."""
    RELEASE = auto()
    """None is left in the tiers: the rows of `dead` are being deleted."""


@dataclass(slots=True)
class _Purge:
    """One round of removing dead postings: first gathered and sorted in memory, then deleted."""

    gathered: int = 0
    """Every dead row with a seq up to this one was looked at."""
    stage: _Stage = _Stage.GATHER
    done: tuple[int, int] = _FIRST
    """The (h, ts) up to which postings were deleted."""


@dataclass(slots=True)
class _State:
    """What is known without asking the database; put back when a transaction fails."""

    rows: list[int]
    """Postings in the tail and in the middle tier."""
    cursors: list[tuple[int, int]] = field(default_factory=lambda: [_FIRST, _FIRST])
    """The (h, ts) up to which this turn of the tail and of the middle tier has moved."""
    dead: int = 0
    """Postings of removed events that no purge has gathered."""
    purge: _Purge | None = None

    def copy(self) -> "_State":
        return _State(list(self.rows), list(self.cursors), self.dead, copy(self.purge))


class Tiers:
    """Insert, move and purge postings, through the writer's connection."""

    def __init__(self, connection: sqlite3.Connection, tuning: Tuning) -> None:
        self._connection = connection
        self._tuning = tuning
        self._step = max(1, tuning.slice_rows // 8)
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("CREATE TEMP TABLE purge(h INT, ts INT, PRIMARY KEY(h, ts)) WITHOUT ROWID")
        connection.execute("CREATE TEMP TABLE purged(seq INTEGER PRIMARY KEY)")
        self._state = _State([self._number(f"SELECT count(*) FROM ix{tier}") for tier in range(2)])
        self._state.dead = self._number("SELECT coalesce(sum(length(postings)), 0) / 8 FROM dead")

    def _number(self, question: str, *values: int | str) -> int:
        number: int = self._connection.execute(question, values).fetchone()[0]
        return number

    def save(self) -> "_State":
        """Return the state, to be restored if the transaction fails."""
        return self._state.copy()

    def restore(self, state: "_State") -> None:
        """Go back to a saved state, after a rollback."""
        self._state = state

    def insert(self, postings: Sequence[Postings]) -> None:
        """Add the postings of new events and tombstones; `tidy` is to follow."""
        hot: dict[int, list[Posting]] = {h: [] for h in self._hot(postings)}
        tail: list[Posting] = []
        for hashes, ts, kind in postings:
            for h in hashes:
                hot.get(h, tail).append((h, ts, kind))
        # Sorted within each hash, where they nearly are: 1 µs less for each event than sorting them all.
        self._insert_into(2, [posting for h in sorted(hot) for posting in sorted(hot[h])])
        # Not sorted: in a table that is in memory as a whole, that costs what it gains.
        self._insert_into(0, tail)
        self._state.rows[0] += len(tail)

    def _hot(self, postings: Sequence[Postings]) -> set[int]:
        """Return the hashes that are frequent among these."""
        if len(postings) < self._tuning.hot_rows:
            return set()
        times = Counter(chain.from_iterable([hashes for hashes, _, _ in postings]))
        return {h for h, n in times.items() if n >= self._tuning.hot_rows}

    def _insert_into(self, tier: int, postings: list[Posting]) -> None:
        insert_rows(self._connection, f"ix{tier}(h, ts, kind)", postings)

    def find(self, hashes: Sequence[int]) -> list[tuple[int, int]]:
        """Return the (h, ts) of all postings of these hashes, dead ones and tombstones included."""
        # One event's id and address: five times faster than taking JSON apart.
        if len(hashes) <= 2:
            return [found for h in hashes for found in self._connection.execute(_OF_ONE, (h,))]
        return self._connection.execute(_OF_MANY, (numbers(hashes),)).fetchall()

    def newest(self, h: int, high: int, at_once: int) -> tuple[list[int], int]:
        """Return ts of a hash's newest postings up to `high`, and the lowest ts down to which that is all.

        At most `at_once` of each tier; the lowest is 0 when nothing is left below.
        """
        low, found = 0, []
        for tier in TIERS:
            part = [
                ts
                for (ts,) in self._connection.execute(
                    f"SELECT ts FROM {tier} WHERE h = ? AND ts BETWEEN 0 AND ? ORDER BY ts DESC LIMIT ?",
                    (h, high, at_once),
                )
            ]
            if len(part) == at_once:
                low = max(low, part[-1])
            found += part
        return [ts for ts in found if ts >= low], low

    def delete(self, postings: Sequence[tuple[int, int]]) -> None:
        """Delete (h, ts) wherever they are: for the few hashes whose postings must be exact."""
        for tier in range(3):
            deleted = 0
            for h, ts in postings:
                deleted += self._connection.execute(
                    f"DELETE FROM ix{tier} WHERE h = ? AND ts = ?", (h, ts)
                ).rowcount
            if tier < 2:
                self._state.rows[tier] -= deleted

    def bury(self, seqs: Sequence[int]) -> None:
        """Note that these events are being removed; their rows must still be there."""
        if not seqs:
            return
        listed = numbers(seqs)
        self._state.dead += self._number(
            "SELECT coalesce(sum(length(postings)), 0) / 8 FROM event "
            "WHERE seq IN (SELECT value FROM json_each(?))",
            listed,
        )
        self._connection.execute(
            "INSERT INTO dead SELECT seq, created_at, postings FROM event "
            "WHERE seq IN (SELECT value FROM json_each(?))",
            (listed,),
        )

    def tidy(self, inserted: int) -> bool:
        """Move and purge what is due, in proportion to what was inserted; whether more is due."""
        moved = 0
        for tier, bound in enumerate((self._tuning.tail_rows, self._tuning.middle_rows)):
            # Not a few rows each time: every slice costs some fixed work.
            if self._state.rows[tier] >= bound + self._step:
                moved = self._move(
                    tier, min(self._tuning.slice_rows, max(2 * inserted, 2 * moved, self._step))
                )
        self._purge(min(self._tuning.slice_rows, max(inserted, self._step)))
        return self.is_tidying_due()

    def is_tidying_due(self) -> bool:
        """Say whether a tier is over its bound, or a purge due or under way."""
        bounds = (self._tuning.tail_rows, self._tuning.middle_rows)
        return (
            self._state.purge is not None
            or any(rows >= bound + self._step for rows, bound in zip(self._state.rows, bounds, strict=True))
            or self._is_purge_due()
        )

    def _move(self, tier: int, rows: int) -> int:
        """Move the next `rows` postings by (h, ts) into the next tier; how many there were."""
        start = self._state.cursors[tier]
        end = self._slice_end(f"ix{tier}", start, rows)
        between = f"FROM ix{tier} WHERE (h, ts) > (?, ?) AND (h, ts) <= (?, ?)"
        bounds = (*start, *(end or _LAST))
        self._connection.execute(
            f"INSERT OR FAIL INTO ix{tier + 1} SELECT h, ts, kind {between} ORDER BY h, ts", bounds
        )
        moved = self._connection.execute(f"DELETE {between}", bounds).rowcount
        self._state.rows[tier] -= moved
        if tier == 0:
            self._state.rows[1] += moved
        self._state.cursors[tier] = end or _FIRST
        return moved

    def _slice_end(self, table: str, start: tuple[int, int], rows: int) -> tuple[int, int] | None:
        """Return the key of the last row of a slice; None where the table ends before."""
        found: tuple[int, int] | None = self._connection.execute(
            f"SELECT h, ts FROM {table} WHERE (h, ts) > (?, ?) ORDER BY h, ts LIMIT 1 OFFSET ?",
            (*start, rows - 1),
        ).fetchone()
        return found

    def _is_purge_due(self) -> bool:
        # The larger the tiers, the more dead postings must come together for several to share a
        # page: half a posting for each event ever stored, a sixteenth of all postings.
        return self._state.dead > self._tuning.dead_postings and self._state.dead > self._last_seq() // 2

    def _last_seq(self) -> int:
        last = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
        return last[0] if last else 0

    def _purge(self, rows: int) -> None:
        if self._state.purge is None:
            if not self._is_purge_due():
                return
            self._state.purge = _Purge()
        purge = self._state.purge
        match purge.stage:
            case _Stage.GATHER:
                self._gather(purge, rows)
            case _Stage.DELETE:
                self._delete_slice(purge, rows)
            case _Stage.RELEASE:
                self._release(rows)

    def _gather(self, purge: _Purge, rows: int) -> None:
        """Read dead postings into memory, where they are sorted."""
        found: list[tuple[int, int]] = []
        # Whole events only, one at a time: one may have thousands of postings.
        while len(found) < rows:
            dead = self._connection.execute(
                "SELECT seq, created_at, postings FROM dead WHERE seq > ? ORDER BY seq LIMIT 1",
                (purge.gathered,),
            ).fetchone()
            if dead is None:
                purge.stage = _Stage.DELETE
                break
            seq, created_at, postings = dead
            ts = created_at << SEQ_BITS | seq
            hashes = unpack_hashes(postings)
            found += [(h, ts) for h in hashes]
            self._state.dead -= len(hashes)
            purge.gathered = seq
            self._connection.execute("INSERT INTO purged VALUES (?)", (seq,))
        insert_rows(self._connection, "purge(h, ts)", found)

    def _delete_slice(self, purge: _Purge, rows: int) -> None:
        end = self._slice_end("purge", purge.done, rows)
        bounds = (*purge.done, *(end or _LAST))
        for tier in range(3):
            deleted = self._connection.execute(
                f"DELETE FROM ix{tier} WHERE (h, ts) IN "
                "(SELECT h, ts FROM purge WHERE (h, ts) > (?, ?) AND (h, ts) <= (?, ?))",
                bounds,
            ).rowcount
            if tier < 2:
                self._state.rows[tier] -= deleted
        if end is None:
            purge.stage = _Stage.RELEASE
            self._connection.execute("DELETE FROM purge")
        else:
            purge.done = end

    def _release(self, rows: int) -> None:
        # Not "up to `gathered`": events with a lower seq may have died since.
        last = self._connection.execute(
            "SELECT max(seq) FROM (SELECT seq FROM purged ORDER BY seq LIMIT ?)", (rows,)
        ).fetchone()[0]
        self._connection.execute(
            "DELETE FROM dead WHERE seq IN (SELECT seq FROM purged WHERE seq <= ?)", (last,)
        )
        self._connection.execute("DELETE FROM purged WHERE seq <= ?", (last,))
        if self._connection.execute("SELECT 1 FROM purged LIMIT 1").fetchone() is None:
            self._state.purge = None
