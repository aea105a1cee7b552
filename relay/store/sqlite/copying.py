"""A consistent copy of a database, made a few pages at a time while its writer goes on.

SQLite carries into a copy under way what the same connection commits meanwhile. So the copy is made over
the writer's own connection: between two steps nothing is held, neither a lock nor a place in the
write-ahead log, and at its end the copy is what the last commit left.
"""

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from relay.store.sqlite.schema import failures_as_store_errors

_PAGES_AT_ONCE = 64
"""A quarter of a MiB: a commit that comes at the same moment waits for a third of a millisecond."""
_REST = 1.0
"""Rest, as a multiple of work."""
_BUSY_SECONDS = 0.002


class CopyStopped(Exception):
    """Nobody wants the copy any more."""


def copy_database(
    connection: sqlite3.Connection,
    target: Path,
    on_progress: Callable[[int, int], None],
    *,
    rest: float = _REST,
) -> None:
    """Copy the connection's database into a new file, safe on the disk when it returns. Raises StoreError.

    The connection may be used by another thread meanwhile. `on_progress` is told after each step how many
    pages are done, and of how many; it stops the copy by raising CopyStopped. Unless it is whole, the
    file is removed.
    """
    stepped = time.perf_counter()

    def progress(status: int, left: int, pages: int) -> None:
        nonlocal stepped
        on_progress(pages - left, pages)
        if left and rest:
            time.sleep(rest * (time.perf_counter() - stepped))
            stepped = time.perf_counter()

    with failures_as_store_errors(f"cannot copy into {target}"):
        # For its owner's eyes only, from its first byte on.
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        try:
            with closing(sqlite3.connect(target, isolation_level=None)) as copy:
                # A copy that breaks off is removed, so there is nothing to roll back.
                copy.execute("PRAGMA journal_mode = OFF")
                copy.execute("PRAGMA synchronous = OFF")
                connection.backup(copy, pages=_PAGES_AT_ONCE, progress=progress, sleep=_BUSY_SECONDS)
            fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
