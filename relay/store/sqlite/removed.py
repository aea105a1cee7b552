"""Which postings of a hash are removed events', remembered for as long as the database stays the same."""

from struct import pack

from relay.store.sqlite.cursors import Asking

_MOST = 16_384
"""Removed events remembered of one hash, and a quarter of those of all."""


class Removed:
    """What `dead` says about single hashes.

    To look up each posting's event in `dead` costs 0.3 µs, six times as much as to count the posting. To
    look through all of `dead` for a hash takes 2-4 ms at a million events, and purges keep it small.
    """

    def __init__(self, ask: Asking) -> None:
        self._ask = ask
        self._version = -1
        self._known: dict[int, list[int] | None] = {}
        self._remembered = 0

    def under(self, h: int) -> list[int] | None:
        """Return the ts of removed events that have, or had, a posting of h, ascending; None if too many.

        To be called within a snapshot.
        """
        version = self._ask("PRAGMA data_version")[0][0]
        if version != self._version or self._remembered > 4 * _MOST:
            self._version, self._remembered = version, 0
            self._known.clear()
        if h not in self._known:
            found = self._ask(
                "SELECT created_at << 31 | seq FROM dead WHERE instr(postings, ?) LIMIT ?",
                pack("<q", h),
                _MOST + 1,
            )
            self._known[h] = sorted(ts for (ts,) in found) if len(found) <= _MOST else None
            self._remembered += 1 + len(found)
        return self._known[h]
