"""Making a database's file anew, without unused pages, and with the map by which it can shrink later."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from relay.store.api import StoreError
from relay.store.sqlite.schema import connect, failures_as_store_errors

_LEAVE_FREE_BYTES = 64 * 2**20


def compact(path: Path) -> tuple[int, int]:
    """Replace a database that nobody uses by a compact one; return its length before and after, in bytes.

    It is replaced at once, when the new file is safe on the disk; killed before, it is as it was.
    Raises StoreError.
    """
    fresh = path.with_name(path.name + ".compact")
    with failures_as_store_errors(f"cannot compact {path}"):
        fresh.unlink(missing_ok=True)  # of one that was killed
        with closing(connect(path, cache_mib=64)) as connection:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy:
                raise StoreError(f"{path} is in use")
            before = path.stat().st_size
            free = shutil.disk_usage(path.parent).free
            if free < before + _LEAVE_FREE_BYTES:
                raise StoreError(
                    f"too little room: a second file may take {before / 2**20:,.0f} MiB, "
                    f"and {free / 2**20:,.0f} are free"
                )
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            try:
                connection.execute("VACUUM INTO ?", (str(fresh),))
                _compare(connection, fresh)
            except BaseException:
                fresh.unlink(missing_ok=True)
                raise
        fresh.chmod(path.stat().st_mode & 0o777)
        _settle(fresh)
        # A log would be taken for the new file's: closing the last connection has removed it.
        if path.with_name(path.name + "-wal").exists():
            fresh.unlink()
            raise StoreError(f"{path} is in use: its log is still there")
        os.replace(fresh, path)
        _settle(path.parent)
    return before, path.stat().st_size


def _compare(old: sqlite3.Connection, fresh: Path) -> None:
    """See that every table has as many rows as before."""
    tables = [name for (name,) in old.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    with closing(sqlite3.connect(f"file:{fresh}?immutable=1", uri=True)) as new:
        for table in tables:
            count = f'SELECT count(*) FROM "{table}"'
            if old.execute(count).fetchone() != new.execute(count).fetchone():
                raise StoreError(f"the compact file lacks rows of {table}")


def _settle(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
