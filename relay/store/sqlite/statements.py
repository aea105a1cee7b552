"""Few large SQL statements instead of many small ones.

The interpreter's lock is given up and taken back at every step of a statement: beside a busy
event loop, a thread that steps once per row starves.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain

# Few sizes: each is compiled once and then found in the connection's cache. With one for whatever remained
# behind the large ones, there came to be hundreds, of 6 MB together.
_ROWS_PER_STATEMENT = (512, 64, 32, 16, 8, 4, 2, 1)


def numbers(values: Iterable[int]) -> str:
    """Return integers as the JSON text that `json_each` takes apart: one parameter, however many."""
    return f"[{','.join(map(str, values))}]"


def insert_rows(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Insert all rows into `into` ("table(columns)"), many at a time.

    A failure leaves some of them inserted: the caller's transaction must be rolled back.
    """
    if not rows:
        return
    one = f"({','.join('?' * len(rows[0]))})"
    # OR FAIL: without it every statement copies each page that it changes, to undo itself alone. A
    # fifth of the time of inserting postings.
    insert = f"INSERT OR FAIL INTO {into} VALUES "
    start = 0
    while start < len(rows):
        left = len(rows) - start
        size = next(size for size in _ROWS_PER_STATEMENT if size <= left)
        values = tuple(chain.from_iterable(rows[start : start + size]))
        connection.execute(insert + ",".join([one] * size), values)
        start += size
