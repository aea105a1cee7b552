"""One partner of one stream: connected, caught up, and kept so; over outages, from durable cursors.

What comes there is received live, and what comes here is sent by following the log. Both can miss
something: what was published while nobody listened, or long after its date. So the sets are compared
after every outage, from a while before it, and as a whole from time to time.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from enum import StrEnum

import structlog

from relay.client import (
    EndOfStored,
    Misbehaved,
    Rejected,
    RelayClient,
    RelayFailure,
    backoff,
)
from relay.engine.limits import Rate
from relay.mirror.cursors import Cursor
from relay.mirror.exchange import Acquaintance, Direction, Exchange, together
from relay.mirror.house import House, Partner
from relay.mirror.report import Report
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.store.api import Seq, Stored, StoreError

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
"""Between two looks at the log, where no bell rings."""
LOOK_SECONDS = 2.0
"""Between two looks after the connection."""
DAY_SECONDS = 86_400
"""How far back a partner is read that does not reconcile."""
_WAITING_EVENTS = 256
"""Live events that wait to be taken; behind them the connection is not read."""
_TAKEN_AT_ONCE = 128
_MOST_BROKEN = 1_000
"""So many messages against the protocol, and the connection is given up."""
_STEADY_SECONDS = 60.0
"""A connection that lasted so long was a good one: the next pause is short again."""


class State(StrEnum):
    """What a link is doing."""

    CONNECTING = "connecting"
    COMPARING = "comparing"
    LIVE = "live"
    BACKING_OFF = "backing off"


@dataclass(frozen=True, slots=True)
class Stream:
    """What the operator wants of some partners."""

    name: str
    direction: Direction
    filters: tuple[Filter, ...]
    rate: Rate
    """Of live events that are taken."""
    compare_seconds: int
    overlap_seconds: int


@dataclass(slots=True)
class Health:
    """How a link is doing."""

    state: State = State.CONNECTING
    since: float = 0.0
    """Unix seconds."""
    error: str | None = None
    """Why the last connection ended, if it is not connected now."""
    interruptions: int = 0
    left_here: int = 0
    """What was still missing here after the last comparison."""
    left_there: int = 0
    by_paging: str | None = None
    totals: Report = field(default_factory=Report)


class Link:
    """Keeps this relay and one partner together."""

    def __init__(
        self,
        house: House,
        partner: Partner,
        stream: Stream,
        cursor: Cursor,
        *,
        on_change: Callable[[], None] = lambda: None,
        on_backfill: Callable[["Link"], None] = lambda link: None,
        clock: Callable[[], float] = time.time,
        pauses: Callable[[], Iterator[float]] = lambda: backoff(first=1.0, most=60.0),
        long_pauses: Callable[[], Iterator[float]] = lambda: backoff(first=30.0, most=900.0),
    ) -> None:
        """`on_change` is called when the cursor has moved, `on_backfill` when events came that the log hides.

        Pauses come between connections; the long ones after a partner that refuses or breaks the protocol.
        """
        self.stream = stream
        self.partner = partner
        self.cursor = cursor
        self.health = Health(since=clock())
        self._house = house
        self._on_change = on_change
        self._on_backfill = on_backfill
        self._clock = clock
        self._pauses = pauses
        self._long_pauses = long_pauses
        self._acquaintance = Acquaintance()
        self._is_whole_due = False
        self._due = asyncio.Event()
        self._rung = asyncio.Event()
        self._arrived: asyncio.Queue[Event] = asyncio.Queue(_WAITING_EVENTS)
        self._is_taking = False

    def ring(self) -> None:
        """Look at the log: something was committed."""
        self._rung.set()

    def compare_soon(self) -> None:
        """Compare everything when there is time: something came that the log does not tell of."""
        self._is_whole_due = True
        self._due.set()

    @property
    def is_connected(self) -> bool:
        return self.health.state in (State.COMPARING, State.LIVE)

    async def run(self) -> None:
        """Keep connected until cancelled."""
        pauses, long_pauses = self._pauses(), self._long_pauses()
        while True:
            self._become(State.CONNECTING)
            began = self._clock()
            is_hopeless = False
            try:
                async with self._house.call(self.partner) as client:
                    try:
                        await self._talk(client)
                    finally:
                        self.health.totals.note_broken(client.discards)
            except (RelayFailure, StoreError) as error:
                is_hopeless = isinstance(error, Misbehaved) or (
                    isinstance(error, Rejected) and not error.is_temporary
                )
                self._note_failure(str(error))
            if self._clock() - began >= _STEADY_SECONDS:
                pauses, long_pauses = self._pauses(), self._long_pauses()
            self._become(State.BACKING_OFF)
            await asyncio.sleep(next(long_pauses if is_hopeless else pauses))

    def _note_failure(self, error: str) -> None:
        health = self.health
        # One line per outage at a level that is seen.
        is_first = health.error is None
        health.error = error
        health.interruptions += 1
        tell = log.warning if is_first else log.debug
        tell("a stream was interrupted", stream=self.stream.name, partner=self.partner.url, error=error)

    def _become(self, state: State) -> None:
        if state is not self.health.state:
            self.health.state, self.health.since = state, self._clock()
            if state is State.LIVE:
                if self.health.error is not None:
                    log.info("a stream goes on", stream=self.stream.name, partner=self.partner.url)
                self.health.error = None

    async def _talk(self, client: RelayClient) -> None:
        listens = asyncio.Event()
        self._arrived = asyncio.Queue(_WAITING_EVENTS)
        self._is_taking = False
        exchange = self._exchange(client, self.health.totals, lambda event: True)
        head = await self._house.store.head()
        if self.cursor.sent is None or self.cursor.sent > head:
            # What is there already is for the comparison.
            self.cursor.sent = head
            self.cursor.compared = None
        async with together() as tasks:
            if self.stream.direction.is_down:
                tasks.create_task(self._listen(client, listens))
                tasks.create_task(self._take_live(exchange))
            else:
                listens.set()
            if self.stream.direction.is_up:
                tasks.create_task(self._send(exchange))
            tasks.create_task(self._compare(client, listens))
            tasks.create_task(self._look_after(client))

    def _exchange(self, client: RelayClient, report: Report, live: Callable[[Event], bool]) -> Exchange:
        return Exchange(
            client,
            self._house,
            self.partner,
            report,
            direction=self.stream.direction,
            live=live,
            acquaintance=self._acquaintance,
        )

    async def _look_after(self, client: RelayClient) -> None:
        """Move the time up to which nothing is missing, and end what is hopeless."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if client.discarded > _MOST_BROKEN:
                raise Misbehaved(client.url, f"{client.discarded:,} messages against the protocol")
            is_idle = not (client.held_bytes or self._is_taking or self._arrived.qsize())
            if self.health.state is State.LIVE and is_idle:
                self.cursor.caught_up = int(self._clock())
                self._on_change()

    # What comes from there

    async def _listen(self, client: RelayClient, listens: asyncio.Event) -> None:
        live = [replace(wanted, limit=1) for wanted in self.stream.filters]
        async with aclosing(client.subscribe(live)) as items:
            async for item in items:
                if isinstance(item, EndOfStored):
                    # What was stored before is for the comparison, which begins now: nothing falls between.
                    listens.set()
                elif listens.is_set():
                    await self._arrived.put(item)

    async def _take_live(self, exchange: Exchange) -> None:
        rate, tokens, refilled = self.stream.rate, float(self.stream.rate.most), self._clock()
        while True:
            batch = [await self._arrived.get()]
            self._is_taking = True
            while len(batch) < _TAKEN_AT_ONCE and not self._arrived.empty():
                batch.append(self._arrived.get_nowait())
            now = self._clock()
            tokens, refilled = rate.refill(tokens, now - refilled) - len(batch), now
            if tokens < 0:
                # It is not read meanwhile; who sends far too much loses the connection, and nothing else.
                await asyncio.sleep(-tokens * rate.seconds / rate.most)
            await self._take(exchange, batch)
            self._is_taking = False

    async def _take(self, exchange: Exchange, batch: Sequence[Event]) -> None:
        seen = self._acquaintance.seen
        fresh = [event for event in batch if event.id not in seen]
        known = await self._house.store.known([event.id for event in fresh])
        for id_ in known:
            seen.add(id_)
        await exchange.take([event for event in fresh if event.id not in known])

    # What goes there

    async def _send(self, exchange: Exchange) -> None:
        store = self._house.store
        while True:
            self._rung.clear()
            head, after = await store.head(), self.cursor.sent or Seq(0)
            if head > after:
                async for rows in store.log(after=after, upto=head, now=self._house.relay.now()):
                    if rows:
                        await exchange.send_all(await self._due_of(rows))
                        self.cursor.sent = rows[-1].seq
                        self._on_change()
                self.cursor.sent = head
                self._on_change()
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._rung.wait()
            except TimeoutError:
                pass

    async def _due_of(self, rows: Sequence[Stored]) -> list[Event]:
        due = []
        for event, reason in await self._house.door.judged(rows, self.stream.filters):
            # An event that came from there does not go back.
            if event.id in self._acquaintance.seen or event.id in self._acquaintance.refused_there:
                continue
            if reason is None:
                due.append(event)
            else:
                self.health.totals.withheld.add(reason)
        return due

    # What both may have missed

    async def _compare(self, client: RelayClient, listens: asyncio.Event) -> None:
        await listens.wait()
        while True:
            self._due.clear()
            is_whole = self._is_whole_due or self._is_time_for_all()
            self._is_whole_due = False
            self._become(State.COMPARING)
            began = int(self._clock())
            report = Report()
            try:
                await self._compare_once(client, report, None if is_whole else self._from_then_on())
            finally:
                self.health.totals.include(report)
            self.health.left_here, self.health.left_there = report.left_here, report.left_there
            self.health.by_paging = report.by_paging
            self.cursor.pages = report.by_paging is not None
            self.cursor.caught_up = began
            if is_whole:
                self.cursor.compared = began
            self._on_change()
            self._become(State.LIVE)
            if report.received_quietly:
                self._on_backfill(self)
            await self._until_due()

    async def _compare_once(self, client: RelayClient, report: Report, since: int | None) -> None:
        cursor = self.cursor
        caught_up, overlap = cursor.caught_up, self.stream.overlap_seconds

        def is_news(event: Event) -> bool:
            # Subscribers heard what came before the outage, and history is not news.
            return caught_up is not None and event.created_at >= caught_up - overlap

        exchange = self._exchange(client, report, is_news)
        if cursor.pages and cursor.compared is not None and since is None:
            since = int(self._clock()) - DAY_SECONDS
        for wanted in self.stream.filters:
            if since is not None:
                wanted = replace(wanted, since=max(since, wanted.since or 0))
            if not wanted.is_empty:
                await exchange.run(wanted)

    def _from_then_on(self) -> int:
        assert self.cursor.caught_up is not None
        return max(0, self.cursor.caught_up - self.stream.overlap_seconds)

    def _is_time_for_all(self) -> bool:
        cursor = self.cursor
        if cursor.compared is None or cursor.caught_up is None:
            return True
        return self._clock() - cursor.compared >= self.stream.compare_seconds

    async def _until_due(self) -> None:
        compared = self.cursor.compared or 0
        left = compared + self.stream.compare_seconds - self._clock()
        try:
            async with asyncio.timeout(max(0.0, left)):
                await self._due.wait()
        except TimeoutError:
            pass
