"""The written contract of every store. Nothing above `relay.store` imports a backend.

A store knows rows, not NIPs: it keeps an event, replaces the holder of an address if the new one
is newer, forgets at a time, and removes ids and addresses. The features fill a `Write` with that.

Promises of every store, held to by one conformance table (tests/store/test_conformance.py):

- `seq` is assigned in commit order: once `head()` said h, nobody ever sees a new row ≤ h. A seq is
  never used twice, not even after the newest row was removed.
- `write` returns after the batch is durable. All of a batch is committed, or none of it.
- Writes take effect in the order of the batch, as if each had been written alone.
- `scan`, `count` and `log` never show removed or superseded events, nor expired ones as of `now`.
- Of two events with one address the newer stays; on equal created_at the lower id (NIP-01).
- What a `Table` decides, and the records it changes, take effect with the event that caused it, or
  not at all; nobody sees the one without the other.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, NewType, Protocol

from relay.nostr.event import Event, EventId, PubKey, decode
from relay.nostr.filter import Filter
from relay.nostr.reasons import Refusal
from relay.nostr.tags import Address, indexed

Seq = NewType("Seq", int)
"""Position in the log, from 1, growing in commit order, with gaps. 0 is before the first event."""

MAX_SEQ = 2**31 - 1


class StoreError(Exception):
    """The database failed; the text is for the operator's log, not for the wire."""


class StoreTooNew(StoreError):
    """The database was written by a newer Torv, whose schema this one does not know."""


@dataclass(frozen=True, slots=True)
class RemoveEvent:
    """Remove the event with this id, now or when it arrives, if `by` is one of its owners."""

    id: EventId
    by: PubKey


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    """Remove every version of this address with created_at ≤ `until`, now or when it arrives."""

    address: Address
    until: int
    """Unix seconds, inclusive."""


@dataclass(frozen=True, slots=True)
class RemoveOwned:
    """Remove every event that `by` owns with created_at ≤ `until`, now or when it arrives.

    Owners that are not the author are found where a `p` tag names them. The write is answered when
    all of it is gone, which may take many transactions.
    """

    by: PubKey
    until: int
    """Unix seconds, inclusive."""


Removal = RemoveEvent | RemoveAddress | RemoveOwned


# Not frozen, though nobody changes one: that would cost 1.5 µs more, and one is made for every event.
@dataclass(slots=True)
class Write:
    """One event to keep and what comes with it. The event's id and signature were checked."""

    event: Event
    json: bytes
    """`relay.nostr.event.encode(event)`: kept as it is and spliced into answers."""
    address: Address | None = None
    """The event replaces the older holder of this address, or is superseded by a newer one."""
    expires_at: int | None = None
    """Unix seconds; from this second on nobody sees the event."""
    owners: tuple[PubKey, ...] | None = None
    """Whose RemoveEvent removes this event. None: its author's. Empty: nobody's."""
    is_final: bool = False
    """No RemoveEvent removes it, though it has owners: it goes only with all that one of them owns."""
    removals: tuple[Removal, ...] = ()
    """Take effect if this event is stored, or is a duplicate of a stored one."""
    live: bool = True
    """False for import and backfill: the rows move the head, but no live subscriber gets them."""
    tables: tuple[str, ...] = ()
    """The tables that judge this event, by name, in order."""


class Records(Protocol):
    """The records of one table, inside a write transaction: what was put is there at once."""

    def get(self, key: str) -> bytes | None: ...

    def put(self, key: str, value: bytes) -> None: ...

    def delete(self, key: str) -> None:
        """Delete a record; one that is not there is no mistake."""

    def within(self, prefix: str, *, after: str = "", limit: int = 1_000) -> list[tuple[str, bytes]]:
        """Return records whose keys begin with `prefix` and sort behind `after`, by key (code points)."""


class Ruling(NamedTuple):
    """What a table decides beside its records."""

    also: tuple[Write, ...] = ()
    """Further events, of the relay's own, kept in the same transaction, right behind this one.

    Tables that they name judge them too; they are as live as the event that caused them."""
    removals: tuple[EventId, ...] = ()
    """Events to remove by the relay's own authority, whoever owns them. They may come again."""
    answer: bytes = b""
    """What a command gives back."""


KEEP = Ruling()
"""Keep the event; nothing else follows from it."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Records of a table that keep events out, by what their keys name: whoever brings them, and however long
    ago they were admitted."""

    authors: str
    """What keys begin with that go on with a public key: none of its events is kept."""
    ids: str
    """What keys begin with that go on with an event id."""
    refusal: Refusal
    except_kinds: frozenset[int] = frozenset()
    """Kinds that are kept all the same."""


@dataclass(frozen=True, slots=True)
class Table:
    """Records that follow exactly from events and commands, in one order for all processes.

    The functions run inside the write transaction, where the writer is, one at a time: they must be
    quick, must not wait, and depend on nothing but their arguments. One that fails refuses its event.
    """

    name: str
    judge: Callable[[Event, Records, int], Ruling | Refusal]
    """(event, records, now in unix seconds). Asked before a new event is kept that names this table in
    `Write.tables`; a Refusal keeps it out, and nothing that was put before it remains."""
    forget: Callable[[Event, Records], None] | None = None
    """Called after an event that this table judged was removed, superseded or has expired."""
    command: Callable[[bytes, Records, int], Ruling | Refusal] | None = None
    """(payload, records, now): a change that no event asks for; see `Store.command`."""
    of: str | None = None
    """The name of the table whose records it changes, where these are not its own: another judge of them."""
    followed: bool = False
    """Whether processes keep up with every change of its records; see `Store.changes`."""
    followed_prefix: str = ""
    """Of a followed table, only records whose keys begin with this are followed."""
    bars: Bars | None = None
    """Records that keep events out: every new event is compared with them, inside the transaction."""
    holds_crowds: bool = False
    """Whether its records are registers of crowds (`relay.nostr.crowds`) under their names, each behind one
    byte that is the table's: the store raises them with every event by which somebody joins. An event that
    may be for some only makes that byte 2."""


class Change(NamedTuple):
    """A record of a followed table that was put or deleted."""

    key: str
    value: bytes | None
    """None: deleted."""
    version: int
    """See `Store.version`."""


class Outcome(Enum):
    """What became of a Write."""

    STORED = auto()
    DUPLICATE = auto()
    """An event with this id is already stored, or came earlier in this batch."""
    SUPERSEDED = auto()
    """A newer version of its address is stored."""
    DELETED = auto()
    """It was removed before, or its removal came before it."""


class Stored(NamedTuple):
    """A row, as cheap as can be: most are spliced into an answer without being parsed."""

    seq: Seq
    created_at: int
    """Unix seconds."""
    json: bytes
    """Canonical JSON; begins with `{"id":"`, the id, `","pubkey":"` and the author."""

    @property
    def id(self) -> EventId:
        return EventId(self.json[7:71].decode())

    @property
    def author(self) -> PubKey:
        return PubKey(self.json[83:147].decode())

    @property
    def kind(self) -> int:
        # Behind 64 digits of the author and created_at.
        start = self.json.index(b'"kind":', 148) + 7
        return int(self.json[start : self.json.index(b",", start)])

    def event(self) -> Event:
        """Parse the row's JSON anew; the caller keeps the result."""
        return decode(self.json)


@dataclass(frozen=True, slots=True)
class Veil:
    """Which rows a reader may see. What is not covered here is visible to everybody."""

    kinds: frozenset[int]
    """The kinds that `visible` has to be asked about."""
    visible: Callable[[Event], bool]
    tags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By letter: `visible` has to be asked about events with a tag of one of these values, of any kind."""

    def covers(self, event: Event) -> bool:
        """Say whether `visible` has to be asked about the event."""
        if event.kind in self.kinds:
            return True
        if not self.tags:
            return False
        return any(value in self.tags.get(letter, ()) for letter, value in indexed(event.tags))


@dataclass(frozen=True, slots=True)
class Bell:
    """The log has grown. A hint only: it may be lost, and readers then find the rows by `log`."""

    after: Seq
    """The head before this commit."""
    upto: Seq
    """The head after it."""
    rows: tuple[Stored, ...] | None
    """The commit's live rows in order of seq; None where they have to be read from the log."""


class Store(Protocol):
    """Where events are kept. Methods may be awaited from one event loop only."""

    async def write(self, batch: Sequence[Write]) -> list[Outcome | Refusal]:
        """Commit the batch in one durable transaction; one outcome per write, in order.

        A Refusal is a table's: the event is not stored.

        Concurrent calls may share a transaction. Raises StoreError (disk full, database gone):
        then nothing of this batch is stored.
        """

    async def known(self, ids: Sequence[EventId]) -> set[EventId]:
        """Return those of the ids whose events are stored and not removed."""

    def scan(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        """Yield matching rows in pages, newest first (created_at desc, then id asc).

        Only rows with seq ≤ `upto` that are visible to the reader; stops after `wanted.limit`
        visible rows (None: all). `search` is ignored. A page may be empty: the store then only
        gives others a turn. Holds no transaction between pages. Raises StoreError.
        """

    def at_once(
        self, wanted: Filter, *, now: int, veil: Veil | None = None
    ) -> tuple[Seq, list[Stored]] | None:
        """Return the head, and all that `scan` yields up to it, if both can be had without waiting.

        None where it takes more than a slice or it is somebody else's turn, and for no reason at all.
        Most questions are small: the steps of a scan cost more than their rows. Raises StoreError.
        """

    async def count(self, wanted: Sequence[Filter], *, upto: Seq, now: int, veil: Veil | None = None) -> int:
        """Return how many visible rows with seq ≤ `upto` match any of the filters; limits are ignored."""

    def items(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[tuple[int, bytes]]]:
        """Yield what `scan` does as (created_at in unix seconds, id as 32 bytes), without the events.

        Pages come newest first, in no order within: nothing is newer than the oldest item of the page
        before. Raises StoreError.
        """

    async def head(self) -> Seq:
        """Return the seq of the newest commit; 0 when there was none."""

    def log(self, *, after: Seq, upto: Seq, now: int) -> AsyncIterator[list[Stored]]:
        """Yield the live rows with after < seq ≤ upto in pages, in order of seq."""

    def dump(self, *, upto: Seq, now: int) -> AsyncIterator[list[bytes]]:
        """Yield the canonical JSON of every visible row in pages, oldest first (created_at asc, id asc).

        Only rows with seq ≤ `upto`; what is removed meanwhile may be missing. Bounded memory, also
        where one second holds very many events; no transaction is held between pages. For exports.
        """

    def listen(self, on_bell: Callable[[Bell], None]) -> None:
        """Call `on_bell` on the event loop after commits, this process's and others'."""

    def follow(self, wanted: bool) -> None:
        """Say whether bells are wanted; at first they are.

        While they are not, the store may leave them out. A bell makes up for those when they are again.
        """

    async def announce(self, rows: Sequence[bytes]) -> None:
        """Hand ephemeral events (canonical JSON) to every follower, this process's own included.

        Never stored; bounded and best effort: what does not fit is dropped and counted.
        """

    def listen_ephemeral(self, on_events: Callable[[Sequence[bytes]], None]) -> None:
        """Call `on_events` on the event loop with what was announced by any process."""

    async def command(self, table: str, payload: bytes) -> bytes | Refusal:
        """Have a table carry out a command, durably; return its answer. Raises StoreError."""

    @property
    def version(self) -> int:
        """The number of the last change to a followed table that a question now would see.

        Cheap: asked before every question and every batch of events.
        """

    def changes(self, table: str, *, after: int, limit: int = 1_000) -> list[Change]:
        """Return what was put and deleted since a version, by version; of a record only the latest.

        After 0: all records there are, and perhaps deletions. Read at once, in bounded work.
        """

    def record(self, table: str, key: str) -> bytes | None:
        """Return one record as the last commit left it. Read at once."""

    def records(
        self, table: str, prefix: str, *, after: str = "", limit: int = 1_000
    ) -> list[tuple[str, bytes]]:
        """Return records as `Records.within` does, as the last commit left them. Read at once."""

    async def sweep(self, now: int) -> int:
        """Remove what has expired; how many."""

    async def remove(self, ids: Sequence[EventId], *, barred: bool = False) -> int:
        """Remove events by the operator's authority, whoever owns them; return how many were stored.

        `barred`: none of the ids is ever stored again, whether or not it was. Many ids take many
        transactions, between which others write; what was removed before a StoreError stays removed.
        """

    async def close(self) -> None:
        """Finish what was begun, checkpoint, and let go of the files."""
