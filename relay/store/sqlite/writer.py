"""The one writer of a database: synchronous, one connection, one transaction per `commit`.

Which process that is, and that there is only one, is decided above.
"""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from relay.nostr.event import MAX_CREATED_AT
from relay.store.api import MAX_SEQ, Outcome, Seq, Stored, StoreError
from relay.store.sqlite.postings import (
    AUTHOR,
    ID,
    SEQ_BITS,
    SEQ_MASK,
    Prepared,
    PreparedRemoval,
    unpack_hashes,
)
from relay.store.sqlite.schema import failures_as_store_errors, hash_key, open_for_writing
from relay.store.sqlite.statements import insert_rows, numbers
from relay.store.sqlite.tiers import TOMBSTONE, Posting, Tiers, Tuning
from relay.store.sqlite.wal import WriteAheadLog

__all__ = ["Committed", "SqliteWriter", "Tuning"]

_CACHE_MIB = 128
_SWEPT_AT_ONCE = 256

_T = TypeVar("_T")


class Committed(NamedTuple):
    """What one transaction did."""

    outcomes: list[Outcome]
    """One per prepared write, in order."""
    rows: tuple[Stored, ...]
    """The live rows it left, in order of seq."""
    after: Seq
    """The head before it."""
    upto: Seq
    """The head after it; equal to `after` when nothing new was stored."""


@dataclass(slots=True, eq=False)
class _Row:
    """An event that is stored, or will be when this transaction commits."""

    id: bytes
    author: bytes
    created_at: int
    address: int | None
    owners: bytes | None
    seq: int | None
    """None: it came with this batch."""

    def is_owned_by(self, key: bytes) -> bool:
        return key == self.author if self.owners is None else key in self.owners.split()


@dataclass(slots=True)
class _Known:
    """What the database holds about the ids and addresses that a batch names, and what becomes of it."""

    rows: dict[bytes, _Row] = field(default_factory=dict)
    """By id."""
    holders: dict[int, _Row] = field(default_factory=dict)
    """By the hash of the address."""
    barred: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Id → the keys that removed it, whether or not they may."""
    until: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Hash of an address → (number of its tombstone, until)."""


class _Batch:
    """Decides, in memory and in order, what each write of a batch does to what is known."""

    def __init__(self, known: _Known, tombstones: int) -> None:
        self._known = known
        self.tombstones = tombstones
        """The number of the newest tombstone."""
        self.fresh: dict[bytes, tuple[_Row, Prepared]] = {}
        """The events to store, in order, by id."""
        self.gone: list[_Row] = []
        """Stored events to remove."""
        self.new_tombstones: list[tuple[int, bytes, bytes | None, int]] = []
        """(n, target, by, until)."""
        self.tombstone_postings: list[Posting] = []
        self.extended: dict[int, int] = {}
        """Number of an older address tombstone → its new until."""

    def write(self, prepared: Prepared) -> Outcome:
        """Say what becomes of the write."""
        outcome = self._keep(prepared)
        if outcome in (Outcome.STORED, Outcome.DUPLICATE):
            for removal in prepared[7]:
                self._remove(removal)
        return outcome

    def _keep(self, prepared: Prepared) -> Outcome:
        json, created_at, _, _, address, _, owners, _, _, _ = prepared
        row = _Row(json[ID], json[AUTHOR], created_at, address, owners, None)
        if row.id in self._known.rows:
            return Outcome.DUPLICATE
        if any(row.is_owned_by(key) for key in self._known.barred.get(row.id, ())):
            return Outcome.DELETED
        if address is not None:
            if address in self._known.until and created_at <= self._known.until[address][1]:
                return Outcome.DELETED
            holder = self._known.holders.get(address)
            if holder is not None:
                # NIP-01: the newer stays; on equal created_at the lowest id.
                if (-holder.created_at, holder.id) < (-created_at, row.id):
                    return Outcome.SUPERSEDED
                self._forget(holder)
            self._known.holders[address] = row
        self._known.rows[row.id] = row
        self.fresh[row.id] = row, prepared
        return Outcome.STORED

    def _remove(self, removal: PreparedRemoval) -> None:
        hash_, target, by, until = removal
        if by is not None:
            barred = self._known.barred.setdefault(target, set())
            if by not in barred:
                barred.add(by)
                self._bury(hash_, target, by, 0)
            row = self._known.rows.get(target)
            if row is not None and row.is_owned_by(by):
                self._forget(row)
            return
        n, before = self._known.until.get(hash_, (0, -1))
        if until > before:
            if n == 0:
                n = self._bury(hash_, target, None, until)
            else:
                self.extended[n] = until
            self._known.until[hash_] = n, until
        holder = self._known.holders.get(hash_)
        if holder is not None and holder.created_at <= until:
            self._forget(holder)

    def _bury(self, hash_: int, target: bytes, by: bytes | None, until: int) -> int:
        self.tombstones += 1
        self.new_tombstones.append((self.tombstones, target, by, until))
        self.tombstone_postings.append((hash_, -self.tombstones, TOMBSTONE))
        return self.tombstones

    def _forget(self, row: _Row) -> None:
        del self._known.rows[row.id]
        if row.address is not None:
            del self._known.holders[row.address]
        if row.seq is None:
            del self.fresh[row.id]
        else:
            self.gone.append(row)


class SqliteWriter:
    """Commits prepared writes. All methods from one thread at a time, except `checkpoint` (any)."""

    def __init__(self, path: Path, tuning: Tuning = Tuning()) -> None:  # noqa: B008  # frozen
        """Open or create the database and migrate it. Raises StoreTooNew, StoreError."""
        self._path = path
        self._connection = open_for_writing(path, cache_mib=_CACHE_MIB)
        with failures_as_store_errors(f"cannot read {path}"):
            self.key = hash_key(self._connection)
            """The database's hash key, for `Hashes`."""
            self._tiers = Tiers(self._connection, tuning)
            self._head = Seq(self._last("event"))
            self._tombstones = self._last("tombstone")
            self._log = WriteAheadLog(path)

    def _last(self, table: str) -> int:
        found = self._connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)
        ).fetchone()
        return found[0] if found else 0

    @property
    def head(self) -> Seq:
        """The seq of the newest commit."""
        return self._head

    def _in_transaction(self, doing: str, work: Callable[[], _T]) -> _T:
        """Run `work` in one durable transaction. Raises StoreError: then nothing of it is there."""
        saved = self._tiers.save()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = work()
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._tiers.restore(saved)
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"cannot {doing} {self._path}: {error}") from error
            raise
        return result

    def commit(self, batch: Sequence[Prepared]) -> Committed:
        """Write the batch in one durable transaction. Raises StoreError: then nothing of it is there."""
        if self._head + len(batch) > MAX_SEQ:
            raise StoreError(f"the log is full: seq would pass {MAX_SEQ}")
        if not all(0 <= prepared[1] <= MAX_CREATED_AT for prepared in batch):
            raise StoreError(f"created_at must lie between 0 and {MAX_CREATED_AT}")
        # Before the commit, not after it: should it fail, then nothing was stored.
        with failures_as_store_errors(f"cannot checkpoint {self._path}"):
            self._log.finish(self._connection)
        after = self._head
        committed, tombstones = self._in_transaction("write to", lambda: self._write(batch, after))
        self._head, self._tombstones = committed.upto, tombstones
        return committed

    def _write(self, batch: Sequence[Prepared], after: Seq) -> tuple[Committed, int]:
        decided = _Batch(self._look_up(batch), self._tombstones)
        outcomes = [decided.write(prepared) for prepared in batch]
        self._forget(decided.gone)
        self._bury(decided)
        postings, rows, upto = self._store(decided, after)
        postings += decided.tombstone_postings
        if postings:
            self._tiers.insert(postings)
        if postings or decided.gone:
            self._tiers.tidy(len(postings))
        return Committed(outcomes, rows, after, upto), decided.tombstones

    def _look_up(self, batch: Sequence[Prepared]) -> _Known:
        """Read everything that is stored about what the batch names."""
        wanted = {prepared[3] for prepared in batch}
        wanted.update(prepared[4] for prepared in batch if prepared[4] is not None)
        wanted.update(removal[0] for prepared in batch for removal in prepared[7])
        found = self._tiers.find(sorted(wanted))
        known = _Known()
        if not found:
            return known
        rows = self._connection.execute(
            "SELECT substr(json, 8, 64), substr(json, 84, 64), created_at, address, owners, seq FROM event "
            "WHERE seq IN (SELECT value FROM json_each(?))",
            (numbers(ts & SEQ_MASK for _, ts in found if ts >= 0),),
        )
        for row in (_Row(*values) for values in rows):
            known.rows[row.id] = row
            if row.address is not None:
                known.holders[row.address] = row
        numbered = {-ts: h for h, ts in found if ts < 0}
        for n, target, by, until in self._connection.execute(
            "SELECT n, target, by, until FROM tombstone WHERE n IN (SELECT value FROM json_each(?))",
            (numbers(numbered),),
        ):
            if by is None:
                known.until[numbered[n]] = n, until
            else:
                known.barred.setdefault(target, set()).add(by)
        return known

    def _forget(self, rows: Sequence[_Row]) -> None:
        """Remove stored events. Their postings are purged later, but no address keeps a dead holder."""
        if not rows:
            return
        seqs = [row.seq for row in rows if row.seq is not None]
        self._tiers.bury(seqs)
        self._tiers.delete(
            [
                (row.address, row.created_at << SEQ_BITS | row.seq)
                for row in rows
                if row.address is not None and row.seq is not None
            ]
        )
        self._connection.execute(
            "DELETE FROM event WHERE seq IN (SELECT value FROM json_each(?))", (numbers(seqs),)
        )

    def _bury(self, decided: _Batch) -> None:
        insert_rows(self._connection, "INSERT INTO tombstone(n, target, by, until)", decided.new_tombstones)
        for n, until in decided.extended.items():
            self._connection.execute("UPDATE tombstone SET until = ? WHERE n = ?", (until, n))

    def _store(self, decided: _Batch, after: Seq) -> tuple[list[Posting], tuple[Stored, ...], Seq]:
        """Append the batch's events to the log; return their postings, the live rows and the new head."""
        seq = after
        events: list[tuple[object, ...]] = []
        postings: list[Posting] = []
        rows: list[Stored] = []
        for _, prepared in decided.fresh.values():
            json, created_at, kind, _, address, expires_at, owners, _, live, packed = prepared
            seq = Seq(seq + 1)
            events.append((seq, created_at, expires_at, live, address, owners, packed, json))
            ts = created_at << SEQ_BITS | seq
            postings += [(h, ts, kind) for h in unpack_hashes(packed)]
            if live:
                rows.append(Stored(seq, created_at, json))
        insert_rows(
            self._connection,
            "INSERT INTO event(seq, created_at, expires_at, live, address, owners, postings, json)",
            events,
        )
        return postings, tuple(rows), seq

    def sweep(self, now: int) -> int:
        """Remove a slice of the expired events; how many. 0 when none is left."""

        def remove_some() -> int:
            expired = self._connection.execute(
                "SELECT substr(json, 8, 64), substr(json, 84, 64), created_at, address, owners, seq "
                "FROM event WHERE expires_at <= ? ORDER BY expires_at LIMIT ?",
                (now, _SWEPT_AT_ONCE),
            ).fetchall()
            self._forget([_Row(*values) for values in expired])
            if expired:
                self._tiers.tidy(0)
            return len(expired)

        return self._in_transaction("sweep", remove_some)

    def tidy(self) -> bool:
        """Move one slice of the tiers, for when the writer is idle; whether more is due."""
        with failures_as_store_errors(f"cannot read {self._path}"):
            if not self._tiers.is_tidying_due():
                return False
        return self._in_transaction("tidy", lambda: self._tiers.tidy(0))

    def checkpoint_due(self) -> bool:
        """Whether the write-ahead log has grown enough for `checkpoint`."""
        return self._log.is_due()

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the database, beside running commits. Raises StoreError."""
        self._log.copy()

    def close(self) -> None:
        """Checkpoint all and close. Raises StoreError."""
        with failures_as_store_errors(f"cannot close {self._path}"):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.close()
            self._log.close()
