"""Few large SQL statements instead of many small ones.

The interpreter's lock is given up and taken back at every step of a statement: beside a busy
event loop, a thread that steps once per row starves.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain

# Few sizes, so that each statement is compiled once and then found in the connection's cache.
_ROWS_PER_STATEMENT = (512, 64, 8, 1)


def numbers(values: Iterable[int]) -> str:
    """Return integers as the JSON text that `json_each` takes apart: one parameter, however many."""
    return f"[{','.join(map(str, values))}]"


def insert_rows(connection: sqlite3.Connection, insert: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Run `insert` ("INSERT INTO table(columns)") for all rows, many at a time."""
    if not rows:
        return
    one = f"({','.join('?' * len(rows[0]))})"
    start = 0
    for size in _ROWS_PER_STATEMENT:
        statement = f"{insert} VALUES {','.join([one] * size)}"
        while len(rows) - start >= size:
            values = tuple(chain.from_iterable(rows[start : start + size]))
            connection.execute(statement, values)
            start += size
