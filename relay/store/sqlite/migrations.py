"""The tables of the database, and how older databases get them."""

import os
import sqlite3

from sqlite_utils import Database, Migrations

from relay.store.sqlite.schema import APPLICATION_ID

_migrations = Migrations("torv.store")


@_migrations(name="0001_events_and_postings")
def _events_and_postings(database: Database) -> None:
    for statement in (
        # AUTOINCREMENT: without it SQLite reuses the newest rowid after a removal, and the log
        # would repeat a seq. The json comes last, so that the columns before it are read without it.
        """CREATE TABLE event(
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            created_at INTEGER NOT NULL,
            expires_at INTEGER,
            live INTEGER NOT NULL,
            address INTEGER,
            owners BLOB,
            postings BLOB NOT NULL,
            json BLOB NOT NULL
        ) STRICT""",
        "CREATE INDEX event_expiry ON event(expires_at) WHERE expires_at IS NOT NULL",
        # Postings: h = keyed hash of what is looked for; ts = created_at << 31 | seq, or -n for
        # the tombstone n, which is found by the same look-up as the event it keeps away.
        *(
            f"CREATE TABLE ix{tier}(h INTEGER, ts INTEGER, kind INTEGER NOT NULL, PRIMARY KEY(h, ts)) "
            "STRICT, WITHOUT ROWID"
            for tier in range(3)
        ),
        # Removed events whose postings are still in the tiers.
        """CREATE TABLE dead(
            seq INTEGER PRIMARY KEY, created_at INTEGER NOT NULL, postings BLOB NOT NULL
        ) STRICT""",
        """CREATE TABLE tombstone(
            n INTEGER PRIMARY KEY AUTOINCREMENT, target BLOB NOT NULL, by BLOB, until INTEGER NOT NULL
        ) STRICT""",
        "CREATE TABLE secret(hash_key BLOB NOT NULL) STRICT",
    ):
        database.execute(statement)
    database.execute("INSERT INTO secret VALUES (?)", [os.urandom(16)])
    database.execute(f"PRAGMA application_id = {APPLICATION_ID}")


@_migrations(name="0002_tables_and_owners")
def _tables_and_owners(database: Database) -> None:
    for statement in (
        # A value of NULL: deleted, kept for those who follow. A version: of a followed table only.
        """CREATE TABLE record(
            tab TEXT NOT NULL, key TEXT NOT NULL, value BLOB, version INTEGER, PRIMARY KEY(tab, key)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX record_version ON record(version, tab) WHERE version IS NOT NULL",
        # The few events that tables judged, and by which: names joined by spaces.
        "CREATE TABLE judged(seq INTEGER PRIMARY KEY, tables TEXT NOT NULL) STRICT",
        # Whose events up to a time were removed; unfinished while some may still be there.
        """CREATE TABLE farewell(
            owner BLOB PRIMARY KEY, until INTEGER NOT NULL, unfinished INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
    ):
        database.execute(statement)


@_migrations(name="0003_removals")
def _removals(database: Database) -> None:
    # The ts (created_at << 31 | seq) of events that went without a word in the log, the newest ones: for who
    # keeps something beside the database.
    database.execute("CREATE TABLE removal(n INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL) STRICT")


def migrate(connection: sqlite3.Connection) -> None:
    """Apply what is missing of `schema.MIGRATIONS`."""
    _migrations.apply(Database(connection, recursive_triggers=False, execute_plugins=False))
