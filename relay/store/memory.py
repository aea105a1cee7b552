"""The reference store: rows in a dict, and `Filter.matches` for every question.

The oracle that the real stores are compared with, and a store for tests. Simple over fast: every
question looks at every row. Nothing survives the process.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from relay.nostr.event import Event, EventId, PubKey
from relay.nostr.filter import Filter
from relay.nostr.reasons import Refusal
from relay.nostr.tags import Address, indexed
from relay.store.api import (
    MAX_SEQ,
    Bell,
    Change,
    Outcome,
    Removal,
    RemoveAddress,
    RemoveEvent,
    RemoveOwned,
    Ruling,
    Seq,
    Stored,
    StoreError,
    Table,
    Veil,
    Write,
)
from relay.store.records import Barred, Tables, Watched

_PAGE = 100


class _Row(NamedTuple):
    stored: Stored
    write: Write

    @property
    def event(self) -> Event:
        return self.write.event

    def is_expired(self, now: int) -> bool:
        return self.write.expires_at is not None and self.write.expires_at <= now

    def is_visible(self, now: int, upto: Seq, veil: Veil | None) -> bool:
        if self.stored.seq > upto or self.is_expired(now):
            return False
        return veil is None or not veil.covers(self.event) or veil.visible(self.event)


class MemoryStore:
    """A `Store` in memory."""

    def __init__(self, tables: Iterable[Table] = (), *, now: Callable[[], float] = time.time) -> None:
        """`now` is what tables are told, in unix seconds."""
        self._tables = Tables(tables)
        self._records = {
            table.name: _Records(self, table) for table in self._tables.all.values() if table.of is None
        }
        self._version = 0
        self._now = now
        self._rows: dict[EventId, _Row] = {}
        """In order of seq."""
        self._holders: dict[Address, EventId] = {}
        self._head = Seq(0)
        self._removed_events: set[tuple[EventId, PubKey]] = set()
        self._barred: set[EventId] = set()
        self._removed_addresses: dict[Address, int] = {}
        """Address → until, unix seconds, inclusive."""
        self._removed_owners: dict[PubKey, int] = {}
        """Owner → until, unix seconds, inclusive."""
        self._on_bell: list[Callable[[Bell], None]] = []
        self._on_ephemeral: list[Callable[[Sequence[bytes]], None]] = []

    async def write(self, batch: Sequence[Write]) -> list[Outcome | Refusal]:
        """See `Store.write`."""
        if self._head + len(batch) > MAX_SEQ:
            raise StoreError(f"the log is full: seq would pass {MAX_SEQ}")
        after = self._head
        outcomes = [self._write_one(write) for write in batch]
        self._ring(after)
        return outcomes

    def _ring(self, after: Seq) -> None:
        if self._head > after:
            rows = tuple(
                row.stored for row in self._rows.values() if row.stored.seq > after and row.write.live
            )
            for ring in self._on_bell:
                ring(Bell(after, self._head, rows))

    def _write_one(self, write: Write) -> Outcome | Refusal:
        outcome, rulings = self._keep(write)
        if outcome in (Outcome.STORED, Outcome.DUPLICATE):
            for removal in write.removals:
                self._remove(removal)
        for ruling in rulings:
            self._follow(ruling, live=write.live)
        return outcome

    def _follow(self, ruling: Ruling, *, live: bool) -> None:
        for id_ in ruling.removals:
            if (row := self._rows.get(id_)) is not None:
                self._forget(row)
        for further in ruling.also:
            self._write_one(replace(further, live=live))

    def _keep(self, write: Write) -> tuple[Outcome | Refusal, tuple[Ruling, ...]]:
        event, address = write.event, write.address
        if event.id in self._rows:
            return Outcome.DUPLICATE, ()
        if event.id in self._barred:
            return Outcome.DELETED, ()
        owners = tuple(_owners(write))
        if not write.is_final and any((event.id, owner) in self._removed_events for owner in owners):
            return Outcome.DELETED, ()
        if any(event.created_at <= self._removed_owners.get(owner, -1) for owner in owners):
            return Outcome.DELETED, ()
        holder = None
        if address is not None:
            if event.created_at <= self._removed_addresses.get(address, -1):
                return Outcome.DELETED, ()
            if address in self._holders:
                holder = self._rows[self._holders[address]]
                # NIP-01: the newer stays; on equal created_at the lowest id.
                if (-holder.event.created_at, holder.event.id) < (-event.created_at, event.id):
                    return Outcome.SUPERSEDED, ()
        for records in self._records.values():
            if records.barred is not None:
                refusal = records.barred.refuse(event.id.encode(), event.pubkey.encode(), event.kind)
                if refusal is not None:
                    return refusal, ()
        rulings = self._tables.judge(write.tables, event, self._open, int(self._now()))
        if isinstance(rulings, Refusal):
            return rulings, ()
        if holder is not None:
            self._forget(holder)
        if address is not None:
            self._holders[address] = event.id
        self._head = Seq(self._head + 1)
        self._rows[event.id] = _Row(Stored(self._head, event.created_at, write.json), write)
        for records in self._records.values():
            if records.watched is not None:
                records.watched.raise_by(event.kind, indexed(event.tags), write.json, records)
        return Outcome.STORED, rulings

    def _remove(self, removal: Removal) -> None:
        match removal:
            case RemoveEvent(id_, by):
                self._removed_events.add((id_, by))
                row = self._rows.get(id_)
                if row is not None and not row.write.is_final and by in _owners(row.write):
                    self._forget(row)
            case RemoveAddress(address, until):
                self._removed_addresses[address] = max(until, self._removed_addresses.get(address, -1))
                holder = self._holders.get(address)
                if holder is not None and self._rows[holder].event.created_at <= until:
                    self._forget(self._rows[holder])
            case RemoveOwned(by, until):
                self._removed_owners[by] = max(until, self._removed_owners.get(by, -1))
                for row in list(self._rows.values()):
                    if row.event.created_at <= until and by in _owners(row.write):
                        self._forget(row)

    def _forget(self, row: _Row) -> None:
        del self._rows[row.event.id]
        if row.write.address is not None:
            del self._holders[row.write.address]
        self._tables.forget(row.write.tables, row.event, self._open)

    def _open(self, table: Table) -> "_Records":
        return self._records[table.of or table.name]

    async def command(self, table: str, payload: bytes) -> bytes | Refusal:
        """See `Store.command`."""
        after = self._head
        ruling = self._tables.command(table, payload, self._open, int(self._now()))
        if isinstance(ruling, Refusal):
            return ruling
        self._follow(ruling, live=True)
        self._ring(after)
        return ruling.answer

    @property
    def version(self) -> int:
        """See `Store.version`."""
        return self._version

    def next_version(self) -> int:
        """Number a change to a followed table."""
        self._version += 1
        return self._version

    def changes(self, table: str, *, after: int, limit: int = 1_000) -> list[Change]:
        """See `Store.changes`."""
        found = [change for change in self._records[table].changed.values() if change.version > after]
        return sorted(found, key=lambda change: change.version)[:limit]

    def record(self, table: str, key: str) -> bytes | None:
        """See `Store.record`."""
        return self._records[table].get(key)

    def records(
        self, table: str, prefix: str, *, after: str = "", limit: int = 1_000
    ) -> list[tuple[str, bytes]]:
        """See `Store.records`."""
        return self._records[table].within(prefix, after=after, limit=limit)

    async def known(self, ids: Sequence[EventId]) -> set[EventId]:
        """See `Store.known`."""
        return self._rows.keys() & set(ids)

    async def scan(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        """See `Store.scan`."""
        found = [
            row
            for row in self._rows.values()
            if row.is_visible(now, upto, veil) and wanted.matches(row.event)
        ]
        found.sort(key=lambda row: (-row.event.created_at, row.event.id))
        left = len(found) if wanted.limit is None else wanted.limit
        async for page in self._pages(found):
            if left <= 0:
                return
            yield page[:left]
            left -= len(page)

    async def count(self, wanted: Sequence[Filter], *, upto: Seq, now: int, veil: Veil | None = None) -> int:
        """See `Store.count`."""
        return sum(
            row.is_visible(now, upto, veil) and any(one.matches(row.event) for one in wanted)
            for row in self._rows.values()
        )

    async def items(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[tuple[int, bytes]]]:
        """See `Store.items`."""
        async for page in self.scan(wanted, upto=upto, now=now, veil=veil):
            yield [(row.created_at, bytes.fromhex(row.id)) for row in page]

    def at_once(
        self, wanted: Filter, *, now: int, veil: Veil | None = None
    ) -> tuple[Seq, list[Stored]] | None:
        """See `Store.at_once`: everything takes more than a slice here, so that tests can come between."""
        return None

    async def head(self) -> Seq:
        """See `Store.head`."""
        return self._head

    async def log(self, *, after: Seq, upto: Seq, now: int) -> AsyncIterator[list[Stored]]:
        """See `Store.log`."""
        found = [
            row
            for row in self._rows.values()
            if row.write.live and row.stored.seq > after and row.is_visible(now, upto, None)
        ]
        async for page in self._pages(found):
            yield page

    async def dump(self, *, upto: Seq, now: int) -> AsyncIterator[list[bytes]]:
        """See `Store.dump`."""
        found = [row for row in self._rows.values() if row.is_visible(now, upto, None)]
        found.sort(key=lambda row: (row.event.created_at, row.event.id))
        async for page in self._pages(found):
            yield [stored.json for stored in page]

    async def _pages(self, found: Sequence[_Row]) -> AsyncIterator[list[Stored]]:
        """Cut rows into pages, without those that were removed since they were found."""
        for start in range(0, len(found), _PAGE):
            yield [row.stored for row in found[start : start + _PAGE] if row.event.id in self._rows]
            await asyncio.sleep(0)  # between pages others get their turn

    def listen(self, on_bell: Callable[[Bell], None]) -> None:
        """See `Store.listen`."""
        self._on_bell.append(on_bell)

    def follow(self, wanted: bool) -> None:
        """See `Store.follow`: here a bell costs nothing."""

    async def announce(self, rows: Sequence[bytes]) -> None:
        """See `Store.announce`."""
        for hear in self._on_ephemeral:
            hear(rows)

    def listen_ephemeral(self, on_events: Callable[[Sequence[bytes]], None]) -> None:
        """See `Store.listen_ephemeral`."""
        self._on_ephemeral.append(on_events)

    async def sweep(self, now: int) -> int:
        """See `Store.sweep`."""
        expired = [row for row in self._rows.values() if row.is_expired(now)]
        for row in expired:
            self._forget(row)
        return len(expired)

    async def remove(self, ids: Sequence[EventId], *, barred: bool = False) -> int:
        """See `Store.remove`."""
        if barred:
            self._barred.update(ids)
        rows = [self._rows[id_] for id_ in dict.fromkeys(ids) if id_ in self._rows]
        for row in rows:
            self._forget(row)
        return len(rows)

    async def close(self) -> None:
        """See `Store.close`."""
        self._on_bell.clear()
        self._on_ephemeral.clear()


class _Records:
    """One table's records."""

    def __init__(self, store: MemoryStore, table: Table) -> None:
        self._store = store
        self._table = table
        self._values: dict[str, bytes] = {}
        self.changed: dict[str, Change] = {}
        """The latest change of each record, of a followed table."""
        self.barred = None if table.bars is None else Barred(table.bars)
        self.watched = Watched(_pair) if table.holds_crowds else None

    def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        self._values[key] = value
        self._note(key, value)

    def delete(self, key: str) -> None:
        if self._values.pop(key, None) is not None:
            self._note(key, None)

    def within(self, prefix: str, *, after: str = "", limit: int = 1_000) -> list[tuple[str, bytes]]:
        keys = sorted(key for key in self._values if key.startswith(prefix) and key > after)
        return [(key, self._values[key]) for key in keys[:limit]]

    def _note(self, key: str, value: bytes | None) -> None:
        for one in (self.barred, self.watched):
            if one is not None:
                one.note(key, is_there=value is not None)
        if self._table.followed and key.startswith(self._table.followed_prefix):
            self.changed[key] = Change(key, value, self._store.next_version())


def _pair(letter: str, value: str) -> tuple[str, str]:
    return letter, value


def _owners(write: Write) -> Iterable[PubKey]:
    return (write.event.pubkey,) if write.owners is None else write.owners
