"""Who took leave and until when: nothing that they own and that is as old may be stored any more.

What is stored already goes in slices. A slice looks at postings: under the owner's own hash, and
under the `p` tag that names the owner of what others wrote.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import chain

from relay.store.sqlite.postings import MAX_TS, SEQ_BITS, SEQ_MASK, Hashes
from relay.store.sqlite.tiers import Tiers

_POSTINGS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class _State:
    until: dict[bytes, int] = field(default_factory=dict)
    """Owner → unix seconds."""
    unfinished: tuple[bytes, ...] = ()
    """Owners whose events may still be stored; the first is being worked on."""
    is_mentions: bool = False
    """Whether its own postings are done, and those that name it are looked at."""
    high: int = MAX_TS
    """The ts from which the next slice goes down."""


class Farewells:
    """Kept in the database; all of it in memory too, for every event that arrives is compared."""

    def __init__(self, connection: sqlite3.Connection, hashes: Hashes) -> None:
        self._connection = connection
        self._hashes = hashes
        rows = connection.execute("SELECT owner, until, unfinished FROM farewell ORDER BY owner").fetchall()
        self._state = _State(
            {owner: until for owner, until, _ in rows}, tuple(owner for owner, _, some in rows if some)
        )

    def __bool__(self) -> bool:
        return bool(self._state.until)

    def until(self, owner: bytes) -> int:
        """Return the last second of the owner's that is gone; -1 if there is none."""
        return self._state.until.get(owner, -1)

    @property
    def unfinished(self) -> bool:
        """Whether there is a slice to do."""
        return bool(self._state.unfinished)

    def save(self) -> _State:
        """Return the state, to be restored if the transaction fails."""
        return self._state

    def restore(self, state: _State) -> None:
        """Go back to a saved state, after a rollback."""
        self._state = state

    def add(self, farewells: Mapping[bytes, int]) -> None:
        """Note who takes leave; earlier times than are known change nothing."""
        later = {owner: until for owner, until in farewells.items() if until > self.until(owner)}
        if not later:
            return
        for owner, until in later.items():
            self._connection.execute(
                "INSERT OR REPLACE INTO farewell(owner, until, unfinished) VALUES (?, ?, 1)", (owner, until)
            )
        first, *others = dict.fromkeys(chain(self._state.unfinished, later))
        state = replace(self._state, until=self._state.until | later, unfinished=(first, *others))
        # One that is being worked on and leaves anew begins from the top again.
        self._state = replace(state, is_mentions=False, high=MAX_TS) if first in later else state

    def next_slice(self, tiers: Tiers) -> tuple[bytes, int, list[int]]:
        """Return an owner, its time and the seqs of events that it may own; moves on."""
        owner, *others = self._state.unfinished
        until, key = self._state.until[owner], owner.decode()
        h = self._hashes.tag("p", key) if self._state.is_mentions else self._hashes.author(key)
        high = min(self._state.high, until << SEQ_BITS | SEQ_MASK)
        found, low = tiers.newest(h, high, _POSTINGS_AT_ONCE)
        if low > 0:
            self._state = replace(self._state, high=low - 1)
        elif not self._state.is_mentions:
            self._state = replace(self._state, is_mentions=True, high=MAX_TS)
        else:
            self._connection.execute("UPDATE farewell SET unfinished = 0 WHERE owner = ?", (owner,))
            self._state = replace(self._state, unfinished=tuple(others), is_mentions=False, high=MAX_TS)
        return owner, until, [ts & SEQ_MASK for ts in found]
