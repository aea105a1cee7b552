"""Follows the log and keeps the index: what came is filed, what is gone is taken out."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from relay.nostr import kinds
from relay.nostr.event import Event, EventId
from relay.search.index_file import MAX_TS, Filed, IndexFile, file_event
from relay.store.api import Seq, Stored

BATCH = 2_048
"""Events of the log that are indexed in one transaction."""
BATCH_CHARS = 8 * 2**20
"""About so much text ends a batch early."""
ENTRIES_AT_ONCE = 512
"""Entries that are looked after in one transaction."""
REMOVALS_AT_ONCE = 1_024
"""Events that went without a word in the log and are taken out in one transaction."""
DELETIONS_REACH = 2_048
"""A deletion by its author is looked for among so many of the author's newest entries; the patrol finds the
rest."""


VANISHING_PATROLS = 6
"""All that somebody wrote goes in many transactions: some of it may go after the log tells of it."""


class Log(Protocol):
    """Of the relay's store, what the indexer reads."""

    def head(self) -> Seq:
        """Return the seq of the newest commit."""

    def log(self, *, after: Seq, upto: Seq, now: int, live_only: bool) -> Iterator[list[Stored]]:
        """Yield the rows with after < seq ≤ upto in pages, in order of seq."""

    def known(self, ids: Sequence[EventId]) -> set[EventId]:
        """Return those of the ids whose events are stored."""

    def removals(self, *, after: int, limit: int) -> list[tuple[int, int]]:
        """Return (n, ts) of events that went without a word in the log, behind n, the oldest first."""


class Indexer:
    """Fills one index from one log."""

    def __init__(
        self,
        log: Log,
        index: IndexFile,
        *,
        searched: frozenset[int],
        now: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        """`searched` are the kinds that are indexed; `monotonic` is a clock in seconds."""
        self._log = log
        self._index = index
        self._searched = searched
        self._now = now
        self._monotonic = monotonic
        self._behind_since: float | None = None
        self._vanishing: dict[str, int] = {}
        """Authors who vanished lately, and how many patrols still look after them."""
        if index.cursor > log.head():
            # The database was put back to an older state: its log goes other ways from there.
            index.begin_anew()

    def step(self) -> bool:
        """Index what came next, a batch at most; say whether there may be more."""
        cursor, head = self._index.cursor, self._log.head()
        if cursor >= head:
            self._behind_since = None
            return self._take_out_removed()
        if self._behind_since is None:
            self._behind_since = self._monotonic()
        upto = min(head, Seq(cursor + BATCH))
        entries: list[Filed] = []
        chars = 0
        gone = _Gone()
        for rows in self._log.log(after=cursor, upto=upto, now=self._now(), live_only=False):
            for row in rows:
                event = row.event()
                gone.consider(event, self._searched)
                if event.kind in self._searched and (filed := file_event(row, event)) is not None:
                    entries.append(filed)
                    chars += len(filed.body)
            if chars >= BATCH_CHARS:
                upto = rows[-1].seq
                break
        self._index.put(entries, upto, self._monotonic() - self._behind_since)
        # After their own batch is in: an event may have come and gone between two pages of the log.
        for pubkey, kind in gone.superseded:
            self._look_after_author(pubkey, kind, ENTRIES_AT_ONCE)
        for pubkey in gone.deleted:
            self._look_after_author(pubkey, None, DELETIONS_REACH)
        for pubkey in gone.vanished:
            self._look_after_author(pubkey, None, None)
            self._vanishing[pubkey] = VANISHING_PATROLS
        return upto < head or self._take_out_removed()

    def _take_out_removed(self) -> bool:
        """Take out what expired, or the operator removed; say whether there may be more.

        Only what is indexed up to the log's end: what was removed has no entry that comes later.
        """
        removals = self._log.removals(after=self._index.removals, limit=REMOVALS_AT_ONCE)
        if removals:
            self._index.remove((ts for _, ts in removals), removals=removals[-1][0])
        return len(removals) == REMOVALS_AT_ONCE

    def patrol(self) -> None:
        """Look after a few entries, the next time after the next ones, round and round.

        Most of what is removed goes at once. This finds the rest, such as what went long ago while nobody
        followed. The file itself gets shorter, too, when much of it is unused.
        """
        self._index.shrink()
        for pubkey, left in list(self._vanishing.items()):
            self._look_after_author(pubkey, None, None)
            self._vanishing[pubkey] = left - 1
            if left == 1:
                del self._vanishing[pubkey]
        entries = self._index.after(self._index.patrolled, limit=ENTRIES_AT_ONCE // 2)
        self._look_after(entries)
        self._index.set_patrolled(entries[-1][0] if entries else 0)

    def _look_after_author(self, pubkey: str, kind: int | None, reach: int | None) -> None:
        below = MAX_TS
        while reach is None or reach > 0:
            entries = self._index.of_author(pubkey, kind, below=below, limit=ENTRIES_AT_ONCE)
            if not entries:
                return
            self._look_after(entries)
            below = entries[-1][0]
            reach = None if reach is None else reach - ENTRIES_AT_ONCE

    def _look_after(self, entries: Sequence[tuple[int, EventId]]) -> None:
        there = self._log.known([id_ for _, id_ in entries])
        if gone := [ts for ts, id_ in entries if id_ not in there]:
            self._index.remove(gone)


class _Gone:
    """Whose entries may be gone, as a batch of the log tells."""

    def __init__(self) -> None:
        self.superseded: set[tuple[str, int]] = set()
        self.deleted: set[str] = set()
        self.vanished: set[str] = set()

    def consider(self, event: Event, searched: frozenset[int]) -> None:
        """Take note of what an event does to others."""
        if event.kind == kinds.DELETION:
            self.deleted.add(event.pubkey)
        elif event.kind == kinds.VANISH:
            self.vanished.add(event.pubkey)
        elif event.kind in searched and kinds.is_replaceable(event.kind):
            self.superseded.add((event.pubkey, event.kind))
