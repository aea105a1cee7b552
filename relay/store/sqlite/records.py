"""The records of tables, in one table of the database; changes of followed ones are numbered.

A deleted record of a followed table stays as a NULL, so that who follows hears of the deletion.
"""

import sqlite3
from collections.abc import Callable, Sequence

from relay.store.api import Change, Table
from relay.store.records import Barred, Watched
from relay.store.sqlite.postings import Hashes

_UPSERT = "INSERT OR REPLACE INTO record(tab, key, value, version) VALUES (?, ?, ?, ?)"
_GET = "SELECT value FROM record WHERE tab = ? AND key = ?"
_WITHIN = (
    "SELECT key, value FROM record WHERE tab = ? AND key > ? AND key >= ? AND key < ? "
    "AND value IS NOT NULL ORDER BY key LIMIT ?"
)
_CHANGES = "SELECT key, value, version FROM record WHERE tab = ? AND version > ? ORDER BY version LIMIT ?"
_VERSION = "SELECT max(version) FROM record WHERE version IS NOT NULL"
# The last code point: keys hold ids, keys and names, never this.
_BEYOND = "\U0010ffff"

Ask = Callable[..., Sequence[tuple[object, ...]]]
"""(statement, *values) → all rows."""


class RecordReading:
    """Reading records over one connection."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def version(self) -> int:
        """Return the number of the last change to a followed table."""
        return self._ask(_VERSION)[0][0] or 0  # type: ignore[return-value]  # an INTEGER

    def record(self, table: str, key: str) -> bytes | None:
        """See `Store.record`."""
        found = self._ask(_GET, table, key)
        return found[0][0] if found else None  # type: ignore[return-value]  # a BLOB

    def records(
        self, table: str, prefix: str, *, after: str = "", limit: int = 1_000
    ) -> list[tuple[str, bytes]]:
        """See `Store.records`."""
        return list(self._ask(_WITHIN, table, after, prefix, prefix + _BEYOND, limit))  # type: ignore[arg-type]

    def changes(self, table: str, *, after: int, limit: int = 1_000) -> list[Change]:
        """See `Store.changes`."""
        return [Change(*row) for row in self._ask(_CHANGES, table, after, limit)]  # type: ignore[arg-type]


class WrittenRecords:
    """The records of one table, inside the writer's transaction.

    What is put waits in memory for `flush`, before the commit: a tally that every vote of a batch moves is
    then read and written once.
    """

    def __init__(
        self, connection: sqlite3.Connection, table: Table, number: Callable[[], int], hashes: Hashes
    ) -> None:
        """`number` gives the next version."""
        self._connection = connection
        self._table = table
        self._number = number
        self._changed: dict[str, bytes | None] = {}
        """What the transaction put (None: deleted) and is not in the database yet."""
        self.barred = None if table.bars is None else Barred(table.bars)
        """What these records keep out."""
        self.watched = Watched(hashes.tag) if table.holds_crowds else None
        """The crowds that these records hold, by the hashes of their tags."""
        self._kept_up = tuple(one for one in (self.barred, self.watched) if one is not None)
        self._reading = RecordReading(
            lambda question, *values: connection.execute(question, values).fetchall()
        )
        for one in self._kept_up:
            one.load(self)

    def get(self, key: str) -> bytes | None:
        """See `Records.get`."""
        if key in self._changed:
            return self._changed[key]
        return self._reading.record(self._table.name, key)

    def put(self, key: str, value: bytes) -> None:
        """See `Records.put`."""
        self._changed[key] = value
        for one in self._kept_up:
            one.note(key, is_there=True)

    def delete(self, key: str) -> None:
        """See `Records.delete`."""
        self._changed[key] = None
        for one in self._kept_up:
            one.note(key, is_there=False)

    def within(self, prefix: str, *, after: str = "", limit: int = 1_000) -> list[tuple[str, bytes]]:
        """See `Records.within`."""
        self.flush()
        return self._reading.records(self._table.name, prefix, after=after, limit=limit)

    def flush(self) -> None:
        """Write what was put to the database; within the transaction."""
        if not self._changed:
            return
        name = self._table.name
        puts: list[tuple[str, str, bytes | None, int | None]] = []
        deletions: list[tuple[str, str]] = []
        for key, value in self._changed.items():
            if not self._is_followed(key):
                if value is None:
                    deletions.append((name, key))
                else:
                    puts.append((name, key, value, None))
            # Of a record that was not there nobody hears that it is gone.
            elif value is not None or self._reading.record(name, key) is not None:
                puts.append((name, key, value, self._number()))
        self._changed.clear()
        if puts:
            self._connection.executemany(_UPSERT, puts)
        if deletions:
            self._connection.executemany("DELETE FROM record WHERE tab = ? AND key = ?", deletions)

    def discard(self) -> None:
        """Forget what was put: the transaction failed, and was rolled back."""
        self._changed.clear()
        for one in self._kept_up:
            one.load(self)

    def _is_followed(self, key: str) -> bool:
        return self._table.followed and key.startswith(self._table.followed_prefix)
