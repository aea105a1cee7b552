"""The one writer of a database: synchronous, one connection, one transaction per `commit`.

Which process that is, and that there is only one, is decided above.
"""

import sqlite3
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from relay.nostr.event import MAX_CREATED_AT, Event, decode
from relay.nostr.reasons import Refusal
from relay.store.api import MAX_SEQ, Outcome, Ruling, Seq, StoreError, Table
from relay.store.records import Tables
from relay.store.sqlite.copying import copy_database
from relay.store.sqlite.farewells import Farewells
from relay.store.sqlite.postings import (
    AUTHOR,
    FINAL,
    ID,
    SEQ_BITS,
    SEQ_MASK,
    Hashes,
    Prepared,
    PreparedRemoval,
    prepare,
    unpack_hashes,
)
from relay.store.sqlite.records import RecordReading, WrittenRecords
from relay.store.sqlite.schema import failures_as_store_errors, hash_key, open_for_writing
from relay.store.sqlite.shrinking import Shrinking
from relay.store.sqlite.statements import insert_rows, numbers
from relay.store.sqlite.tiers import TOMBSTONE, Postings, Tiers, Tuning
from relay.store.sqlite.wal import WriteAheadLog

__all__ = ["Committed", "SqliteWriter", "Tuning"]

_CACHE_MIB = 32
"""Full after minutes, so that memory grows no more; twice as much spares half a read of a page for each
event at a million events, 1 µs."""
REMOVED_AT_ONCE = 256
"""Events that one transaction removes by the operator's authority, or because they have expired."""
_REMOVALS_KEPT = 100_000
_PURGED_PER_REMOVAL = 32
"""Of an event's postings, eight or so, each is gathered first and then deleted."""
_OPERATOR = b""
"""Stands for the remover of what nobody may bring again."""

_T = TypeVar("_T")

# An enum's member costs as much as a call.
_STORED = Outcome.STORED
_DUPLICATE = Outcome.DUPLICATE


class Committed(NamedTuple):
    """What one transaction did."""

    outcomes: list[Outcome | Refusal]
    """One per prepared write, in order."""
    rows: list[tuple[Seq, int, bytes]]
    """The live rows it left, in order of seq: what `Stored` is made of, and as it travels."""
    after: Seq
    """The head before it."""
    upto: Seq
    """The head after it; equal to `after` when nothing new was stored."""
    answer: bytes | Refusal = b""
    """A command's."""


@dataclass(slots=True, eq=False)
class _Row:
    """An event that is stored, or will be when this transaction commits."""

    id: bytes
    author: bytes
    created_at: int
    address: int | None
    owners: bytes | None
    tables: str
    """The names of the tables that judged it, joined by spaces."""
    seq: int | None
    """None: it came with this batch."""

    def all_owners(self) -> list[bytes]:
        return [self.author] if self.owners is None else self.owners.split()

    def is_owned_by(self, key: bytes) -> bool:
        return key in self.all_owners()

    def is_removable_by(self, key: bytes) -> bool:
        owners = self.all_owners()
        return key in owners and owners[0] != FINAL


@dataclass(slots=True)
class _Known:
    """What the database holds about the ids and addresses that a batch names, and what becomes of it."""

    rows: dict[bytes, _Row] = field(default_factory=dict)
    """Those that are stored, by id."""
    holders: dict[int, _Row] = field(default_factory=dict)
    """By the hash of the address."""
    barred: dict[bytes, set[bytes]] = field(default_factory=dict)
    """Id → the keys that removed it, whether or not they may."""
    until: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Hash of an address → (number of its tombstone, until)."""
    looked_up: set[int] = field(default_factory=set)
    """The hashes that were looked for."""


class _Batch:
    """Decides, in memory and in order, what each write of a batch does to what is known."""

    def __init__(self, writer: "SqliteWriter", known: _Known, tombstones: int, now: int) -> None:
        self._writer = writer
        self._now = now
        self._known = known
        self.tombstones = tombstones
        """The number of the newest tombstone."""
        self.fresh: dict[bytes, Prepared] = {}
        """The events to store, in order, by id."""
        self.gone: list[_Row] = []
        """Stored events to remove."""
        self.new_tombstones: list[tuple[int, bytes, bytes | None, int]] = []
        """(n, target, by, until)."""
        self.tombstone_postings: list[Postings] = []
        self.extended: dict[int, int] = {}
        """Number of an older address tombstone → its new until."""
        self.farewells: dict[bytes, int] = {}
        """Owner → the time up to which all that it owns goes."""
        self._gone_seqs: set[int] = set()
        self._any_left = bool(writer.farewells)
        self._barred = writer.barred

    def write(self, prepared: Prepared) -> Outcome | Refusal:
        """Say what becomes of the write."""
        rulings: tuple[Ruling, ...] = ()
        outcome: Outcome | Refusal | None = self._obstacle(prepared)
        if outcome is None:
            for barred in self._barred:
                if barred.is_any and (refusal := barred.refuse(*_ids_of(prepared))) is not None:
                    return refusal
            if tables := prepared[10]:
                judged = self._writer.judge(tables, decode(prepared[0]), self._now)
                if isinstance(judged, Refusal):
                    return judged
                rulings = judged
            self._keep(prepared)
            outcome = _STORED
        if prepared[7] and (outcome is _STORED or outcome is _DUPLICATE):
            for removal in prepared[7]:
                self._remove(removal)
        for ruling in rulings:
            self.follow(ruling, live=prepared[8])
        return outcome

    def follow(self, ruling: Ruling, *, live: bool) -> None:
        """Do what a table decided."""
        if ruling.removals:
            self._learn([self._writer.hashes.id(id_) for id_ in ruling.removals])
            for id_ in ruling.removals:
                if (struck := self._find(id_.encode())) is not None:
                    self._forget(struck)
        for further in ruling.also:
            prepared = prepare(replace(further, live=live), self._writer.hashes)
            self._learn(_named([prepared]))
            self.write(prepared)

    def strike(self, id_: bytes, hash_: int, *, barred: bool) -> None:
        """Remove an event, whoever owns it; `barred`: it does not come again."""
        if barred:
            removers = self._known.barred.setdefault(id_, set())
            if _OPERATOR not in removers:
                removers.add(_OPERATOR)
                self._bury(hash_, id_, _OPERATOR, 0)
        if (row := self._find(id_)) is not None:
            self._forget(row)

    def _learn(self, hashes: Iterable[int]) -> None:
        """Look up what the batch did not name itself; what it removed stays removed."""
        self._writer.look_up(hashes, self._known, self._gone_seqs)

    def _obstacle(self, prepared: Prepared) -> Outcome | None:
        """Say why an event is not stored; None if it is, tables permitting."""
        json, created_at, address = prepared[0], prepared[1], prepared[4]
        known = self._known
        id_ = json[ID]
        if id_ in self.fresh or id_ in known.rows:
            return _DUPLICATE
        # Few batches name anything that was removed.
        if known.barred or self._any_left or self.farewells:
            row = _row(prepared)
            removers = known.barred.get(id_, ())
            if (
                _OPERATOR in removers
                or any(row.is_removable_by(key) for key in removers)
                or self._is_left(row)
            ):
                return Outcome.DELETED
        if address is not None:
            if address in known.until and created_at <= known.until[address][1]:
                return Outcome.DELETED
            holder = known.holders.get(address)
            # NIP-01: the newer stays; on equal created_at the lowest id.
            if holder is not None and (-holder.created_at, holder.id) < (-created_at, id_):
                return Outcome.SUPERSEDED
        return None

    def _keep(self, prepared: Prepared) -> None:
        address = prepared[4]
        if address is not None:
            holder = self._known.holders.get(address)
            if holder is not None:
                self._forget(holder)
            self._known.holders[address] = _row(prepared)
        self.fresh[prepared[0][ID]] = prepared

    def _find(self, id_: bytes) -> _Row | None:
        """Return an event that is stored, or will be."""
        fresh = self.fresh.get(id_)
        return self._known.rows.get(id_) if fresh is None else _row(fresh)

    def _is_left(self, row: _Row) -> bool:
        """Say whether an owner of the event took leave at its time or later."""
        return any(
            row.created_at <= max(self.farewells.get(owner, -1), self._writer.farewells.until(owner))
            for owner in row.all_owners()
        )

    def _remove(self, removal: PreparedRemoval) -> None:
        hash_, target, by, until = removal
        if not target and by is not None:
            # What is stored goes in slices, after this transaction.
            self.farewells[by] = max(until, self.farewells.get(by, -1))
            for owned in [*self._known.rows.values(), *map(_row, self.fresh.values())]:
                if owned.created_at <= until and owned.is_owned_by(by):
                    self._forget(owned)
            return
        if by is not None:
            barred = self._known.barred.setdefault(target, set())
            if by not in barred:
                barred.add(by)
                self._bury(hash_, target, by, 0)
            row = self._find(target)
            if row is not None and row.is_removable_by(by):
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
        self.tombstone_postings.append(((hash_,), -self.tombstones, TOMBSTONE))
        return self.tombstones

    def _forget(self, row: _Row) -> None:
        if row.address is not None:
            del self._known.holders[row.address]
        if row.seq is None:
            prepared = self.fresh.pop(row.id)
            if row.tables:
                self._writer.tell(row.tables, decode(prepared[0]))
        else:
            del self._known.rows[row.id]
            self.gone.append(row)
            self._gone_seqs.add(row.seq)
            if row.tables:
                self._writer.tell(row.tables, self._writer.event(row.seq))


def _row(prepared: Prepared) -> _Row:
    json, created_at, _, _, address, _, owners, _, _, _, tables = prepared
    return _Row(json[ID], json[AUTHOR], created_at, address, owners, tables, None)


def _ids_of(prepared: Prepared) -> tuple[bytes, bytes, int]:
    """Return an event's id, author and kind."""
    json = prepared[0]
    return json[ID], json[AUTHOR], prepared[2]


def _named(batch: Sequence[Prepared]) -> set[int]:
    """Return the hashes under which all that a batch names is found."""
    wanted = {prepared[3] for prepared in batch}
    wanted.update([prepared[4] for prepared in batch if prepared[4] is not None])
    for prepared in batch:
        if prepared[7]:
            wanted.update([hash_ for hash_, target, _, _ in prepared[7] if target])
    return wanted


class SqliteWriter:
    """Commits prepared writes. Methods from one thread at a time, except `checkpoint` and `copy` (any)."""

    def __init__(
        self,
        path: Path,
        tuning: Tuning = Tuning(),  # noqa: B008  # frozen
        *,
        tables: Iterable[Table] = (),
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open or create the database and migrate it. Raises StoreTooNew, StoreError.

        `now` is what tables are told, in unix seconds.
        """
        self._path = path
        self._connection = open_for_writing(path, cache_mib=_CACHE_MIB)
        with failures_as_store_errors(f"cannot read {path}"):
            self.key = hash_key(self._connection)
            """The database's hash key, for `Hashes`."""
            self._tiers = Tiers(self._connection, tuning)
            self.hashes = Hashes(self.key)
            self._now = now
            asked = Tables(tables)
            self._take_up(asked, asked.all)
            self._version = self._committed_version = RecordReading(self._ask).version()
            self._any_judged = bool(self._connection.execute("SELECT 1 FROM judged LIMIT 1").fetchall())
            self.farewells = Farewells(self._connection, self.hashes)
            """Who took leave, and until when."""
            self._head = Seq(self._last("event"))
            self._tombstones = self._last("tombstone")
            self._log = WriteAheadLog(path)
            self._shrinking = Shrinking(self._connection, tuning)

    def _take_up(self, tables: Tables, barring: Container[str]) -> None:
        self._tables = tables
        self._records = {
            name: WrittenRecords(self._connection, table, self._next_version, self.hashes)
            for name, table in tables.all.items()
            if table.of is None
        }
        self.barred = tuple(
            records.barred
            for name, records in self._records.items()
            if records.barred is not None and name in barring
        )
        """What the records of tables keep out."""
        self._watching = tuple(
            (records.watched, records) for records in self._records.values() if records.watched is not None
        )

    def adopt(self, tables: Iterable[Table]) -> None:
        """Let these tables judge from the next transaction on. Raises ValueError.

        Those so far whose names are not among them stay: events that name them may be on their way.
        """
        adopted = {table.name: table for table in tables}
        self._take_up(Tables({**self._tables.all, **adopted}.values()), adopted)

    def _ask(self, question: str, *values: object) -> list[tuple[object, ...]]:
        return self._connection.execute(question, values).fetchall()

    def _last(self, table: str) -> int:
        found = self._connection.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)
        ).fetchone()
        return found[0] if found else 0

    @property
    def head(self) -> Seq:
        """The seq of the newest commit."""
        return self._head

    @property
    def version(self) -> int:
        """The number of the last change to a followed table."""
        return self._committed_version

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _open_records(self, table: Table) -> WrittenRecords:
        return self._records[table.of or table.name]

    # What a batch asks of its writer, inside the transaction

    def judge(self, tables: str, event: Event, now: int) -> tuple[Ruling, ...] | Refusal:
        """Ask the tables about a new event."""
        return self._tables.judge(tables.split(), event, self._open_records, now)

    def tell(self, tables: str, event: Event) -> None:
        """Tell the tables that an event is going."""
        self._tables.forget(tables.split(), event, self._open_records)

    def event(self, seq: int) -> Event:
        """Return a stored event."""
        (json,) = self._connection.execute("SELECT json FROM event WHERE seq = ?", (seq,)).fetchone()
        return decode(json)

    def _in_transaction(self, doing: str, work: Callable[[], _T]) -> _T:
        """Run `work` in one durable transaction. Raises StoreError: then nothing of it is there."""
        saved = self._tiers.save()
        farewells = self.farewells.save()
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            result = work()
            for records in self._records.values():
                records.flush()
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._tiers.restore(saved)
            self.farewells.restore(farewells)
            self._version = self._committed_version
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            for records in self._records.values():
                records.discard()
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"cannot {doing} {self._path}: {error}") from error
            raise
        return result

    def _between(self, doing: str, work: Callable[[], _T]) -> _T:
        """Run a transaction that no batch asked for, within the bounds of the log. Raises StoreError."""
        with failures_as_store_errors(f"cannot checkpoint {self._path}"):
            self._log.finish(self._connection)
        return self._in_transaction(doing, work)

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
        self._done(committed, tombstones)
        return committed

    def command(self, table: str, payload: bytes) -> Committed:
        """Have a table carry out a command, durably; its answer is in what is returned. Raises StoreError."""
        after = self._head

        def carry_out() -> tuple[Committed, int]:
            decided = _Batch(self, _Known(), self._tombstones, int(self._now()))
            ruling = self._tables.command(table, payload, self._open_records, int(self._now()))
            if isinstance(ruling, Refusal):
                return Committed([], [], after, after, ruling), self._tombstones
            decided.follow(ruling, live=True)
            rows, upto = self._carry_out(decided, after)
            return Committed([], rows, after, upto, ruling.answer), decided.tombstones

        committed, tombstones = self._in_transaction("write to", carry_out)
        self._done(committed, tombstones)
        return committed

    def _done(self, committed: Committed, tombstones: int) -> None:
        self._head, self._tombstones = committed.upto, tombstones
        self._committed_version = self._version

    def _write(self, batch: Sequence[Prepared], after: Seq) -> tuple[Committed, int]:
        known = _Known()
        self.look_up(_named(batch), known, ())
        decided = _Batch(self, known, self._tombstones, int(self._now()))
        outcomes = [decided.write(prepared) for prepared in batch]
        rows, upto = self._carry_out(decided, after)
        return Committed(outcomes, rows, after, upto), decided.tombstones

    def _carry_out(self, decided: _Batch, after: Seq) -> tuple[list[tuple[Seq, int, bytes]], Seq]:
        """Write what was decided; return the live rows and the new head."""
        self._forget(decided.gone)
        self.farewells.add(decided.farewells)
        self._bury(decided)
        postings, rows, upto = self._store(decided, after)
        postings += decided.tombstone_postings
        if postings:
            self._tiers.insert(postings)
        if postings or decided.gone:
            self._tiers.tidy(sum([len(hashes) for hashes, _, _ in postings]))
        return rows, upto

    def look_up(self, hashes: Iterable[int], known: _Known, gone: Container[int]) -> None:
        """Add to `known` everything that is stored under these hashes, but for the seqs in `gone`."""
        wanted = set(hashes) - known.looked_up
        known.looked_up |= wanted
        found = self._tiers.find(sorted(wanted))
        if not found:
            return
        for row in self._rows(ts & SEQ_MASK for _, ts in found if ts >= 0):
            if row.seq in gone or row.id in known.rows:
                continue
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

    def _rows(self, seqs: Iterable[int]) -> list[_Row]:
        """Return those of the events that are stored."""
        judged = ("coalesce(tables, '')", "LEFT JOIN judged USING (seq)") if self._any_judged else ("''", "")
        rows = self._connection.execute(
            "SELECT substr(json, 8, 64), substr(json, 84, 64), created_at, address, owners, "
            f"{judged[0]}, seq FROM event {judged[1]} WHERE seq IN (SELECT value FROM json_each(?))",
            (numbers(seqs),),
        )
        return [_Row(*values) for values in rows]

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
        if self._any_judged:
            self._connection.execute(
                "DELETE FROM judged WHERE seq IN (SELECT value FROM json_each(?))", (numbers(seqs),)
            )

    def _bury(self, decided: _Batch) -> None:
        insert_rows(self._connection, "tombstone(n, target, by, until)", decided.new_tombstones)
        for n, until in decided.extended.items():
            self._connection.execute("UPDATE tombstone SET until = ? WHERE n = ?", (until, n))

    def _store(self, decided: _Batch, after: Seq) -> tuple[list[Postings], list[tuple[Seq, int, bytes]], Seq]:
        """Append the batch's events to the log; return their postings, the live rows and the new head."""
        seq = after
        events: list[tuple[object, ...]] = []
        postings: list[Postings] = []
        rows: list[tuple[Seq, int, bytes]] = []
        judged: list[tuple[object, ...]] = []
        for prepared in decided.fresh.values():
            json, created_at, kind, _, address, expires_at, owners, _, live, packed, tables = prepared
            seq = Seq(seq + 1)
            if tables:
                judged.append((seq, tables))
            events.append((seq, created_at, expires_at, live, address, owners, packed, json))
            hashes = unpack_hashes(packed)
            postings.append((hashes, created_at << SEQ_BITS | seq, kind))
            for watched, records in self._watching:
                watched.raise_by(kind, hashes, json, records)
            if live:
                rows.append((seq, created_at, json))
        insert_rows(
            self._connection,
            "event(seq, created_at, expires_at, live, address, owners, postings, json)",
            events,
        )
        if judged:
            insert_rows(self._connection, "judged(seq, tables)", judged)
            self._any_judged = True
        return postings, rows, seq

    def sweep(self, now: int) -> int:
        """Remove a slice of the expired events; how many. 0 when none is left."""

        def remove_some() -> int:
            expired = self._connection.execute(
                "SELECT seq FROM event WHERE expires_at <= ? ORDER BY expires_at LIMIT ?",
                (now, REMOVED_AT_ONCE),
            ).fetchall()
            return self._remove_stored(self._rows(seq for (seq,) in expired))

        removed = self._between("sweep", remove_some)
        self._committed_version = self._version
        return removed

    def remove(self, ids: Sequence[str], barred: bool) -> int:
        """Remove the events with these ids, whoever owns them; how many were stored. See `Store.remove`."""

        def remove_some() -> _Batch:
            hashes = {id_: self.hashes.id(id_) for id_ in ids}
            known = _Known()
            self.look_up(hashes.values(), known, ())
            decided = _Batch(self, known, self._tombstones, int(self._now()))
            for id_, hash_ in hashes.items():
                decided.strike(id_.encode(), hash_, barred=barred)
            self._carry_out(decided, self._head)
            self._note_removals(decided.gone)
            # Or many removals would leave more behind than is purged along with them.
            self._tiers.tidy(_PURGED_PER_REMOVAL * len(decided.gone))
            return decided

        decided = self._between("remove from", remove_some)
        self._tombstones = decided.tombstones
        self._committed_version = self._version
        return len(decided.gone)

    def _note_removals(self, rows: Sequence[_Row]) -> None:
        """Tell who keeps something beside the database of events that the log does not tell of."""
        insert_rows(
            self._connection,
            "removal(ts)",
            [(row.created_at << SEQ_BITS | row.seq,) for row in rows if row.seq is not None],
        )
        self._connection.execute(
            "DELETE FROM removal WHERE n <= (SELECT max(n) FROM removal) - ?", (_REMOVALS_KEPT,)
        )

    def _remove_stored(self, rows: Sequence[_Row]) -> int:
        """Remove stored events outside of a batch; how many."""
        for row in rows:
            if row.tables and row.seq is not None:
                self.tell(row.tables, self.event(row.seq))
        self._forget(rows)
        if rows:
            self._note_removals(rows)
            self._tiers.tidy(0)
        return len(rows)

    @property
    def is_removing(self) -> bool:
        """Whether events of somebody who took leave may still be stored."""
        return self.farewells.unfinished

    def remove_slice(self) -> None:
        """Remove some of the events of somebody who took leave."""

        def remove_some() -> None:
            owner, until, seqs = self.farewells.next_slice(self._tiers)
            self._remove_stored(
                [row for row in self._rows(seqs) if row.created_at <= until and row.is_owned_by(owner)]
            )

        if self.is_removing:
            self._between("remove from", remove_some)
            self._committed_version = self._version

    @property
    def is_untidy(self) -> bool:
        """Whether `tidy` has something to do."""
        return self.is_removing or self._tiers.is_tidying_due() or self._shrinking.is_under_way

    def tidy(self) -> bool:
        """Move one slice of the tiers, for when the writer is idle; whether more is due."""
        if self.is_removing:  # since before the last stop
            self.remove_slice()
            return True
        with failures_as_store_errors(f"cannot read {self._path}"):
            is_due = self._tiers.is_tidying_due()
        if is_due:
            self._between("tidy", lambda: self._tiers.tidy(0))
            return True
        return self.shrink()

    @property
    def is_shrinking(self) -> bool:
        """Whether unused pages are being given back."""
        return self._shrinking.is_under_way

    def shrink(self) -> bool:
        """Give a slice of the file's unused pages back, if they are many; whether there is more to give."""
        with failures_as_store_errors(f"cannot read {self._path}"):
            if not self._shrinking.is_due():
                return False
        self._between("shrink", self._shrinking.give_back)
        return True

    def lengthen_log(self) -> None:
        """Get the write-ahead log ready for many commits; before the first one. Raises StoreError."""
        with failures_as_store_errors(f"cannot write the log of {self._path}"):
            self._log.lengthen()

    def checkpoint_due(self) -> bool:
        """Whether the write-ahead log has grown enough for `checkpoint`."""
        return self._log.is_due()

    def checkpoint(self) -> None:
        """Copy the write-ahead log into the database, beside running commits. Raises StoreError."""
        self._log.copy()

    def copy(self, target: Path, on_progress: Callable[[int, int], None]) -> None:
        """Make a consistent copy beside running commits; from any thread. See `copy_database`."""
        copy_database(self._connection, target, on_progress)

    def close(self) -> None:
        """Checkpoint all and close. Raises StoreError."""
        with failures_as_store_errors(f"cannot close {self._path}"):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.close()
            self._log.close()
