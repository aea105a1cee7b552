"""Giving unused pages of the file back to the file system, a few at a time, while others read and write.

Pages come free when events and postings go. SQLite fills them again before it lengthens the file; only
when they are many is the file's end moved into them, and cut off by the next whole checkpoint.
"""

import sqlite3

from relay.store.sqlite.tiers import Tuning

_SHARE = 10
"""Giving back begins when one page of so many is unused,"""
_KEPT_SHARE = 50
"""and goes on until one of so many is: those are soon filled again."""
_INCREMENTAL = 2


class Shrinking:
    """What is to be given back of one database, through its writer's connection."""

    def __init__(self, connection: sqlite3.Connection, tuning: Tuning) -> None:
        self._connection = connection
        self._tuning = tuning
        # An older database has no room for the map that this takes; `torv relay compact` makes it.
        self._is_able = self._number("auto_vacuum") == _INCREMENTAL
        self.is_under_way = False
        """Whether giving back has begun and not ended."""

    def _number(self, pragma: str) -> int:
        number: int = self._connection.execute(f"PRAGMA {pragma}").fetchone()[0]
        return number

    def is_due(self) -> bool:
        """Say whether enough is unused to begin, or to go on."""
        if not self._is_able:
            return False
        free, pages = self._number("freelist_count"), self._number("page_count")
        if self.is_under_way:
            self.is_under_way = free > max(self._tuning.free_pages // 8, pages // _KEPT_SHARE)
        else:
            self.is_under_way = free > max(self._tuning.free_pages, pages // _SHARE)
        return self.is_under_way

    def give_back(self) -> None:
        """Move pages from the end of the file into unused ones, and leave the end out; in a transaction."""
        # Python takes the first step of a statement without columns, and no further one.
        for _ in range(self._tuning.given_back):
            self._connection.execute("PRAGMA incremental_vacuum(1)")
