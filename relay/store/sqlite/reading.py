"""Reading asynchronously: the questions of `Store` answered by a `SqliteReader`, slice by slice.

`SqliteStore` and the stores of worker processes share it. Veils are asked on the event loop.
"""

import operator
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

from relay.nostr.event import EventId, decode
from relay.nostr.filter import Filter
from relay.store.api import Change, Seq, Stored, Veil
from relay.store.sqlite.counting import Found
from relay.store.sqlite.listing import Item, Listed
from relay.store.sqlite.plan import Kinds
from relay.store.sqlite.postings import AUTHOR, SEQ_BITS
from relay.store.sqlite.reader import SqliteReader
from relay.store.turns import Account, Turns, client

_T = TypeVar("_T")


class Reading:
    """`known`, `scan`, `count`, `head` and `log` of the `Store` contract, for one database.

    Slices run on the event loop itself: handing each to a thread and its answer back cost as much
    CPU as the slices (docs/decisions/0002). A slice is bounded, and `Turns` says whose is next.
    """

    def __init__(self, path: Path) -> None:
        """The database must exist (its writer makes it). Raises StoreTooNew, StoreError."""
        self._reader = SqliteReader(path)
        self._own = Account(Turns())
        """Of questions that no client asks."""

    @property
    def key(self) -> bytes:
        """The database's hash key, for `Hashes`."""
        return self._reader.key

    async def _in_turns(self, slices: Iterator[_T]) -> AsyncGenerator[_T, None]:
        """Yield a question's slices, each in its turn."""
        account, step = client.get(self._own), partial(next, slices, None)
        while True:
            await account.turns.take(account)
            found = account.measure(step)
            if found is None:
                return
            yield found

    async def known(self, ids: Sequence[EventId]) -> set[EventId]:
        """See `Store.known`."""
        return self._reader.known(ids)

    async def head(self) -> Seq:
        """See `Store.head`."""
        return self._reader.head()

    async def log(self, *, after: Seq, upto: Seq, now: int) -> AsyncIterator[list[Stored]]:
        """See `Store.log`."""
        slices = self._in_turns(self._reader.log(after=after, upto=upto, now=now))
        async with aclosing(slices):
            async for rows in slices:
                yield rows

    async def dump(self, *, upto: Seq, now: int) -> AsyncIterator[list[bytes]]:
        """See `Store.dump`."""
        slices = self._in_turns(self._reader.dump(upto=upto, now=now))
        async with aclosing(slices):
            async for rows in slices:
                yield rows

    async def scan(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        """See `Store.scan`."""
        left = wanted.limit
        if veil is not None and not _may_cover(veil, wanted):
            veil = None
        slices = self._reader.scan(wanted, upto=upto, now=now)
        # Not one generator in another: what is asked most is answered in a tenth of a millisecond.
        account, step = client.get(self._own), partial(next, slices, None)
        while True:
            await account.turns.take(account)
            page = account.measure(step)
            if page is None:
                return
            rows = page if veil is None else _visible(page, veil)
            if left is None:
                yield rows
                continue
            yield rows[:left]
            left -= len(rows)
            if left <= 0:
                return

    def at_once(
        self, wanted: Filter, *, now: int, veil: Veil | None = None
    ) -> tuple[Seq, list[Stored]] | None:
        """See `Store.at_once`."""
        account, limit = client.get(self._own), wanted.limit
        if limit is None or not account.turns.may_begin(account):
            return None
        head = self._reader.head()
        found = account.measure(partial(self._reader.at_once, wanted, upto=head, now=now))
        if found is None:
            return None
        rows, is_all = found
        if veil is not None and _may_cover(veil, wanted):
            rows = _visible(rows, veil)
        if len(rows) < limit and not is_all:
            return None
        return head, rows[:limit]

    async def items(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Item]]:
        """See `Store.items`."""
        if wanted.limit is not None:
            async for page in self.scan(wanted, upto=upto, now=now, veil=veil):
                yield [(row.created_at, bytes.fromhex(row.id)) for row in page]
            return
        open_, covered = _split([] if wanted.is_empty else [wanted], veil)
        async with AsyncExitStack() as stack:
            streams: list[AsyncGenerator[Listed, None]] = []
            for part, kinds in open_:
                streams.append(self._in_turns(self._reader.items(part, kinds, upto=upto, now=now)))
            for part, kinds in covered:
                streams.append(self._visible_items(part, kinds, upto, now, veil))
            hidden, unseen = _tagged(open_, veil)
            struck = [self._visible_items(part, kinds, upto, now, unseen) for part, kinds in hidden]
            for stream in (*streams, *struck):
                await stack.enter_async_context(aclosing(stream))
            async for items in _merged(streams, struck):
                yield items

    async def _visible_items(
        self, wanted: Filter, kinds: Kinds | None, upto: Seq, now: int, veil: Veil | None
    ) -> AsyncGenerator[Listed, None]:
        """Yield what the veil has to be asked about, if it shows it."""
        async for found in self._matches(wanted, kinds, upto, now, True):
            shown = [row for row in found.rows if veil is None or veil.visible(decode(row.json))]
            items = [(row.created_at, bytes.fromhex(row.id)) for row in shown]
            yield Listed(found.low >> SEQ_BITS, items)

    async def count(self, wanted: Sequence[Filter], *, upto: Seq, now: int, veil: Veil | None = None) -> int:
        """See `Store.count`."""
        open_, covered = _split([one for one in wanted if not one.is_empty], veil)
        if len(open_) == 1:
            total = 0
            async for some in self._in_turns(self._reader.count(*open_[0], upto=upto, now=now)):
                total += some
        else:
            total = await self._count_union(open_, upto, now, None)
        hidden, unseen = _tagged(open_, veil)
        total -= await self._count_union(hidden, upto, now, unseen)
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
        found = self._reader.matches(wanted, kinds, upto=upto, now=now, with_rows=with_rows)
        return self._in_turns(found)

    @property
    def version(self) -> int:
        """See `Store.version`."""
        return self._reader.records.version()

    def changes(self, table: str, *, after: int, limit: int = 1_000) -> list[Change]:
        """See `Store.changes`."""
        return self._reader.records.changes(table, after=after, limit=limit)

    def record(self, table: str, key: str) -> bytes | None:
        """See `Store.record`."""
        return self._reader.records.record(table, key)

    def records(
        self, table: str, prefix: str, *, after: str = "", limit: int = 1_000
    ) -> list[tuple[str, bytes]]:
        """See `Store.records`."""
        return self._reader.records.records(table, prefix, after=after, limit=limit)

    async def close(self) -> None:
        """Close the connection."""
        self._reader.close()


async def _merged(
    streams: Sequence[AsyncGenerator[Listed, None]], struck: Sequence[AsyncGenerator[Listed, None]]
) -> AsyncGenerator[list[Item], None]:
    """Merge streams, the newest second first, without what is in those `struck`; holds a slice of each."""
    every = (*streams, *struck)
    lows = [2**63] * len(every)
    held: list[Item] = []
    gone: set[Item] = set()
    while any(low >= 0 for low in lows):
        # The one that lags behind, so that the others need not be held for long.
        lagging = lows.index(max(lows))
        listed = await anext(every[lagging], None)
        if listed is None:
            lows[lagging] = -1
        else:
            lows[lagging] = listed.low
            if lagging < len(streams):
                held += listed.items
            else:
                gone.update(listed.items)
        # Of this second more may be struck.
        low = max(lows) + (1 if struck else 0)
        certain = [item for item in held if item[0] >= low]
        held = [item for item in held if item[0] < low]
        if gone:
            certain = [item for item in certain if item not in gone]
            gone = {item for item in gone if item[0] < low}
        yield certain


def _take_distinct(held: list[list[int]], low: int) -> int:
    """Remove from the lists, each descending, what is at or above `low`; return how many different ones."""
    taken: set[int] = set()
    for ts in held:
        end = bisect_right(ts, -low, key=operator.neg)
        taken.update(ts[:end])
        del ts[:end]
    return len(taken)


def _may_cover(veil: Veil, wanted: Filter) -> bool:
    """Say whether the veil may have to be asked about what a filter finds."""
    return bool(veil.tags) or wanted.kinds is None or not wanted.kinds.isdisjoint(veil.kinds)


def _visible(rows: list[Stored], veil: Veil) -> list[Stored]:
    # Canonical JSON: what begins a tag of that letter. To find that there is none takes 0.5 µs, a fifth of
    # what it takes to parse the event.
    marks = [b'["%b","' % letter.encode() for letter, values in veil.tags.items() if values]
    is_veiled = _of_kinds(veil.kinds)
    shown: list[Stored] = []
    for row in rows:
        json = row[2]
        if is_veiled(json, AUTHOR.stop) or (marks and any(json.find(m, AUTHOR.stop) >= 0 for m in marks)):
            event = decode(row.json)
            if veil.covers(event) and not veil.visible(event):
                continue
        shown.append(row)
    return shown


@lru_cache(maxsize=16)
def _of_kinds(kinds: frozenset[int]) -> Callable[[bytes, int], object]:
    """Return what says whether canonical JSON is of one of these kinds, looked at from the author's end on.

    0.3 µs a row, half of what it takes to read the kind.
    """
    chosen = "|".join(map(str, sorted(kinds))) or "none"
    return re.compile(f'","created_at":\\d+,"kind":(?:{chosen}),'.encode()).match


def _tagged(
    parts: Sequence[tuple[Filter, Kinds | None]], veil: Veil | None
) -> tuple[list[tuple[Filter, Kinds | None]], Veil | None]:
    """Return what the veil covers by its tags within these parts, and the veil that shows what it hides.

    The index answers for the parts as if all were visible; what is hidden is then taken away again. So
    few hidden events cost little, whatever their kinds are.
    """
    if veil is None or not veil.tags:
        return [], None
    found: list[tuple[Filter, Kinds | None]] = []
    for one, kinds in parts:
        for letter, values in veil.tags.items():
            # An event may have several tags of one letter, and no filter asks for two of its values at once.
            named = one.tags.get(letter, values)
            found.append((replace(one, tags={**one.tags, letter: named}), kinds))
    covers, visible = veil.covers, veil.visible
    return found, Veil(frozenset(), lambda event: covers(event) and not visible(event))


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
