"""One exchange with a partner: find out what differs, fetch what is missing here, send what is missing there.

The sets are compared in windows of time, the newest first, so that none has to be held as a whole. Nothing
is believed: ids that are claimed are fetched, events are verified (by the client) and judged (by the
reception), and every wait, every set and every number of attempts is bounded.
"""

import asyncio
import random
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from relay.client import Misbehaved, Rejected, RelayClient, Unreachable, Unsupported, backoff
from relay.mirror.house import House, Partner
from relay.mirror.report import Report
from relay.nostr.event import Event, EventId
from relay.nostr.filter import Filter
from relay.nostr.negentropy import Item, Vector
from relay.nostr.reasons import Prefix, Refusal, prefix_of
from relay.store.api import Outcome

T = TypeVar("T")

WINDOW_EVENTS = 100_000
"""Events of a window, about: 15 MB while they are compared."""
_CLAIMS_AT_ONCE = 100_000
"""Ids that a partner may claim before they are fetched, or the window is made smaller."""
_SPLITS = 4_096
"""How often the windows of one exchange are cut in two for a partner's sake."""
_SECOND_EVENTS = 200_000
"""Events of one second, beyond which a partner that does not reconcile is not heard to the end."""
_FETCHED_AT_ONCE = 200
"""Ids in one REQ: relays take 500 and more."""
_FETCHES = 3
_SENDS = 64
_TAKEN_AT_ONCE = 200
"""Events of a batch that is stored."""
_SENT_AT_ONCE = 500
ANSWER_SECONDS = 60.0
"""For all of one answer, however it drips."""
_ATTEMPTS = 6
"""For an event that is put off: with the pauses between them about a minute."""
_LOOKED_AT = 20
"""Events of a window that the partner is asked for, to see whether it has what it says."""
_REMEMBERED = 20_000
_LOSSES = 3
"""Connections that are lost for an event, before it is left alone."""
_MOST_SUSPECTS = 1_000
_LOST = "the connection is lost whenever it is under way"


class Direction(StrEnum):
    """Which way events move."""

    UP = "up"
    """From here to the partner."""
    DOWN = "down"
    BOTH = "both"

    @property
    def is_up(self) -> bool:
        return self is not Direction.DOWN

    @property
    def is_down(self) -> bool:
        return self is not Direction.UP


class Remembered:
    """The latest ids of some kind, so many at most."""

    def __init__(self, most: int = _REMEMBERED) -> None:
        self._most = most
        self._ids: OrderedDict[str, None] = OrderedDict()

    def __contains__(self, id_: str) -> bool:
        return id_ in self._ids

    def add(self, id_: str) -> None:
        self._ids[id_] = None
        if len(self._ids) > self._most:
            self._ids.popitem(last=False)


class Suspects:
    """Events with which connections were lost: some relays hang up on what they cannot take."""

    def __init__(self) -> None:
        self._losses: OrderedDict[str, int] = OrderedDict()

    def __contains__(self, id_: str) -> bool:
        return id_ in self._losses

    def blame(self, ids: Iterable[str]) -> None:
        """Take note of what was under way when a connection was lost."""
        for id_ in ids:
            self._losses[id_] = self._losses.get(id_, 0) + 1
            if len(self._losses) > _MOST_SUSPECTS:
                self._losses.popitem(last=False)

    def clear(self, id_: str) -> None:
        """Take note that it was not this one."""
        self._losses.pop(id_, None)

    def is_guilty(self, id_: str) -> bool:
        """Say whether connections are lost whenever it is under way: suspects are, one at a time."""
        return self._losses.get(id_, 0) >= _LOSSES


@dataclass(slots=True)
class Acquaintance:
    """What is known of a partner from one connection to the next."""

    refused_here: Remembered = field(default_factory=Remembered)
    """Its events that this relay does not take: they are not fetched again and again."""
    refused_there: Remembered = field(default_factory=Remembered)
    """Events of ours that it does not take."""
    seen: Remembered = field(default_factory=Remembered)
    """Events that it has: it gave or took them."""
    suspects: Suspects = field(default_factory=Suspects)


class Exchange:
    """A conversation over one connection. What came of it is in `report`, also when it fails."""

    def __init__(
        self,
        client: RelayClient,
        house: House,
        partner: Partner,
        report: Report,
        *,
        direction: Direction,
        dry_run: bool = False,
        live: Callable[[Event], bool] = lambda event: False,
        acquaintance: Acquaintance | None = None,
        on_progress: Callable[[], None] = lambda: None,
        on_done: Callable[[int], None] = lambda since: None,
        chance: random.Random | None = None,
        window_events: int = WINDOW_EVENTS,
        pauses: Callable[[], Iterable[float]] = lambda: backoff(first=1.0, most=20.0),
    ) -> None:
        """`live` says which of the events that come in reach subscribers.

        `on_done` is called when everything from a time on is done.
        """
        self._client = client
        self._store = house.store
        self._door = house.door
        self._reception = house.reception(partner)
        self._report = report
        self._direction = direction
        self._dry_run = dry_run
        self._live = live
        self._acquaintance = acquaintance or Acquaintance()
        self._on_progress = on_progress
        self._on_done = on_done
        self._chance = chance or random.Random()
        self._window_events = window_events
        self._pauses = pauses
        self._splits = 0
        self._alone = asyncio.Lock()

    async def run(self, wanted: Filter) -> None:
        """Bring both sides as near to each other as their rules allow.

        Raises Unreachable, Rejected where the partner refuses to be asked, Misbehaved, StoreError.
        """
        until = wanted.until
        while True:
            window = replace(wanted, until=until, limit=None)
            items, cut = await self._door.items(window, most=self._window_events)
            await self._even_out(replace(window, since=wanted.since if cut is None else cut), items)
            if cut is None:
                return
            self._on_done(cut)
            until = cut - 1

    # Windows

    async def _even_out(self, window: Filter, items: list[Item]) -> None:
        if self._report.by_paging is None:
            try:
                return await self._reconcile(window, items)
            except Unsupported as error:
                self._report.by_paging = error.text
            except _Declined as error:
                middle = _middle(window, items) if _TOO_MUCH(error.text) else None
                if middle is not None and self._splits < _SPLITS:
                    return await self._halve(window, items, middle)
                # It reconciles with others, or other things: perhaps it can be read nevertheless.
                self._report.by_paging = error.text
            except _TooMuch as error:
                middle = _middle(window, items)
                if middle is None or self._splits >= _SPLITS:
                    raise Misbehaved(self._client.url, str(error)) from error
                return await self._halve(window, items, middle)
        await self._page(window)

    async def _halve(self, window: Filter, items: list[Item], middle: int) -> None:
        self._splits += 1
        newer = [item for item in items if item[0] >= middle]
        await self._even_out(replace(window, since=middle), newer)
        older = [item for item in items if item[0] < middle]
        await self._even_out(replace(window, until=middle - 1), older)

    async def _reconcile(self, window: Filter, items: list[Item]) -> None:
        while True:
            have, need, is_all = await self._compare(window, items)
            if not is_all and (self._dry_run or not self._direction.is_down):
                raise _TooMuch(f"it claims more than {_CLAIMS_AT_ONCE:,} events")
            moved = self._report.has_moved
            if self._direction.is_down:
                need = await self._fetch_missing(window, need)
            if not is_all:
                # The rest is told when these are here.
                if self._report.has_moved == moved:
                    raise _TooMuch(f"it claims {len(need):,} events and gives none that can be kept")
                items, _ = await self._door.items(window, most=2 * self._window_events)
                continue
            taken = await self._send_missing(window, items, have) if self._direction.is_up else []
            if self._direction.is_up and not self._dry_run:
                await self._look_closer(window, items, have)
            if self._report.has_moved > moved:
                await self._check_kept(window, taken)
            elif self._direction.is_down:
                self._report.left_here += len(need)
            return

    async def _compare(self, window: Filter, items: list[Item]) -> tuple[list[str], list[str], bool]:
        """Return the ids that the partner lacks, those that this side may lack, and whether that is all."""
        have: list[str] = []
        need: list[str] = []
        vector = await asyncio.to_thread(Vector.of, items)
        try:
            async with aclosing(self._client.reconcile(window, vector)) as told:
                async for each in told:
                    have += (id_.hex() for id_ in each.have)
                    need += (id_.hex() for id_ in each.need)
                    self._on_progress()
                    if len(need) >= _CLAIMS_AT_ONCE:
                        return have, need, False
        except Rejected as error:
            raise _Declined(error.text) from error
        return have, need, True

    async def _check_kept(self, window: Filter, taken: Iterable[str]) -> None:
        """Compare again: what is left, and whether the partner has what it said it took."""
        items, _ = await self._door.items(window, most=2 * self._window_events)
        have, need, _ = await self._compare(window, items)
        lost = len(set(taken).intersection(have))
        self._report.not_had += lost
        self._report.left_there += lost
        if self._direction.is_down:
            known = await self._store.known([EventId(id_) for id_ in need])
            self._report.left_here += len(need) - len(known)

    async def _look_closer(self, window: Filter, items: Sequence[Item], lacking: Iterable[str]) -> None:
        """Ask for some of the events that the partner says it has."""
        lacks = set(lacking)
        some = self._chance.sample(items, min(len(items), 2 * _LOOKED_AT))
        claimed = [id_ for _, raw in some if (id_ := raw.hex()) not in lacks]
        ours = await self._door.events(claimed, window)
        asked = [event.id for event in ours if self._door.withheld(event) is None][:_LOOKED_AT]
        if not asked:
            return
        found = await self._fetched(asked)
        # What was removed here meanwhile was removed there too, perhaps.
        there = {event.id for event in found}
        self._report.not_had += len(await self._store.known([id_ for id_ in asked if id_ not in there]))

    # What comes in

    async def _fetch_missing(self, window: Filter, claimed: Sequence[str]) -> list[str]:
        """Fetch what is not here; return the ids of what is not here afterwards either."""
        known = await self._store.known([EventId(id_) for id_ in claimed])
        missing = [id_ for id_ in claimed if id_ not in known]
        if self._dry_run:
            self._report.to_receive += len(missing)
            return missing
        refused = self._acquaintance.refused_here
        suspects = self._acquaintance.suspects
        asked = [id_ for id_ in missing if id_ not in refused and id_ not in suspects]
        batches = iter([asked[n : n + _FETCHED_AT_ONCE] for n in range(0, len(asked), _FETCHED_AT_ONCE)])

        async def fetch() -> None:
            for batch in batches:
                await self._fetch(window, batch)

        async with together() as tasks:
            for _ in range(_FETCHES):
                tasks.create_task(fetch())
        for id_ in missing:
            if suspects.is_guilty(id_):
                self._report.refused_here.add(_LOST)
                refused.add(id_)
                suspects.clear(id_)
            elif id_ in suspects:
                await self._fetch(window, [id_])
                suspects.clear(id_)
        known = await self._store.known([EventId(id_) for id_ in missing])
        return [id_ for id_ in missing if id_ not in known]

    async def _fetch(self, window: Filter, ids: Sequence[str]) -> None:
        left = set(ids)
        while left:
            was_connected = self._client.is_connected
            try:
                found = await self._fetched(left)
            except Unreachable:
                if was_connected:
                    self._acquaintance.suspects.blame(left)
                raise
            left.difference_update(event.id for event in found)
            wanted = [event for event in found if window.matches(event)]
            if len(wanted) < len(found):
                self._report.not_wanted += len(found) - len(wanted)
            await self.take(wanted)
            if not found:
                break
        self._report.not_given += len(left)

    async def _fetched(self, ids: Iterable[str]) -> list[Event]:
        wanted = [Filter(ids=frozenset(ids))]
        pauses = iter(self._pauses())
        attempts = _ATTEMPTS
        while True:
            try:
                return await self._patiently(self._client.fetch(wanted))
            except Rejected as error:
                attempts -= 1
                if not (error.is_temporary and attempts):
                    raise
            await asyncio.sleep(next(pauses))

    async def take(self, events: Sequence[Event]) -> None:
        """Take events of the partner, by this relay's rules."""
        for live in (False, True):
            batch = [event for event in events if self._live(event) is live]
            for event, fate in zip(batch, await self._reception.take(batch, live=live), strict=True):
                self._acquaintance.seen.add(event.id)
                match fate:
                    case Outcome.STORED:
                        self._report.received += 1
                        self._report.received_quietly += not live
                    case Outcome.DUPLICATE:
                        self._report.known_here += 1
                    case Outcome.SUPERSEDED:
                        self._report.known_here += 1
                        self._acquaintance.refused_here.add(event.id)
                    case Outcome.DELETED:
                        self._report.refused_here.add("deleted here")
                        self._acquaintance.refused_here.add(event.id)
                    case Refusal():
                        self._report.refused_here.add(str(fate))
                        if fate.prefix is not Prefix.ERROR:
                            self._acquaintance.refused_here.add(event.id)
        self._on_progress()

    # What goes out

    async def _send_missing(self, window: Filter, items: Sequence[Item], lacking: Iterable[str]) -> list[str]:
        """Send what may leave; return the ids of what the partner says it took."""
        lacks = set(lacking)
        # A deletion should come after what it deletes.
        ids = [id_ for _, raw in sorted(items) if (id_ := raw.hex()) in lacks]
        taken: list[str] = []
        for start in range(0, len(ids), _SENT_AT_ONCE):
            due = []
            for event in await self._door.events(ids[start : start + _SENT_AT_ONCE], window):
                reason = self._door.withheld(event)
                if reason is not None:
                    self._report.withheld.add(reason)
                elif event.id not in self._acquaintance.refused_there:
                    due.append(event)
            if self._dry_run:
                self._report.to_send += len(due)
            else:
                taken += await self.send_all(due)
        return taken

    async def send_all(self, events: Sequence[Event]) -> list[str]:
        """Send events that may leave, many at a time; return the ids of what the partner took from here."""
        coming = iter(events)
        taken: list[str] = []

        async def send() -> None:
            for event in coming:
                if await self.send(event):
                    taken.append(event.id)
                self._on_progress()

        async with together() as tasks:
            for _ in range(min(_SENDS, len(events))):
                tasks.create_task(send())
        return taken

    async def send(self, event: Event) -> bool:
        """Send one event that may leave; return whether the partner says that it has it from us now."""
        suspects = self._acquaintance.suspects
        if event.id not in suspects:
            return await self._publish(event)
        # Nothing else of what is suspected is under way meanwhile.
        async with self._alone:
            if suspects.is_guilty(event.id):
                self._refuse_there(event, _LOST)
                return False
            return await self._publish(event)

    async def _publish(self, event: Event) -> bool:
        pauses = iter(self._pauses())
        for _ in range(_ATTEMPTS):
            was_connected = self._client.is_connected
            try:
                ok = await self._client.publish(event)
            except Rejected as error:
                if error.prefix is Prefix.DUPLICATE:
                    self._report.known_there += 1
                    self._acquaintance.seen.add(event.id)
                    return False
                if error.is_temporary:
                    await asyncio.sleep(next(pauses))
                    continue
                self._refuse_there(event, error.text)
                return False
            except Unreachable:
                if was_connected:
                    self._acquaintance.suspects.blame([event.id])
                raise
            self._acquaintance.suspects.clear(event.id)
            self._acquaintance.seen.add(event.id)
            is_new = prefix_of(ok.reason) is not Prefix.DUPLICATE
            self._report.sent += is_new
            self._report.known_there += not is_new
            return is_new
        self._report.given_up += 1
        self._report.left_there += 1
        return False

    def _refuse_there(self, event: Event, reason: str) -> None:
        self._report.refused_there.add(reason)
        self._report.left_there += 1
        self._acquaintance.refused_there.add(event.id)

    # Where the partner does not reconcile

    async def _page(self, window: Filter) -> None:
        """Compare by fetching all that the partner has, newest first."""
        upper, oldest = window.until, None
        batch: list[Event] = []
        theirs: set[str] = set()
        """Of the time from `oldest` to `upper`."""
        async with aclosing(self._client.page_back(window)) as events:
            while (event := await self._patiently(anext(events, None))) is not None:
                is_older = oldest is not None and event.created_at < oldest
                if len(batch) >= _TAKEN_AT_ONCE:
                    await self._take_paged(batch)
                    batch = []
                if is_older and oldest is not None and len(theirs) >= _TAKEN_AT_ONCE:
                    await self._take_paged(batch)
                    await self._send_unseen(replace(window, since=oldest, until=upper), theirs)
                    self._on_done(oldest)
                    upper, batch, theirs = oldest - 1, [], set()
                oldest = event.created_at
                theirs.add(event.id)
                batch.append(event)
                if len(theirs) > _SECOND_EVENTS:
                    text = f"more than {_SECOND_EVENTS:,} events of one second"
                    raise Misbehaved(self._client.url, text)
        await self._take_paged(batch)
        await self._send_unseen(replace(window, until=upper), theirs)

    async def _take_paged(self, batch: Sequence[Event]) -> None:
        self._on_progress()
        if not self._direction.is_down or not batch:
            return
        known = await self._store.known([event.id for event in batch])
        missing = [event for event in batch if event.id not in known]
        if self._dry_run:
            self._report.to_receive += len(missing)
            return
        received = self._report.received
        await self.take([event for event in missing if event.id not in self._acquaintance.refused_here])
        self._report.left_here += len(missing) - (self._report.received - received)

    async def _send_unseen(self, window: Filter, theirs: set[str]) -> None:
        if not self._direction.is_up:
            return
        until = window.until
        while True:
            items, cut = await self._door.items(replace(window, until=until), most=self._window_events)
            await self._send_missing(window, items, {id_.hex() for _, id_ in items} - theirs)
            if cut is None:
                return
            until = cut - 1

    async def _patiently(self, answer: Awaitable[T]) -> T:
        """Wait for an answer that may come in many parts, but not for ever."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            raise Unreachable(self._client.url, f"no whole answer within {ANSWER_SECONDS:g} s") from None


class _Declined(Exception):
    """The partner does not compare this set."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class _TooMuch(Exception):
    """More than can be held at a time: the window has to be smaller."""


# NIP-77 leaves the words to relays; this is how they put it.
_TOO_MUCH = re.compile(r"too (?:big|many|large)|more than|RESULTS_TOO_BIG", re.IGNORECASE).search


@asynccontextmanager
async def together() -> AsyncGenerator[asyncio.TaskGroup, None]:
    """Run tasks of which the first failure is everybody's: it is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _middle(window: Filter, items: Sequence[Item]) -> int | None:
    """Return a time that cuts the window in two; None where it is one second."""
    low = max(0, window.since or 0)
    high = min(2**32 - 1 if window.until is None else window.until, 2**32 - 1)
    if low >= high:
        return None
    times = sorted(time for time, _ in items)
    guess = times[len(times) // 2] if times else (low + high + 1) // 2
    return guess if low < guess <= high else (low + high + 1) // 2
