"""The write-ahead log: how long it is, and copying it into the database.

SQLite's own checkpoints would run inside commits. Here most of the copying is done beside them,
from another connection, and the writer does only the remainder; with nothing left to copy, the
next commit starts the log's file from its beginning again.
"""

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from struct import unpack_from
from typing import NamedTuple

from relay.store.sqlite.schema import connect, failures_as_store_errors

_FRAME_BYTES = 4096 + 24
_DUE_FRAMES = 24 * 2**20 // _FRAME_BYTES
_LONG_FRAMES = 48 * 2**20 // _FRAME_BYTES
_REMAINDER_FRAMES = 3_000
_READERS_MILLISECONDS = 200
_USUAL_BYTES = 28 * 2**20
_PAGE = bytes(4096)


class _Length(NamedTuple):
    frames: int
    copied: int


class WriteAheadLog:
    """The log of one database, as its writer sees it."""

    def __init__(self, path: Path) -> None:
        """The database must be open, in WAL mode."""
        self._path = path
        self._index = os.open(f"{path}-shm", os.O_RDONLY | os.O_CLOEXEC)
        self._copying = threading.Lock()

    def lengthen(self) -> None:
        """Make the log's file as long as it grows anyway; call it before the first commit.

        A commit that lengthens the file waits for the file system's records too: measured for one event
        on ext4, 0.3 to 0.4 ms of fdatasync instead of 0.2. Frames that are all zeros count for nothing.
        """
        log = os.open(f"{self._path}-wal", os.O_WRONLY | os.O_CLOEXEC)
        try:
            # From the next whole page on: what is there already stays.
            length = (os.fstat(log).st_size + len(_PAGE) - 1) // len(_PAGE) * len(_PAGE)
            # Page by page: in one piece, the kernel would keep it in such large pieces that the small
            # writes of commits cost it twice as much.
            for start in range(length, _USUAL_BYTES, len(_PAGE)):
                os.pwrite(log, _PAGE, start)
        finally:
            os.close(log)

    def _length(self) -> _Length:
        # https://sqlite.org/walformat.html#walidxfmt: mxFrame is at byte 16 of the WAL index,
        # nBackfill at byte 96, both in the machine's byte order.
        header = os.pread(self._index, 100, 0)
        return _Length(*unpack_from("=I", header, 16), *unpack_from("=I", header, 96))

    def is_due(self) -> bool:
        """Whether the log has grown enough to be copied."""
        length = self._length()
        return length.frames - length.copied >= _DUE_FRAMES

    def copy(self) -> None:
        """Copy the log into the database, beside running commits; from any thread. Raises StoreError."""
        with (
            self._copying,
            failures_as_store_errors(f"cannot checkpoint {self._path}"),
            closing(connect(self._path, cache_mib=1)) as connection,
        ):
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def finish(self, writer: sqlite3.Connection) -> None:
        """Copy what little is left, between two commits, so that the next one begins the file anew.

        Only a log that was hardly copied for long, because readers held it or commits outran the
        copying, is waited for.
        """
        length = self._length()
        if length.frames >= _LONG_FRAMES:
            timeout = writer.execute("PRAGMA busy_timeout").fetchone()[0]
            # A copy under way would be busy for longer than readers are, and the log go on growing.
            with self._copying:
                writer.execute(f"PRAGMA busy_timeout = {_READERS_MILLISECONDS}")
                writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                writer.execute(f"PRAGMA busy_timeout = {timeout}")
        elif length.frames >= _DUE_FRAMES and 0 < length.frames - length.copied < _REMAINDER_FRAMES:
            writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        """Let go of the index file."""
        os.close(self._index)
