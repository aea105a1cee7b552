"""One link of the router: live both ways, over outages, without loops, and with partners that lie."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import repeat

import pytest
from websockets.asyncio.server import ServerConnection

from relay.engine.limits import Rate
from relay.mirror.cursors import Cursor
from relay.mirror.exchange import Direction
from relay.mirror.house import House, Partner
from relay.mirror.link import Link, State, Stream
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.messages import ClientMessage, Closed, NegOpen, Publish, Req
from tests.events import ALICE, BOB, NOW, Clock, event, note, notes
from tests.mirror.houses import held, house_of, ids, keep
from tests.small_relay import SmallRelay, say

WAIT_SECONDS = 30


def link_of(
    house: House,
    url: str,
    direction: Direction = Direction.BOTH,
    *filters: Filter,
    cursor: Cursor | None = None,
    clock: Callable[[], float] | None = None,
    compare_seconds: int = 3_600,
    on_backfill: Callable[[Link], None] = lambda link: None,
) -> Link:
    stream = Stream("test", direction, filters or (Filter(),), Rate(60_000), compare_seconds, 900)
    link = Link(
        house,
        Partner(url),
        stream,
        cursor or Cursor(),
        clock=clock or Clock(),
        on_backfill=on_backfill,
        pauses=lambda: repeat(0.01),
        long_pauses=lambda: repeat(0.01),
    )
    house.store.listen(lambda bell: link.ring())
    return link


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not condition():  # noqa: ASYNC110  # nothing announces it
            await asyncio.sleep(0.005)


async def until_held(house: House, events: set[str]) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        while not events <= await held(house):  # noqa: ASYNC110  # nothing announces it
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(link: Link, state: State | None = State.LIVE) -> AsyncIterator[None]:
    """Run the link meanwhile, from when it is in this state."""
    task = asyncio.create_task(link.run())
    try:
        if state is not None:
            await until(lambda: link.health.state is state or task.done())
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


def published(relay: SmallRelay) -> list[str]:
    return [message.event.id for message in relay.heard if isinstance(message, Publish)]


async def test_what_was_there_and_what_comes_moves_both_ways() -> None:
    house = house_of()
    ours, theirs = notes(ALICE, 50, step=1), notes(BOB, 50, step=1)
    await keep(house, ours)

    async with SmallRelay(theirs) as relay, running(link := link_of(house, relay.url)):
        assert await held(house) == ids([*ours, *theirs]) == ids(relay.events)
        here, there = note(ALICE, "live here"), note(BOB, "live there")
        await keep(house, [here])
        await relay.add(there)

        await until_held(house, {there.id})
        await until(lambda: here.id in ids(relay.events))
        # Nothing went back to where it had come from, and nothing twice.
        assert sorted(published(relay)) == sorted(ids([*ours, here]))
        assert (link.health.totals.received, link.health.totals.sent) == (51, 51)
        assert link.health.totals.known_here == 0


@pytest.mark.parametrize("direction", [Direction.UP, Direction.DOWN])
async def test_one_way_is_one_way(direction: Direction) -> None:
    house = house_of()
    here, there = note(ALICE, "here"), note(BOB, "there")

    async with SmallRelay() as relay, running(link_of(house, relay.url, direction)):
        await keep(house, [here])
        await relay.add(there)
        if direction.is_up:
            await until(lambda: here.id in ids(relay.events))
            assert await held(house) == {here.id}
            assert not any(isinstance(message, Req) for message in relay.heard)
        else:
            await until_held(house, {there.id})
            assert published(relay) == []


async def test_only_what_the_filters_say_moves() -> None:
    house = house_of()
    wanted = Filter(kinds=frozenset({7})), Filter(authors=frozenset({BOB.public}))
    before = [note(ALICE), event(ALICE, 7), note(BOB)]
    await keep(house, before)

    async with SmallRelay() as relay, running(link_of(house, relay.url, Direction.BOTH, *wanted)):
        live = [note(ALICE, "live"), event(ALICE, 7, "live"), note(BOB, "live")]
        await keep(house, live)
        await until(lambda: live[2].id in ids(relay.events))

        assert ids(relay.events) == ids([*before[1:], *live[1:]])


async def test_what_is_not_for_everybody_never_leaves_live() -> None:
    house = house_of()
    to_bob = [["p", BOB.public]]
    secret = [
        event(ALICE, 1059, tags=to_bob),
        event(ALICE, 4, tags=to_bob),
        note(ALICE, tags=[["-"]]),
        note(ALICE, tags=[["h", "elsewhere"]]),
    ]

    async with SmallRelay() as relay, running(link := link_of(house, relay.url)):
        await keep(house, secret)
        await keep(house, [last := note(ALICE, "last")])
        await until(lambda: last.id in ids(relay.events))

        assert published(relay) == [last.id]
        assert link.health.totals.withheld.total == 4


async def test_what_takes_a_key_to_read_never_leaves_live() -> None:
    house = house_of(auth={"read": True})
    await keep(house, [note(ALICE, "before")])

    async with SmallRelay() as relay, running(link := link_of(house, relay.url)):
        await keep(house, [note(ALICE, "live")])
        await until(lambda: link.health.totals.withheld.total == 1)

        assert published(relay) == []
        said = "".join(m.frame.hex() for m in relay.heard if isinstance(m, NegOpen))
        assert note(ALICE, "before").id not in said


async def test_an_outage_loses_nothing_on_either_side(clock: Clock) -> None:
    house = house_of()
    cursor = Cursor()

    async with SmallRelay() as relay, running(link := link_of(house, relay.url, cursor=cursor, clock=clock)):
        await relay.stop()
        await until(lambda: link.health.interruptions > 0)
        here = notes(ALICE, 30, created_at=NOW, step=1)
        await keep(house, here)
        # Some of what came there was published long after its date, but not longer than the overlap.
        there = notes(BOB, 30, created_at=NOW - 800, step=1)
        relay.events += there
        relay.heard.clear()
        await relay.start()

        await until_held(house, ids(there))
        await until(lambda: ids(here) <= ids(relay.events))
        compared = [m.wanted.since for m in relay.heard if isinstance(m, NegOpen)]
        assert compared[0] == NOW - 900


async def test_an_outage_of_the_router_loses_nothing(clock: Clock) -> None:
    house = house_of()
    cursor = Cursor()

    async with SmallRelay() as relay:
        async with running(link_of(house, relay.url, cursor=cursor, clock=clock)):
            pass
        # While nobody looks, something comes late on both sides, and something in time.
        late, later = note(ALICE, "late", created_at=NOW - 800), note(BOB, "later", created_at=NOW + 10)
        await keep(house, [late])
        relay.events += [later]
        relay.heard.clear()
        clock.advance(60)

        async with running(link_of(house, relay.url, cursor=cursor, clock=clock)):
            await until_held(house, {later.id})
            await until(lambda: late.id in ids(relay.events))


async def test_what_came_later_than_the_overlap_is_found_by_comparing_everything(clock: Clock) -> None:
    house = house_of()
    cursor = Cursor()

    async with SmallRelay() as relay:
        async with running(link_of(house, relay.url, cursor=cursor, clock=clock)):
            pass
        late = note(BOB, "years late", created_at=NOW - 10_000_000)
        relay.events.append(late)

        async with running(link_of(house, relay.url, cursor=cursor, clock=clock)):
            assert late.id not in await held(house)
        clock.advance(3_600)
        async with running(link_of(house, relay.url, cursor=cursor, clock=clock)):
            assert late.id in await held(house)


async def test_it_compares_everything_when_it_is_told_to() -> None:
    house = house_of()

    async with SmallRelay() as relay, running(link := link_of(house, relay.url)):
        late = note(BOB, "years late", created_at=NOW - 10_000_000)
        relay.events.append(late)
        link.compare_soon()

        await until_held(house, {late.id})


async def test_others_are_told_of_what_the_log_hides() -> None:
    house = house_of()
    told: list[Link] = []

    async with (
        SmallRelay([note(BOB)]) as relay,
        running(link := link_of(house, relay.url, on_backfill=told.append)),
    ):
        await until(lambda: bool(told))
        assert told == [link]


async def test_news_after_an_outage_reach_subscribers_and_history_does_not(clock: Clock) -> None:
    house = house_of()
    cursor = Cursor()
    history, news = note(BOB, "history", created_at=NOW - 5_000), note(BOB, "news", created_at=NOW + 5)

    async with SmallRelay([history]) as relay:
        async with running(link_of(house, relay.url, cursor=cursor, clock=clock)):
            pass
        relay.events.append(news)
        async with running(link_of(house, relay.url, cursor=cursor, clock=clock)):
            await until_held(house, {history.id, news.id})

    head = await house.store.head()
    rows = [row async for page in house.store.log(after=0, upto=head, now=NOW) for row in page]  # type: ignore[arg-type]
    assert [row.id for row in rows] == [news.id]


async def test_a_cursor_beyond_the_log_begins_anew() -> None:
    house = house_of()
    await keep(house, [ours := note(ALICE)])
    cursor = Cursor(sent=1_000_000, caught_up=NOW, compared=NOW)  # type: ignore[arg-type]

    async with SmallRelay() as relay, running(link_of(house, relay.url, cursor=cursor)):
        assert ids(relay.events) == {ours.id}


async def test_a_partner_that_does_not_reconcile_is_read_whole_once_and_then_by_the_day(clock: Clock) -> None:
    house = house_of()
    cursor = Cursor()
    old, new = note(BOB, "old", created_at=NOW - 1_000_000), note(BOB, "new", created_at=NOW - 80_000)

    async with SmallRelay([old], reconciles=False) as relay:
        async with running(link_of(house, relay.url, cursor=cursor, clock=clock)):
            assert await held(house) == {old.id}
        relay.events.append(new)
        relay.heard.clear()
        clock.advance(3_600)
        async with running(link := link_of(house, relay.url, cursor=cursor, clock=clock)):
            assert await held(house) == {old.id, new.id}
        pages = [m.filters[0] for m in relay.heard if isinstance(m, Req) and m.filters[0].limit != 1]
        assert {page.since for page in pages} == {NOW + 3_600 - 86_400}
        assert link.health.by_paging is not None


# Partners that do not do what they should


class Odd(SmallRelay):
    """Answers as `lie` says; where that says False, as it should."""

    def __init__(self, lie: Callable[[ServerConnection, ClientMessage], object], *events: Event) -> None:
        super().__init__(events)
        self._lie = lie

    async def answer(self, connection: ServerConnection, message: ClientMessage, refusal: str) -> None:
        lied = self._lie(connection, message)
        if asyncio.iscoroutine(lied):
            lied = await lied
        if lied is False:
            await super().answer(connection, message, refusal)


async def test_nothing_falls_between_the_comparison_and_what_comes_live() -> None:
    house = house_of()
    coming = iter(notes(BOB, 20, created_at=NOW - 50_000))

    async def publish(connection: ServerConnection, message: ClientMessage) -> bool:
        # Something new comes before every answer.
        if isinstance(message, NegOpen | Req) and (new := next(coming, None)) is not None:
            await relay.add(new)
        return False

    async with Odd(publish) as relay, running(link_of(house, relay.url)):
        await until_held(house, ids(relay.events))
        assert len(relay.events) >= 3


async def test_a_partner_that_refuses_is_asked_again_later_and_the_reason_is_known() -> None:
    refusing = True

    def lie(connection: ServerConnection, message: ClientMessage) -> object:
        if refusing and isinstance(message, Req):
            return say(connection, Closed(message.subscription, "restricted: not for you"))
        return False

    house = house_of()
    async with Odd(lie, there := note(BOB)) as relay, running(link := link_of(house, relay.url), None):
        await until(lambda: link.health.interruptions >= 3)
        assert link.health.error is not None and "restricted: not for you" in link.health.error
        assert not link.is_connected
        refusing = False
        await until_held(house, {there.id})
        await until(lambda: link.health.error is None)


async def test_nonsense_without_end_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.mirror.link._MOST_BROKEN", 50)
    monkeypatch.setattr("relay.mirror.link.LOOK_SECONDS", 0.01)

    async def lie(connection: ServerConnection, message: ClientMessage) -> bool:
        if isinstance(message, NegOpen):
            for _ in range(100):
                await connection.send("nonsense")
        return False

    async with Odd(lie) as relay, running(link := link_of(house_of(), relay.url), None):
        await until(lambda: link.health.interruptions > 0)

        assert link.health.error is not None and "against the protocol" in link.health.error
        assert link.health.totals.broken.total >= 50


async def test_a_flood_is_taken_at_the_rate_that_is_allowed() -> None:
    house = house_of()
    flood = notes(BOB, 400, step=1)
    stream = Stream("test", Direction.DOWN, (Filter(),), Rate(100, seconds=1), 3_600, 900)
    now = asyncio.get_running_loop().time
    link = Link(house, Partner("ws://127.0.0.1:1/"), stream, Cursor(), clock=now)

    async with SmallRelay() as relay:
        link.partner = Partner(relay.url)
        async with running(link):
            began = now()
            for one in flood:
                await relay.add(one)
            await until_held(house, ids(flood))

            # A hundred at once, and a hundred a second after that: some of which may still be due.
            assert now() - began >= 1.5
