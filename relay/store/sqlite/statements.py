"""Few large SQL statements instead of many small ones.

The interpreter's lock is given up and taken back at every step of a statement: beside a busy
event loop, a thread that steps once per row starves.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain

from relay.store.sqlite.plan import Kinds

Value = int | str | bytes | None
"""What a parameter can be."""

_FEW_KINDS = 64

# Few sizes: each is compiled once and then found in the connection's cache. With one for whatever remained
# behind the large ones, there came to be hundreds, of 6 MB together.
_ROWS_PER_STATEMENT = (512, 64, 32, 16, 8, 4, 2, 1)


def numbers(values: Iterable[int]) -> str:
    """Return integers as the JSON text that `json_each` takes apart: one parameter, however many."""
    return f"[{','.join(map(str, values))}]"


def kind_condition(kinds: Kinds | None, parameter: str) -> str:
    """Return the condition on `kind` as SQL; the parameter is `kind_value`."""
    if kinds is None:
        return ""
    if _are_many(kinds):
        return f"AND substr({parameter}, kind + 1, 1) {'<>' if kinds.excluded else '='} x'01'"
    return f"AND kind {'NOT ' * kinds.excluded}IN (SELECT value FROM json_each({parameter}))"


def kind_value(kinds: Kinds | None) -> Value:
    """Return the parameter of `kind_condition`: the list of the kinds; of many a byte for each there is."""
    if kinds is None:
        return None
    return _mask(kinds.of) if _are_many(kinds) else numbers(kinds.of)


def _are_many(kinds: Kinds) -> bool:
    """Say whether kinds are looked up in a mask.

    A list becomes a table anew for each part of each statement: 3,900 kinds took 4 ms of a slice's 4.5.
    """
    return len(kinds.of) > _FEW_KINDS


@lru_cache(maxsize=8)
def _mask(kinds: frozenset[int]) -> bytes:
    mask = bytearray(max(kinds) + 1)
    for kind in kinds:
        mask[kind] = 1
    return bytes(mask)


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
