"""The database file: whose it is, and how connections to it are opened."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from relay.store.api import StoreError, StoreTooNew

APPLICATION_ID = 0x546F7276
"""`Torv`: tells a relay's database from any other SQLite file."""

MIGRATIONS = ("0001_events_and_postings", "0002_tables_and_owners", "0003_removals")
"""What makes a database of this version, in order; migrations.py has them."""

_APPLIED = "SELECT name FROM _sqlite_migrations WHERE migration_set = 'torv.store'"
_BUSY_SECONDS = 5.0
_MAPPED_BYTES = 64 * 2**30
"""Address space, not memory; SQLite caps it at what it was built for (2 GiB on Debian)."""

DAMAGE = (sqlite3.Error, UnicodeDecodeError)
"""What reading a damaged database raises; the second where a message names what is damaged."""


@contextmanager
def failures_as_store_errors(doing: str) -> Iterator[None]:
    """Turn the database's failures into StoreError."""
    try:
        yield
    except (*DAMAGE, OSError) as error:
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
            applied = check_is_ours(connection, path)
            if not applied:
                # Only an empty file can be told: with it, unused pages can be given back while others read.
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            if (mode := connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
                raise StoreError(f"{path}: the file system cannot hold a write-ahead log (mode {mode})")
            # FULL: the log reaches the disk before a commit returns, and with it before the OK.
            connection.execute("PRAGMA synchronous = FULL")
            # Checkpoints run beside the commits, from a connection of their own.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            if applied != set(MIGRATIONS):
                # Imported only here: it takes a tenth of a second, and longer where NumPy is installed.
                from relay.store.sqlite.migrations import migrate
                from relay.store.sqlite.upgrading import copy_before

                if applied:
                    copy_before(connection, path, applied)
                migrate(connection)
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
            missing = set(MIGRATIONS) - check_is_ours(connection, path)
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


def check_is_ours(connection: sqlite3.Connection, path: Path) -> set[str]:
    """Return the applied migrations; none for an empty file. Raises StoreTooNew, StoreError."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables:
        return set()
    applied = set()
    if "_sqlite_migrations" in tables:
        applied = {name for (name,) in connection.execute(_APPLIED)}
    if unknown := applied - set(MIGRATIONS):
        raise StoreTooNew(
            f"{path} was written by a newer Torv (it has {', '.join(sorted(unknown))}): "
            "start that version, or restore a backup made before the upgrade"
        )
    if not applied:
        raise StoreError(f"{path} is not a Torv database")
    return applied
