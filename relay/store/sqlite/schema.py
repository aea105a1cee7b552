"""The database file: its tables, its migrations, and how connections to it are opened."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlite_utils import Database, Migrations

from relay.store.api import StoreError, StoreTooNew

APPLICATION_ID = 0x546F7276
"""`Torv`: tells a relay's database from any other SQLite file."""

_SET = "torv.store"
_BUSY_SECONDS = 5.0
_MAPPED_BYTES = 64 * 2**30
"""Address space, not memory; SQLite caps it at what it was built for (2 GiB on Debian)."""

migrations = Migrations(_SET)


@migrations(name="0001_events_and_postings")
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


@migrations(name="0002_tables_and_owners")
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


@contextmanager
def failures_as_store_errors(doing: str) -> Iterator[None]:
    """Turn the database's failures into StoreError."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{doing}: {error}") from error


def connect(path: Path, *, cache_mib: int) -> sqlite3.Connection:
    """Open a connection in autocommit mode; it may be used by one thread at a time."""
    connection = sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=512
    )
    connection.execute(f"PRAGMA cache_size = {-1024 * cache_mib}")
    # Debian's SQLite zeroes freed pages by writing them; FAST zeroes what is written anyway.
    connection.execute("PRAGMA secure_delete = FAST")
    return connection


def open_for_writing(path: Path, *, cache_mib: int) -> sqlite3.Connection:
    """Open or create the database, migrate it, and make commits durable. Raises StoreTooNew, StoreError."""
    with failures_as_store_errors(f"cannot open {path}"):
        connection = connect(path, cache_mib=cache_mib)
        try:
            _check_is_ours(connection, path)
            if (mode := connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
                raise StoreError(f"{path}: the file system cannot hold a write-ahead log (mode {mode})")
            # FULL: the log reaches the disk before a commit returns, and with it before the OK.
            connection.execute("PRAGMA synchronous = FULL")
            # Checkpoints run beside the commits, from a connection of their own.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            migrations.apply(Database(connection, recursive_triggers=False, execute_plugins=False))
        except BaseException:
            connection.close()
            raise
    return connection


def open_for_reading(path: Path, *, cache_mib: int) -> sqlite3.Connection:
    """Open an existing database that its writer has migrated. Raises StoreTooNew, StoreError."""
    with failures_as_store_errors(f"cannot open {path}"):
        if not path.exists():
            raise StoreError(f"{path} does not exist")
        connection = connect(path, cache_mib=cache_mib)
        try:
            missing = _known_migrations() - _check_is_ours(connection, path)
            if missing:
                raise StoreError(f"{path} lacks {', '.join(sorted(missing))}: its writer has not opened it")
            connection.execute("PRAGMA query_only = ON")
            # Pages are read where the kernel keeps them: a tenth less CPU, and one copy serves all workers.
            # (A disk that fails then kills the worker that reads; another takes its place.)
            connection.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
        except BaseException:
            connection.close()
            raise
    return connection


def hash_key(connection: sqlite3.Connection) -> bytes:
    """Return the secret key of the posting hashes, 16 bytes."""
    key: bytes = connection.execute("SELECT hash_key FROM secret").fetchone()[0]
    return key


def _known_migrations() -> set[str]:
    with closing(sqlite3.connect(":memory:")) as empty:
        return {migration.name for migration in migrations.pending(Database(empty, execute_plugins=False))}


def _check_is_ours(connection: sqlite3.Connection, path: Path) -> set[str]:
    """Return the applied migrations; none for an empty file. Raises StoreTooNew, StoreError."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return set()
    applied = set()
    if Migrations.migrations_table in tables:
        rows = connection.execute(
            f"SELECT name FROM {Migrations.migrations_table} WHERE migration_set = ?", [_SET]
        )
        applied = {name for (name,) in rows}
    if unknown := applied - _known_migrations():
        raise StoreTooNew(
            f"{path} was written by a newer Torv (it has {', '.join(sorted(unknown))}): "
            "start that version, or restore a backup made before the upgrade"
        )
    if not applied:
        raise StoreError(f"{path} is not a Torv database")
    return applied
