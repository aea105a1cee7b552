"""Looking for damage: whether every event is what was signed, and the index says so, both ways.

Reads only, in slices of one snapshot each, so a relay may be running. What is compared does not depend on
the relay's settings.
"""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from struct import pack, unpack
from typing import NamedTuple
from urllib.parse import quote

import orjson

from relay.nostr import kinds
from relay.nostr.event import Event, InvalidEvent, encode, has_right_id, parse_event
from relay.nostr.polls import number
from relay.nostr.tags import HEX_64, first_value, parse_address, seconds, values
from relay.store.api import StoreError
from relay.store.sqlite.postings import AUTHOR, FINAL, SEQ_BITS, SEQ_MASK, Hashes
from relay.store.sqlite.schema import DAMAGE, check_is_ours, connect, failures_as_store_errors, hash_key
from relay.store.sqlite.statements import numbers
from relay.store.sqlite.tiers import TIERS, TOMBSTONE

_EVENTS_AT_ONCE = 256
_POSTINGS_AT_ONCE = 4_096
_CACHE_MIB = 32
_STRUCTURE_FINDINGS = 20
_SUMMED_AT_ONCE = 10_000

_UNDER = " UNION ALL ".join(
    f"SELECT h, kind FROM json_each(?1) CROSS JOIN {tier} ON h = value AND ts = ?2" for tier in TIERS
)
_HOLDERS = " UNION ALL ".join(f"SELECT ts FROM {tier} WHERE h = ?1 AND ts >= 0" for tier in TIERS)
_REMOVALS = " UNION ALL ".join(f"SELECT ts FROM {tier} WHERE h = ?1 AND ts < 0" for tier in TIERS)
_NEXT_POSTINGS = (
    " UNION ALL ".join(f"SELECT h, ts, kind FROM {tier} WHERE (h, ts) > (?1, ?2)" for tier in TIERS)
    + f" ORDER BY h, ts LIMIT {_POSTINGS_AT_ONCE}"
)

_Report = Callable[[str], None]


class Finding(NamedTuple):
    """Something that is not as it must be."""

    what: str
    where: str
    """Such as `event 1234 (id 0a1b…)`."""


class AuditedEvents(NamedTuple):
    """A slice of the log."""

    lines: list[bytes]
    """The events as they are kept, for checking their signatures; parallel to `places`."""
    places: list[str]
    findings: list[Finding]


class Audit:
    """One database that is looked at; what it counts is complete once all of it was."""

    def __init__(self, path: Path, *, is_still: bool) -> None:
        """`is_still`: nobody writes the file, and it has no log beside it. Raises StoreError, StoreTooNew."""
        self._path = path
        with failures_as_store_errors(f"cannot open {path}"):
            if not path.exists():
                raise StoreError(f"{path} does not exist")
            if is_still:
                # Nothing is made beside it.
                where = f"file:{quote(str(path.resolve()))}?immutable=1"
                self._connection = sqlite3.connect(
                    where, uri=True, isolation_level=None, check_same_thread=False
                )
            else:
                self._connection = connect(path, cache_mib=_CACHE_MIB)
            try:
                self._connection.execute("PRAGMA query_only = ON")
                self._connection.text_factory = _as_text
                self.migrations = sorted(check_is_ours(self._connection, path))
                self._hashes = Hashes(hash_key(self._connection))
                self.head = self._head()
            except BaseException:
                self._connection.close()
                raise
        self.events = self.postings = self.tombstones = 0
        self.total = 0
        """The sum of the ids; see `relay.nostr.polls.fingerprint`."""
        self._farewells: dict[str, int] = {}

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _number(self, question: str) -> int:
        number: int = self._connection.execute(question).fetchone()[0]
        return number

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("COMMIT")

    def structure(self) -> Iterator[Finding]:
        """Look at the file's trees as SQLite does. One long snapshot: for a database nobody writes."""
        try:
            for (text,) in self._connection.execute(f"PRAGMA integrity_check({_STRUCTURE_FINDINGS})"):
                if text != "ok":
                    yield Finding("the file's structure is damaged", text)
        except DAMAGE as error:
            yield Finding("the file's structure is damaged", str(error))

    def log(self) -> Iterator[AuditedEvents]:
        """Look at every event: its columns, its postings, its address, and whether it may be there."""
        try:
            leaves = self._connection.execute(
                "SELECT owner, until FROM farewell WHERE NOT unfinished "
                "AND typeof(owner) = 'blob' AND typeof(until) = 'integer'"
            ).fetchall()
        except DAMAGE as error:
            yield AuditedEvents([], [], [_unreadable("who took leave", 0, error)])
            return
        self._farewells = {str(owner, "latin-1"): until for owner, until in leaves}
        after = -(2**63)
        while True:
            found = AuditedEvents([], [], [])
            try:
                with self._snapshot():
                    rows = self._connection.execute(
                        "SELECT seq, created_at, expires_at, live, address, owners, postings, json "
                        f"FROM event WHERE seq > ? ORDER BY seq LIMIT {_EVENTS_AT_ONCE}",
                        (after,),
                    ).fetchall()
                    head = self._head()
                    for (before, *_), row in pairwise([(after,), *rows]):
                        if not max(before, 0) < row[0] <= head:
                            found.findings.append(Finding("the log is out of order", f"event {row[0]}"))
                        self._look_at(row, found)
            except DAMAGE as error:
                yield AuditedEvents([], [], [_unreadable("the log", after, error)])
                return
            if rows:
                yield found
            if len(rows) < _EVENTS_AT_ONCE or rows[-1][0] <= after:
                return
            after = rows[-1][0]

    def _look_at(self, row: tuple[object, ...], found: AuditedEvents) -> None:
        seq, created_at, expires_at, live, address, owners, postings, json = row
        place = f"event {seq}"

        def report(what: str) -> None:
            found.findings.append(Finding(what, place))

        assert isinstance(seq, int)  # an INTEGER PRIMARY KEY
        self.events += 1
        if not isinstance(json, bytes) or not isinstance(postings, bytes) or not isinstance(created_at, int):
            report("its row does not hold what it must")
            return
        try:
            event = parse_event(orjson.loads(json))
        except (orjson.JSONDecodeError, InvalidEvent) as error:
            report(f"its JSON is no event: {error}")
            return
        place = f"event {seq} (id {event.id})"
        found.lines.append(json)
        found.places.append(place)
        self.total = (self.total + number(event.id)) % 2**256
        if not has_right_id(event):
            report("its id is not the hash of the event")
        if encode(event) != json:
            report("its JSON is not canonical")
        if created_at != event.created_at:
            report("its row has another created_at than the event")
        if live not in (0, 1):
            report("its row does not hold what it must")
        if expires_at is not None and expires_at != _expiry(event):
            report("its row expires at another time than the event")
        self._look_at_owners(event, owners, report)
        self._look_at_postings(seq, event, address, postings, report)
        if event.kind == kinds.DELETION:
            self._look_at_requests(event, report)
        if expires_at is not None:
            listed = self._connection.execute(
                "SELECT 1 FROM event INDEXED BY event_expiry WHERE expires_at = ? AND seq = ?",
                (expires_at, seq),
            )
            if listed.fetchone() is None:
                report("it is missing from the list of what expires")

    def _head(self) -> int:
        return self._number("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'event'")

    def _look_at_owners(self, event: Event, owners: object, report: _Report) -> None:
        named = [event.pubkey, *values(event.tags, "p")]
        keys = named[:1]
        if owners is not None:
            if not isinstance(owners, bytes):
                report("its row does not hold what it must")
                return
            keys = str(owners, "latin-1").split()
            if keys[:1] == [FINAL.decode()]:
                del keys[0]
            if not set(keys) <= set(named):
                report("its owners are not named in the event")
        if any(event.created_at <= self._farewells.get(key, -1) for key in keys):
            report("it is older than its owner's leave")

    def _look_at_postings(
        self, seq: int, event: Event, address: object, postings: bytes, report: _Report
    ) -> None:
        wanted = self._hashes.of(event) | {self._hashes.id(event.id)}
        if event.address is not None:
            own = self._hashes.address(event.address)
            wanted.add(own)
            if address != own:
                report("its row has another address than the event")
        elif address is not None:
            report("its row has an address, and the event has none")
        kept = unpack(f"<{len(postings) // 8}q", postings) if len(postings) % 8 == 0 else ()
        if set(kept) != wanted or len(kept) != len(wanted):
            report("its row lists other postings than the event has")
        ts = event.created_at << SEQ_BITS | seq
        there = self._connection.execute(_UNDER, (numbers(wanted), ts)).fetchall()
        if missing := len(wanted - {h for h, _ in there}):
            report(f"{missing} of its postings are missing")
        if any(kind != event.kind for _, kind in there):
            report("a posting has another kind than the event")
        if event.address is not None:
            holders = self._connection.execute(_HOLDERS, (address,)).fetchall()
            if [holder for (holder,) in holders if holder != ts]:
                report("its address has a further holder")

    def index(self) -> Iterator[tuple[int, list[Finding]]]:
        """Look at every posting: yields how many were looked at, and what was found."""
        last = (-(2**63), -(2**63))
        while True:
            findings: list[Finding] = []
            try:
                with self._snapshot():
                    rows = self._connection.execute(_NEXT_POSTINGS, last).fetchall()
                    whole = [row for row in rows if all(type(value) is int for value in row)]
                    if len(whole) < len(rows):
                        findings.append(Finding("a posting does not hold what it must", f"behind {last}"))
                    for (h, ts, _), (next_h, next_ts, _) in pairwise([(*last, 0), *whole]):
                        if (h, ts) >= (next_h, next_ts):
                            findings.append(Finding("the index is out of order", _posting(next_h, next_ts)))
                    findings += self._orphans(whole)
            except DAMAGE as error:
                yield 0, [_unreadable("the index", last, error)]
                return
            self.postings += len(rows)
            yield len(rows), findings
            if len(rows) < _POSTINGS_AT_ONCE or not whole or whole[-1][:2] <= last:
                return
            last = whole[-1][:2]

    def _orphans(self, rows: list[tuple[int, int, int]]) -> Iterator[Finding]:
        """Find postings of nothing."""
        listed = numbers({ts & SEQ_MASK for _, ts, _ in rows if ts >= 0})
        events = self._kept("event", listed)
        dead = self._kept("dead", listed)
        buried = {
            n: (target, by)
            for n, target, by in self._connection.execute(
                "SELECT n, target, by FROM tombstone WHERE n IN (SELECT value FROM json_each(?))",
                (numbers(-ts for _, ts, _ in rows if ts < 0),),
            )
        }
        for h, ts, kind in rows:
            if ts < 0:
                if -ts not in buried or self._target_hash(*buried[-ts]) != h or kind != TOMBSTONE:
                    yield Finding("a posting of a removal that is not noted", _posting(h, ts))
                continue
            seq = ts & SEQ_MASK
            created_at, postings = events.get(seq) or dead.get(seq) or (None, b"")
            if created_at != ts >> SEQ_BITS or not _holds(postings, h):
                yield Finding("a posting of an event that is not there", _posting(h, ts))

    def _kept(self, table: str, seqs: str) -> dict[int, tuple[int, bytes]]:
        rows = self._connection.execute(
            f"SELECT seq, created_at, postings FROM {table} WHERE seq IN (SELECT value FROM json_each(?)) "
            "AND typeof(created_at) = 'integer' AND typeof(postings) = 'blob'",
            (seqs,),
        )
        return {seq: (created_at, postings) for seq, created_at, postings in rows}

    def _look_at_requests(self, request: Event, report: _Report) -> None:
        """See that what a deletion request asks for is noted (NIP-09)."""
        for name, value in (tag[:2] for tag in request.tags if len(tag) > 1):
            if name == "e" and HEX_64(value):
                noted = self._noted(self._hashes.id(value), value, request.pubkey)
            elif name == "a" and (address := parse_address(value)) and address.pubkey == request.pubkey:
                noted = self._noted(self._hashes.address(address), str(address), None)
                noted = [until for until in noted if until >= request.created_at]
            else:
                continue
            if not noted:
                report("what it removes is not noted")

    def _noted(self, h: int, target: str, by: str | None) -> list[int]:
        rows = self._connection.execute(
            f"SELECT until FROM tombstone WHERE n IN (SELECT -ts FROM ({_REMOVALS})) "
            "AND target = ?2 AND by IS ?3 AND typeof(until) = 'integer'",
            (h, target.encode(), None if by is None else by.encode()),
        )
        return [until for (until,) in rows]

    def removals(self) -> Iterator[Finding]:
        """Look at every tombstone: that it is found, and that what it keeps out is not there."""
        after = 0
        while True:
            try:
                with self._snapshot():
                    rows = self._connection.execute(
                        "SELECT n, target, by, until FROM tombstone WHERE n > ? ORDER BY n LIMIT 1024",
                        (after,),
                    ).fetchall()
                    found = [finding for row in rows for finding in self._look_at_tombstone(*row)]
            except DAMAGE as error:
                yield _unreadable("the removals", after, error)
                return
            self.tombstones += len(rows)
            yield from found
            if len(rows) < 1_024:
                return
            after = rows[-1][0]

    def _look_at_tombstone(self, n: int, target: bytes, by: bytes | None, until: int) -> Iterator[Finding]:
        place = f"removal {n}"
        h = self._target_hash(target, by)
        if h is None or not isinstance(until, int):
            yield Finding("a removal names nothing", place)
            return
        there = self._connection.execute(_UNDER, (numbers([h]), -n)).fetchall()
        if [kind for _, kind in there] != [TOMBSTONE]:
            yield Finding("a removal that is not found by its target", place)
        living = self._connection.execute(
            "SELECT created_at, owners, json FROM event WHERE seq IN "
            f"(SELECT ts & {SEQ_MASK} FROM ({_HOLDERS})) "
            # What is damaged itself is told of where it stands in the log.
            "AND typeof(created_at) = 'integer' AND typeof(json) = 'blob' "
            "AND typeof(owners) IN ('blob', 'null')",
            (h,),
        ).fetchall()
        for created_at, owners, json in living:
            if by is None:
                is_kept_out = created_at <= until
            else:
                keys = [json[AUTHOR]] if owners is None else owners.split()
                is_kept_out = not by or (by in keys and keys[0] != FINAL)
            if is_kept_out:
                yield Finding("an event that was removed is there", place)

    def _target_hash(self, target: object, by: object) -> int | None:
        text = str(target, "utf-8", "replace") if isinstance(target, bytes) else ""
        if by is None:
            address = parse_address(text)
            return None if address is None else self._hashes.address(address)
        is_key = isinstance(by, bytes) and (not by or HEX_64(str(by, "latin-1")))
        return self._hashes.id(text) if HEX_64(text) and is_key else None

    def expiring(self) -> Iterator[Finding]:
        """Look at the list of what expires: that it names nothing else."""
        try:
            listed = self._connection.execute(
                "SELECT seq, expires_at FROM event INDEXED BY event_expiry WHERE expires_at IS NOT NULL"
            ).fetchall()
            for start in range(0, len(listed), _EVENTS_AT_ONCE):
                some = listed[start : start + _EVENTS_AT_ONCE]
                rows = dict(
                    self._connection.execute(
                        "SELECT seq, expires_at FROM event NOT INDEXED "
                        "WHERE seq IN (SELECT value FROM json_each(?))",
                        (numbers(seq for seq, _ in some),),
                    ).fetchall()
                )
                # One that has expired since is in neither.
                for seq, expires_at in some:
                    if seq in rows and rows[seq] != expires_at:
                        yield Finding("the list of what expires has another time", f"event {seq}")
        except DAMAGE as error:
            yield _unreadable("the list of what expires", 0, error)

    def sum_up(self, on_progress: Callable[[int], None]) -> tuple[int, int]:
        """Return how many events there are, and the sum of their ids."""
        events = total = 0
        ids = self._connection.execute("SELECT substr(json, 8, 64) FROM event ORDER BY seq")
        while some := ids.fetchmany(_SUMMED_AT_ONCE):
            events += len(some)
            total += sum(number(str(id_, "ascii")) for (id_,) in some)
            on_progress(events)
        return events, total % 2**256

    def counts(self) -> dict[str, int]:
        """Return how much there is of what is not events."""
        tables = ("tombstone", "farewell", "record", "judged")
        return {table: self._number(f"SELECT count(*) FROM {table}") for table in tables}


class Contents(NamedTuple):
    """What a still database holds."""

    migrations: list[str]
    head: int
    events: int
    total: int
    """The sum of the ids; see `relay.nostr.polls.fingerprint`."""
    counts: dict[str, int]


def contents_of(path: Path, on_progress: Callable[[int], None]) -> Contents:
    """Say what a database holds that nobody writes; reads every event. Raises StoreError, StoreTooNew.

    `on_progress` is told how many events were read.
    """
    audit = Audit(path, is_still=True)
    try:
        with failures_as_store_errors(f"cannot read {path}"):
            return Contents(audit.migrations, audit.head, *audit.sum_up(on_progress), audit.counts())
    finally:
        audit.close()


def _as_text(text: bytes) -> str:
    """Read a name that may be damaged too."""
    return text.decode(errors="replace")


def _expiry(event: Event) -> int | None:
    text = first_value(event.tags, "expiration")
    return None if text is None else seconds(text)


def _holds(postings: bytes, h: int) -> bool:
    packed = pack("<q", h)
    at = postings.find(packed)
    while at % 8 and at >= 0:
        at = postings.find(packed, at + 1)
    return at >= 0


def _posting(h: int, ts: int) -> str:
    whose = f"removal {-ts}" if ts < 0 else f"event {ts & SEQ_MASK}"
    return f"posting {h % 2**64:016x} of {whose}"


def _unreadable(what: str, after: object, error: Exception) -> Finding:
    return Finding(f"{what} cannot be read", f"behind {after}: {error}")
