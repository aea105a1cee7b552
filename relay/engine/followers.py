"""Keeping what features hold in memory up with the records of followed tables."""

from collections.abc import Iterable, Sequence

from relay.engine.feature import Follower
from relay.store.api import Store

_CHANGES_AT_ONCE = 1_000


class Followers:
    """All followers of one process. `catch_up` costs a comparison of two numbers where nothing changed."""

    def __init__(self, store: Store, followers: Iterable[Follower]) -> None:
        self._store = store
        self._followers: Sequence[Follower] = tuple(followers)
        self._version = 0

    def catch_up(self) -> bool:
        """Tell the followers of every change so far; return whether there was one. Raises StoreError."""
        if not self._followers:
            return False
        version = self._store.version
        if version == self._version:
            return False
        for follower in self._followers:
            after = self._version
            while after < version:
                changes = self._store.changes(follower.table, after=after, limit=_CHANGES_AT_ONCE)
                follower.changed(changes)
                if len(changes) < _CHANGES_AT_ONCE:
                    break
                after = changes[-1].version
        self._version = version
        return True
