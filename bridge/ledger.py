"""What the bridge must not forget: one SQLite file in the data folder.

Every method that changes something is one durable transaction (WAL, synchronous FULL): when it has
returned, `kill -9` and a power cut cannot undo it. Calls block for the length of a commit, a few
milliseconds; the bridge moves tens of messages a second at most, so it spares itself a thread.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlite_utils
from sqlite_utils.migrations import Migrations

from bridge.model import Copy, Identity, Link, Place, Profile, Ref, Sort
from bridge.network import Arrival, Rendered
from bridge.plan import (
    Change,
    Confirmed,
    Delivery,
    Known,
    LinkEnded,
    LinkMade,
    OptedIn,
    OptedOut,
    Withdraw,
    Withdrawn,
)

migrations = Migrations("bridge")

Row = tuple[Any, ...]
"""What SQLite returns; the tables are STRICT, so each column has the type that its table says."""

KEPT_DAYS = 30
"""How long the ids of finished arrivals are kept: far longer than any network repeats itself."""


class LedgerError(Exception):
    """The ledger cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Received:
    """An arrival that waits in the inbox."""

    seq: int
    id: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Waiting:
    """The first entry of a lane of the outbox."""

    seq: int
    network: str
    lane: str
    key: str
    payload: bytes
    attempts: int
    max_attempts: int | None
    not_before: float
    native_id: str | None
    """The id of the copy that it is about, if there is one by now."""
    known: Mapping[Ref, str]
    """The ids that the copies got which it needed."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A planned delivery with its native form."""

    delivery: Delivery
    rendered: Rendered


@migrations()
def create_tables(database: sqlite_utils.Database) -> None:
    database.executescript(
        """
        CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
        CREATE TABLE inbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            network TEXT NOT NULL,
            id TEXT NOT NULL,
            raw BLOB,                          -- NULL once it is done
            state TEXT NOT NULL DEFAULT 'new', -- new, done, aside
            reason TEXT,                       -- why it was set aside
            received_at REAL NOT NULL,         -- unix seconds
            UNIQUE (network, id)
        ) STRICT;
        CREATE INDEX inbox_new ON inbox (network, seq) WHERE state = 'new';
        CREATE TABLE cursor (
            network TEXT NOT NULL, scope TEXT NOT NULL, value INTEGER NOT NULL,
            PRIMARY KEY (network, scope)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE bookmark (
            network TEXT NOT NULL, scope TEXT NOT NULL, value TEXT NOT NULL,
            PRIMARY KEY (network, scope)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE identity (
            network TEXT NOT NULL, id TEXT NOT NULL,
            ghost_network TEXT NOT NULL, ghost_id TEXT NOT NULL,
            name TEXT, picture TEXT, profile_at INTEGER NOT NULL,
            generation INTEGER NOT NULL, shown INTEGER NOT NULL,
            PRIMARY KEY (network, id)
        ) STRICT, WITHOUT ROWID;
        CREATE UNIQUE INDEX identity_ghost ON identity (ghost_network, ghost_id);
        CREATE TABLE opted_out (
            network TEXT NOT NULL, id TEXT NOT NULL, since_ms INTEGER NOT NULL,
            PRIMARY KEY (network, id)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE link (
            room_network TEXT NOT NULL, room_id TEXT NOT NULL,
            follows_network TEXT NOT NULL, follows_id TEXT NOT NULL,
            since_ms INTEGER NOT NULL, by_network TEXT NOT NULL, by_id TEXT NOT NULL,
            PRIMARY KEY (room_network, room_id)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX link_follows ON link (follows_network, follows_id);
        CREATE TABLE copy (
            origin_network TEXT NOT NULL, origin_id TEXT NOT NULL,
            author_network TEXT NOT NULL, author_id TEXT NOT NULL,
            network TEXT NOT NULL, target TEXT NOT NULL,
            native_id TEXT,                    -- NULL until the network has said
            withdrawn INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (origin_network, origin_id, network, target)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX copy_native ON copy (network, native_id) WHERE native_id IS NOT NULL;
        CREATE INDEX copy_author ON copy (author_network, author_id);
        CREATE TABLE tombstone (
            network TEXT NOT NULL, id TEXT NOT NULL, by_network TEXT NOT NULL, by_id TEXT NOT NULL,
            PRIMARY KEY (network, id, by_network, by_id)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE outbox (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            network TEXT NOT NULL, lane TEXT NOT NULL, key TEXT NOT NULL,
            payload BLOB NOT NULL,
            makes INTEGER NOT NULL,            -- whether it makes the copy, or takes it back
            origin_network TEXT, origin_id TEXT, target TEXT,
            attempts INTEGER NOT NULL DEFAULT 0, max_attempts INTEGER,
            not_before REAL NOT NULL DEFAULT 0, -- unix seconds
            state TEXT NOT NULL DEFAULT 'waiting', -- waiting, dead
            reason TEXT,                       -- why it is dead
            UNIQUE (network, key)
        ) STRICT;
        CREATE INDEX outbox_lane ON outbox (network, lane, seq) WHERE state = 'waiting';
        CREATE INDEX outbox_origin ON outbox (origin_network, origin_id) WHERE origin_id IS NOT NULL;
        """
    )


@migrations()
def remember_conversations(database: sqlite_utils.Database) -> None:
    database.executescript(
        """
        ALTER TABLE copy ADD COLUMN sort TEXT NOT NULL DEFAULT 'post'; -- post, reaction
        ALTER TABLE copy ADD COLUMN thread_id TEXT;           -- on the original's network; NULL: begins one
        ALTER TABLE copy ADD COLUMN room_id TEXT NOT NULL DEFAULT ''; -- of the original
        ALTER TABLE outbox ADD COLUMN needs TEXT NOT NULL DEFAULT '[]'; -- JSON: [[network, id], …]
        """
    )


class Ledger:
    """The open ledger. Not for use by several threads or processes at once."""

    def __init__(self, path: Path | str) -> None:
        """Open or create the file; `:memory:` for tests. Raises LedgerError."""
        # Autocommit: transactions are begun and ended by `_transaction` alone.
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA busy_timeout = 5000")
        database = sqlite_utils.Database(self._db)
        ours = {one.name for one in migrations.pending(sqlite_utils.Database(memory=True))}
        newer = {one.name for one in migrations.applied(database)} - ours
        if newer:
            raise LedgerError(f"{path} was written by a newer version: it has {', '.join(sorted(newer))}")
        migrations.apply(database)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def check_canary(self, canary: str) -> None:
        """Remember which seed the ghosts have, or raise LedgerError if it is another one."""
        with self._transaction() as db:
            db.execute("INSERT INTO setting VALUES ('canary', ?) ON CONFLICT DO NOTHING", (canary,))
            ((known,),) = db.execute("SELECT value FROM setting WHERE name = 'canary'")
        if known != canary:
            raise LedgerError(
                "the seed is not the one this ledger was made with: every ghost would be somebody else. "
                "Put the right bridge.seed back, or begin with an empty data folder"
            )

    # The inbox.

    def receive(
        self,
        network: str,
        arrivals: Sequence[Arrival],
        now: float,
        cursors: Mapping[str, int],
        bookmarks: Mapping[str, str],
    ) -> int:
        """Store arrivals that are new, and move cursors and bookmarks; return how many were new."""
        with self._transaction() as db:
            before = db.total_changes
            db.executemany(
                "INSERT INTO inbox (network, id, raw, received_at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING",
                [(network, arrival.id, arrival.raw, now) for arrival in arrivals],
            )
            new = db.total_changes - before
            db.executemany(
                "INSERT INTO cursor VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
                [(network, scope, value) for scope, value in cursors.items()],
            )
            db.executemany(
                "INSERT OR REPLACE INTO bookmark VALUES (?, ?, ?)",
                [(network, scope, value) for scope, value in bookmarks.items()],
            )
        return new

    def cursor(self, network: str, scope: str) -> int | None:
        """Return how far a scope was read; None if it never was."""
        found = self._one("SELECT value FROM cursor WHERE network = ? AND scope = ?", network, scope)
        return found[0] if found else None

    def bookmark(self, network: str, scope: str) -> str | None:
        """Return a bookmark; None if it was never set."""
        found = self._one("SELECT value FROM bookmark WHERE network = ? AND scope = ?", network, scope)
        return found[0] if found else None

    def received(self, network: str, limit: int) -> list[Received]:
        """Return the oldest arrivals that wait."""
        rows = self._db.execute(
            "SELECT seq, id, raw FROM inbox WHERE network = ? AND state = 'new' ORDER BY seq LIMIT ?",
            (network, limit),
        )
        return [Received(*row) for row in rows]

    def settle(
        self, arrival: Received, changes: Sequence[Change], ready: Sequence[Ready], ghosts: Mapping[Ref, Ref]
    ) -> None:
        """Make a plan durable: what changes, what is to be sent, and that its arrival is done.

        `ghosts` names the ghost of every person that becomes Known.
        """
        with self._transaction() as db:
            for change in changes:
                _apply(db, change, ghosts)
            for one in ready:
                _enqueue(db, one)
            db.execute("UPDATE inbox SET state = 'done', raw = NULL WHERE seq = ?", (arrival.seq,))

    def set_aside(self, arrival: Received, reason: str) -> None:
        """Keep an arrival that cannot be dealt with, and its reason, out of the way."""
        with self._transaction() as db:
            db.execute("UPDATE inbox SET state = 'aside', reason = ? WHERE seq = ?", (reason, arrival.seq))

    def prune(self, now: float) -> None:
        """Forget the ids of arrivals that were done long ago."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM inbox WHERE state = 'done' AND received_at < ?", (now - KEPT_DAYS * 86_400,)
            )

    # The outbox.

    def heads(self) -> list[tuple[str, str, float]]:
        """Return network, lane and not_before of the first entry of every lane, oldest lane first.

        A lane is left out while its first entry needs a copy that is still to be made.
        """
        return self._db.execute(
            "SELECT network, lane, not_before FROM outbox WHERE seq IN "
            f"(SELECT min(seq) FROM outbox WHERE state = 'waiting' GROUP BY network, lane) AND NOT {_LACKS} "
            "ORDER BY seq"
        ).fetchall()

    def head(self, network: str, lane: str) -> Waiting | None:
        """Return the first entry of a lane; None when it is empty, or has to wait for another lane."""
        row = self._one(
            "SELECT seq, network, lane, key, payload, attempts, max_attempts, not_before, "
            "(SELECT native_id FROM copy WHERE copy.origin_network = outbox.origin_network "
            "AND copy.origin_id = outbox.origin_id AND copy.network = outbox.network "
            "AND copy.target = outbox.target), target, needs "
            "FROM outbox WHERE seq = "
            "(SELECT min(seq) FROM outbox WHERE network = ? AND lane = ? AND state = 'waiting') "
            f"AND NOT {_LACKS}",
            network,
            lane,
        )
        if row is None:
            return None
        *columns, target, needs = row
        return Waiting(*columns, self._known(network, target, needs))  # type: ignore[call-arg]  # ten columns

    def _known(self, network: str, target: str | None, needs: str) -> dict[Ref, str]:
        rows = self._db.execute(
            "SELECT origin_network, origin_id, native_id FROM copy, json_each(?) AS need "
            "WHERE origin_network = need.value ->> 0 AND origin_id = need.value ->> 1 "
            "AND network = ? AND target = ? AND native_id IS NOT NULL",
            (needs, network, target),
        )
        return {Ref(origin_network, origin_id): native_id for origin_network, origin_id, native_id in rows}

    def delivered(self, entry: Waiting, native_id: str | None) -> None:
        """Strike an entry off, and note the id that its copy got."""
        with self._transaction() as db:
            if native_id is not None:
                db.execute(
                    "UPDATE copy SET native_id = ?1 FROM outbox WHERE outbox.seq = ?2 AND outbox.makes "
                    "AND copy.origin_network = outbox.origin_network "
                    "AND copy.origin_id = outbox.origin_id "
                    "AND copy.network = outbox.network AND copy.target = outbox.target",
                    (native_id, entry.seq),
                )
            db.execute("DELETE FROM outbox WHERE seq = ?", (entry.seq,))

    def postpone(self, entry: Waiting, not_before: float) -> None:
        """Count a failed attempt, and let the lane wait until a unix time."""
        with self._transaction() as db:
            db.execute(
                "UPDATE outbox SET attempts = attempts + 1, not_before = ? WHERE seq = ?",
                (not_before, entry.seq),
            )

    def bury(self, entry: Waiting, reason: str) -> None:
        """Keep an entry that will never succeed, and its reason; the lane goes on."""
        with self._transaction() as db:
            db.execute("UPDATE outbox SET state = 'dead', reason = ? WHERE seq = ?", (reason, entry.seq))

    # What is known.

    def link(self, room: Ref) -> Link | None:
        """Return the link of a room."""
        row = self._one(
            f"SELECT {_LINK} FROM link WHERE room_network = ? AND room_id = ?", room.network, room.id
        )
        return _link(row) if row else None

    def followers(self, person: Ref) -> tuple[Link, ...]:
        """Return the links that follow somebody."""
        rows = self._db.execute(
            f"SELECT {_LINK} FROM link WHERE follows_network = ? AND follows_id = ? ORDER BY room_id",
            (person.network, person.id),
        )
        return tuple(map(_link, rows))

    def links(self) -> list[Link]:
        """Return all links."""
        return [_link(row) for row in self._db.execute(f"SELECT {_LINK} FROM link ORDER BY room_id")]

    def identity(self, person: Ref) -> Identity | None:
        """Return what is remembered of somebody who is or was mirrored."""
        row = self._one(
            "SELECT name, picture, profile_at, generation, shown FROM identity WHERE network = ? AND id = ?",
            person.network,
            person.id,
        )
        if row is None:
            return None
        name, picture, profile_at, generation, shown = row
        return Identity(person, Profile(name, picture), profile_at, generation, bool(shown))

    def identity_of_ghost(self, ghost: Ref) -> Identity | None:
        """Return who is behind a ghost of ours; None if it is none."""
        row = self._one(
            "SELECT network, id FROM identity WHERE ghost_network = ? AND ghost_id = ?",
            ghost.network,
            ghost.id,
        )
        return self.identity(Ref(*row)) if row else None

    def is_ghost(self, person: Ref) -> bool:
        """Say whether an account is a ghost of ours."""
        found = self._one(
            "SELECT 1 FROM identity WHERE ghost_network = ? AND ghost_id = ?", person.network, person.id
        )
        return found is not None

    def is_copy(self, post: Ref) -> bool:
        """Say whether a post is a copy that we made."""
        found = self._one("SELECT 1 FROM copy WHERE network = ? AND native_id = ?", post.network, post.id)
        return found is not None

    def has_opted_out(self, person: Ref) -> bool:
        """Say whether somebody does not want to be mirrored."""
        found = self._one("SELECT 1 FROM opted_out WHERE network = ? AND id = ?", person.network, person.id)
        return found is not None

    def is_withdrawn(self, post: Ref, author: Ref) -> bool:
        """Say whether a post's author took it back, perhaps before it arrived."""
        found = self._one(
            "SELECT 1 FROM tombstone WHERE network = ? AND id = ? AND by_network = ? AND by_id = ?",
            post.network,
            post.id,
            author.network,
            author.id,
        )
        return found is not None

    def copies(self, origin: Ref) -> tuple[Copy, ...]:
        """Return the copies of a post that were not taken back."""
        rows = self._db.execute(
            f"SELECT {_COPY} FROM copy WHERE origin_network = ? AND origin_id = ? AND NOT withdrawn",
            (origin.network, origin.id),
        )
        return tuple(map(_copy, rows))

    def place(self, post: Ref, network: str, target: str) -> Place | None:
        """Return a post as `network` knows it in room `target`; None if it is not there."""
        return self._place(post, network, target, with_thread=True)

    def _place(self, post: Ref, network: str, target: str, *, with_thread: bool) -> Place | None:
        row = self._one(
            "SELECT origin_id, author_network, author_id, thread_id FROM copy "
            "WHERE network = ? AND native_id = ? AND origin_network = ? AND room_id = ? AND NOT withdrawn",
            post.network,
            post.id,
            network,
            target,
        )
        if row is not None:
            id_, author_network, author_id, thread_id = row
            thread = Place(network, thread_id, None, Ref(network, thread_id)) if thread_id else None
            return Place(network, id_, Ref(author_network, author_id), Ref(network, id_), thread)
        row = self._one(
            "SELECT native_id, ghost_network, ghost_id, thread_id FROM copy LEFT JOIN identity "
            "ON identity.network = author_network AND identity.id = author_id "
            "WHERE origin_network = ? AND origin_id = ? AND copy.network = ? AND target = ? "
            "AND NOT withdrawn",
            post.network,
            post.id,
            network,
            target,
        )
        if row is None:
            return None
        native_id, ghost_network, ghost_id, thread_id = row
        thread = None
        if thread_id and with_thread:
            thread = self._place(Ref(post.network, thread_id), network, target, with_thread=False)
        author = Ref(ghost_network, ghost_id) if ghost_id else None
        return Place(network, native_id, author, post, thread)

    def thread(self, post: Ref) -> Ref | None:
        """Return what began a post's conversation, on the post's own network; None if that is not known."""
        row = self._one(
            "SELECT thread_id FROM copy WHERE origin_network = ? AND origin_id = ? AND thread_id IS NOT NULL",
            post.network,
            post.id,
        )
        if row is not None:
            return Ref(post.network, row[0])
        row = self._one(
            "SELECT origin_network, thread_id, target FROM copy "
            "WHERE network = ? AND native_id = ? AND thread_id IS NOT NULL",
            post.network,
            post.id,
        )
        if row is None:
            return None
        there, thread_id, target = row
        place = self._place(Ref(there, thread_id), post.network, target, with_thread=False)
        return Ref(post.network, place.id) if place and place.id else None

    def copies_by(self, author: Ref) -> tuple[Copy, ...]:
        """Return the copies of everything that somebody wrote, unless taken back."""
        rows = self._db.execute(
            f"SELECT {_COPY} FROM copy WHERE author_network = ? AND author_id = ? AND NOT withdrawn",
            (author.network, author.id),
        )
        return tuple(map(_copy, rows))

    def _one(self, sql: str, *values: object) -> Row | None:
        found: Row | None = self._db.execute(sql, values).fetchone()
        return found


_LINK = "room_network, room_id, follows_network, follows_id, since_ms, by_network, by_id"
_COPY = (
    "origin_network, origin_id, author_network, author_id, network, target, native_id, "
    "sort, thread_id, room_id"
)
# Whether an entry names a copy by its id that is still to be made; of what was given up nothing is expected.
_LACKS = (
    "EXISTS (SELECT 1 FROM json_each(outbox.needs) AS need JOIN outbox AS maker "
    "ON maker.network = outbox.network AND maker.origin_network = need.value ->> 0 "
    "AND maker.origin_id = need.value ->> 1 AND maker.target = outbox.target "
    "AND maker.makes AND maker.state = 'waiting')"
)


def _link(row: Row) -> Link:
    room_network, room_id, follows_network, follows_id, since_ms, by_network, by_id = row
    return Link(
        Ref(room_network, room_id), Ref(follows_network, follows_id), since_ms, Ref(by_network, by_id)
    )


def _copy(row: Row) -> Copy:
    (
        origin_network,
        origin_id,
        author_network,
        author_id,
        network,
        target,
        native_id,
        sort,
        thread_id,
        room,
    ) = row
    origin, author = Ref(origin_network, origin_id), Ref(author_network, author_id)
    thread = Ref(origin_network, thread_id) if thread_id else None
    return Copy(origin, author, network, target, native_id, Sort(sort), thread, room)


def _apply(db: sqlite3.Connection, change: Change, ghosts: Mapping[Ref, Ref]) -> None:
    match change:
        case LinkMade(link):
            room, follows, by = link.room, link.follows, link.by
            db.execute(
                "INSERT INTO link VALUES (?, ?, ?, ?, ?, ?, ?)",
                (room.network, room.id, follows.network, follows.id, link.since_ms, by.network, by.id),
            )
            # The account is read from the link's beginning on, however late this is planned.
            db.execute(
                "INSERT INTO cursor VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET value = min(value, excluded.value)",
                (follows.network, follows.id, link.since_ms // 1000),
            )
        case LinkEnded(room):
            db.execute("DELETE FROM link WHERE room_network = ? AND room_id = ?", (room.network, room.id))
            # What is linked again is read from the new link's beginning on.
            db.execute(
                "DELETE FROM cursor WHERE network = 'nostr' AND scope NOT IN (SELECT follows_id FROM link)"
            )
            db.execute("DELETE FROM bookmark WHERE network = ? AND scope = ?", (room.network, room.id))
        case OptedOut(person, network, lane, at_ms):
            db.execute(
                "INSERT INTO opted_out VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (person.network, person.id, at_ms),
            )
            db.execute(
                "DELETE FROM outbox WHERE network = ? AND lane = ? AND state = 'waiting'", (network, lane)
            )
            db.execute(
                "UPDATE copy SET withdrawn = 1 WHERE author_network = ? AND author_id = ?",
                (person.network, person.id),
            )
        case OptedIn(person):
            db.execute("DELETE FROM opted_out WHERE network = ? AND id = ?", (person.network, person.id))
        case Known(identity):
            person, profile, ghost = identity.person, identity.profile, ghosts[identity.person]
            db.execute(
                "INSERT INTO identity VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "name = excluded.name, picture = excluded.picture, profile_at = excluded.profile_at, "
                "generation = excluded.generation, shown = excluded.shown",
                (
                    person.network,
                    person.id,
                    ghost.network,
                    ghost.id,
                    profile.name,
                    profile.picture,
                    identity.profile_at,
                    identity.generation,
                    identity.shown,
                ),
            )
        case Withdrawn(target, by):
            db.execute(
                "INSERT INTO tombstone VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (target.network, target.id, by.network, by.id),
            )
        case Confirmed(origin, room, native_id):
            where = (origin.network, origin.id, room.network, room.id)
            db.execute(
                "UPDATE copy SET native_id = ? WHERE native_id IS NULL AND origin_network = ? "
                "AND origin_id = ? AND network = ? AND target = ?",
                (native_id, *where),
            )
            db.execute(
                "DELETE FROM outbox WHERE makes AND state = 'waiting' AND origin_network = ? "
                "AND origin_id = ? AND network = ? AND target = ?",
                where,
            )


def _enqueue(db: sqlite3.Connection, ready: Ready) -> None:
    delivery, rendered = ready.delivery, ready.rendered
    copy = delivery.copy
    takes_back = isinstance(delivery.act, Withdraw)
    if copy is not None and takes_back:
        db.execute(
            "UPDATE copy SET withdrawn = 1 WHERE origin_network = ? AND origin_id = ? AND network = ? "
            "AND target = ?",
            (copy.origin.network, copy.origin.id, copy.network, copy.target),
        )
    elif copy is not None:
        db.execute(
            f"INSERT INTO copy ({_COPY}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (
                copy.origin.network,
                copy.origin.id,
                copy.author.network,
                copy.author.id,
                copy.network,
                copy.target,
                rendered.native_id,
                copy.sort,
                copy.thread.id if copy.thread else None,
                copy.room,
            ),
        )
    db.execute(
        "INSERT INTO outbox (network, lane, key, payload, makes, origin_network, origin_id, target, "
        "max_attempts, needs) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            delivery.network,
            delivery.lane,
            delivery.key,
            rendered.payload,
            copy is not None and not takes_back,
            copy.origin.network if copy else None,
            copy.origin.id if copy else None,
            copy.target if copy else None,
            delivery.max_attempts,
            json.dumps([[origin.network, origin.id] for origin in delivery.needs]),
        ),
    )
