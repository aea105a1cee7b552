"""Answers filters that search: the index proposes, the store and the reader's veil decide."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.search.finding import IndexReader, question_of
from relay.search.index_file import MAX_TS
from relay.search.words import Words, entry_of, parse_question, text_of
from relay.store.api import Seq, Store, Stored, Veil

MAX_POOLS = 5
"""How often more proposals are fetched where the store shows too few of them."""
MAX_WAITING = 64
"""Look-ups that may wait for their turn in one process."""

_AT_ONCE = 500
_REMEMBERED = 1_024

_T = TypeVar("_T")


class Searcher:
    """Questions to one index; all methods but the constructor are called on one event loop.

    The index is read on a thread of its own, one look-up at a time: SQLite lets go of the interpreter
    meanwhile, and a look-up through very common words takes too long for the loop.
    """

    def __init__(self, index: IndexReader, *, searched: frozenset[int]) -> None:
        """`searched` are the kinds that are indexed."""
        self._index = index
        self._searched = searched
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="search")
        self._waiting = 0
        self._parsed: Callable[[str], Words] = lru_cache(_REMEMBERED)(parse_question)

    @property
    def is_busy(self) -> bool:
        """Whether too many look-ups wait already."""
        return self._waiting >= MAX_WAITING

    def adopt(self, searched: frozenset[int]) -> None:
        """Take it that these kinds are indexed from now on."""
        self._searched = searched

    async def stored(
        self, store: Store, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        """Yield rows that match the filter and its words in pages, the best first, `wanted.limit` at most.

        Without words to look for, rows come newest first; so they do where ids are asked for, which
        need no index. Raises StoreError.
        """
        asked = self._parsed(wanted.search or "")
        plain = replace(wanted, search=None)
        if asked.is_blank:
            async for page in store.scan(plain, upto=upto, now=now, veil=veil):
                yield page
        elif wanted.ids is not None:
            left = wanted.limit
            async for page in store.scan(replace(plain, limit=None), upto=upto, now=now, veil=veil):
                rows = [row for row in page if self._holds(row.event(), asked)][:left]
                yield rows
                if left is not None and (left := left - len(rows)) <= 0:
                    return
        else:
            async for page in self._ranked(store, plain, asked, upto, now, veil):
                yield page

    def live(self, event: Event) -> Callable[[str], bool]:
        """Return what says whether a `search` finds this event."""
        if event.kind not in self._searched:
            return lambda search: self._parsed(search).is_blank
        entry = entry_of(text_of(event))
        return lambda search: (asked := self._parsed(search)).is_blank or asked.are_in(entry)

    async def progress(self) -> tuple[int, float]:
        """Return up to which seq is indexed, and how many seconds the last batch had waited."""
        return await self._apart(self._index.progress)

    def close(self) -> None:
        """Let go of the file, after the look-up that is under way."""
        self._thread.shutdown(cancel_futures=True)
        self._index.close()

    def _holds(self, event: Event, asked: Words) -> bool:
        return event.kind in self._searched and asked.are_in(entry_of(text_of(event)))

    async def _ranked(
        self, store: Store, plain: Filter, asked: Words, upto: Seq, now: int, veil: Veil | None
    ) -> AsyncIterator[list[Stored]]:
        question = question_of(plain, asked, self._searched)
        if question is None:
            return
        below, left = MAX_TS, plain.limit
        for _ in range(MAX_POOLS):
            bound = below
            pool = await self._apart(lambda: self._index.find(question, below=bound, now=now))  # noqa: B023
            start = 0
            while start < len(pool.hits):
                # Nearly all are there and may be seen.
                end = start + _AT_ONCE if left is None else start + min(_AT_ONCE, left + left // 8 + 4)
                ids = [hit.id.hex() for hit in pool.hits[start:end]]
                start = end
                confirmed = replace(plain, ids=frozenset(ids), limit=None)
                rows: dict[str, Stored] = {}
                async for page in store.scan(confirmed, upto=upto, now=now, veil=veil):
                    rows.update((row.id, row) for row in page)
                found = [row for id_ in ids if (row := rows.get(id_)) is not None][:left]
                yield found
                if left is not None and (left := left - len(found)) <= 0:
                    return
            if pool.below is None:
                return
            below = pool.below

    async def _apart(self, work: Callable[[], _T]) -> _T:
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        finally:
            self._waiting -= 1
