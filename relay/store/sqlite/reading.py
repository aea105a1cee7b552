"""Reading asynchronously: the questions of `Store` answered by `SqliteReader`s in threads.

`SqliteStore` and the stores of worker processes share it. Veils are asked on the event loop.
"""

import asyncio
import operator
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import TypeVar

from relay.nostr.event import EventId, decode
from relay.nostr.filter import Filter
from relay.store.api import Seq, Stored, Veil
from relay.store.sqlite.counting import Found
from relay.store.sqlite.plan import Kinds
from relay.store.sqlite.reader import SqliteReader
from relay.store.sqlite.scanning import Page

_T = TypeVar("_T")


class _Desk:
    """One reader and the thread it works in."""

    def __init__(self, path: Path, number: int) -> None:
        self.reader = SqliteReader(path)
        self.open_questions = 0
        self._thread = ThreadPoolExecutor(1, f"read-{number}")

    async def __call__(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        self._thread.shutdown()
        self.reader.close()


class Reading:
    """`known`, `scan`, `count`, `head` and `log` of the `Store` contract, for one database."""

    def __init__(self, path: Path, threads: int = 2) -> None:
        """The database must exist (its writer makes it). Raises StoreTooNew, StoreError."""
        self._desks = [_Desk(path, number) for number in range(threads)]

    @property
    def key(self) -> bytes:
        """The database's hash key, for `Hashes`."""
        return self._desks[0].reader.key

    def _desk(self) -> "_Desk":
        """Return the desk with the fewest open questions; each question stays at its desk."""
        return min(self._desks, key=lambda desk: desk.open_questions)

    async def _ask(self, question: Callable[[SqliteReader], _T]) -> _T:
        desk = self._desk()
        desk.open_questions += 1
        try:
            return await desk(lambda: question(desk.reader))
        finally:
            desk.open_questions -= 1

    async def _slices(self, question: Callable[[SqliteReader], Iterator[_T]]) -> AsyncGenerator[_T, None]:
        """Yield a reader's slices, each one a turn in the reader's thread."""
        desk = self._desk()
        desk.open_questions += 1
        try:
            slices = question(desk.reader)
            while (found := await desk(lambda: next(slices, None))) is not None:
                yield found
        finally:
            desk.open_questions -= 1

    async def known(self, ids: Sequence[EventId]) -> set[EventId]:
        """See `Store.known`."""
        return await self._ask(lambda reader: reader.known(ids))

    async def head(self) -> Seq:
        """See `Store.head`."""
        return await self._ask(lambda reader: reader.head())

    async def log(self, *, after: Seq, upto: Seq, now: int) -> AsyncIterator[list[Stored]]:
        """See `Store.log`."""
        slices = self._slices(lambda reader: reader.log(after=after, upto=upto, now=now))
        async with aclosing(slices):
            async for rows in slices:
                yield rows

    async def dump(self, *, upto: Seq, now: int) -> AsyncIterator[list[bytes]]:
        """See `Store.dump`."""
        slices = self._slices(lambda reader: reader.dump(upto=upto, now=now))
        async with aclosing(slices):
            async for rows in slices:
                yield rows

    async def scan(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        """See `Store.scan`."""
        left = wanted.limit
        slices = self._slices(lambda reader: reader.scan(wanted, upto=upto, now=now))
        async with aclosing(slices):
            async for page in slices:
                rows = page.rows if veil is None else _visible(page, veil)
                if left is None:
                    yield rows
                    continue
                yield rows[:left]
                left -= len(rows)
                if left <= 0:
                    return

    async def count(self, wanted: Sequence[Filter], *, upto: Seq, now: int, veil: Veil | None = None) -> int:
        """See `Store.count`."""
        open_, covered = _split([one for one in wanted if not one.is_empty], veil)
        if len(open_) == 1:
            total = 0
            async for some in self._slices(lambda reader: reader.count(*open_[0], upto=upto, now=now)):
                total += some
        else:
            total = await self._count_union(open_, upto, now, None)
        return total + await self._count_union(covered, upto, now, veil)

    async def _count_union(
        self, parts: Sequence[tuple[Filter, Kinds | None]], upto: Seq, now: int, veil: Veil | None
    ) -> int:
        """Count what matches any of the parts, by merging their slices; holds a slice of each."""
        async with AsyncExitStack() as stack:
            streams = [
                await stack.enter_async_context(aclosing(self._matches(*part, upto, now, veil is not None)))
                for part in parts
            ]
            lows = [2**63] * len(streams)
            held: list[list[int]] = [[] for _ in streams]
            total = 0
            while any(low >= 0 for low in lows):
                # The one that lags behind, so that the others need not be held for long.
                lagging = lows.index(max(lows))
                found = await anext(streams[lagging], None)
                if found is None:
                    lows[lagging] = -1
                else:
                    lows[lagging] = found.low
                    held[lagging] += found.ts if veil is None else _visible_ts(found, veil)
                total += _take_distinct(held, max(lows))
            return total

    def _matches(
        self, wanted: Filter, kinds: Kinds | None, upto: Seq, now: int, with_rows: bool
    ) -> AsyncGenerator[Found, None]:
        return self._slices(
            lambda reader: reader.matches(wanted, kinds, upto=upto, now=now, with_rows=with_rows)
        )

    async def close(self) -> None:
        """Wait for the threads and close their connections."""
        for desk in self._desks:
            await asyncio.to_thread(desk.close)


def _take_distinct(held: list[list[int]], low: int) -> int:
    """Remove from the lists, each descending, what is at or above `low`; return how many different ones."""
    taken: set[int] = set()
    for ts in held:
        end = bisect_right(ts, -low, key=operator.neg)
        taken.update(ts[:end])
        del ts[:end]
    return len(taken)


def _visible(page: Page, veil: Veil) -> list[Stored]:
    return [
        row
        for row, kind in zip(page.rows, page.kinds, strict=True)
        if kind not in veil.kinds or veil.visible(decode(row.json))
    ]


def _visible_ts(found: Found, veil: Veil) -> list[int]:
    return [ts for ts, row in zip(found.ts, found.rows, strict=True) if veil.visible(decode(row.json))]


def _split(
    wanted: Sequence[Filter], veil: Veil | None
) -> tuple[list[tuple[Filter, Kinds | None]], list[tuple[Filter, Kinds | None]]]:
    """Part each filter by kind: what the index may answer, and what the veil has to be asked about."""
    open_: list[tuple[Filter, Kinds | None]] = []
    covered: list[tuple[Filter, Kinds | None]] = []
    hidden = frozenset[int]() if veil is None else veil.kinds
    for one in wanted:
        if one.kinds is None:
            open_.append((one, Kinds(hidden, excluded=True) if hidden else None))
            if hidden:
                covered.append((one, Kinds(hidden)))
            continue
        if one.kinds - hidden:
            open_.append((one, Kinds(one.kinds - hidden)))
        if one.kinds & hidden:
            covered.append((one, Kinds(one.kinds & hidden)))
    return open_, covered
