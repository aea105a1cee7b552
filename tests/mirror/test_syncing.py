"""A whole sync: over lost connections, and from where it was broken off."""

import asyncio
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

from websockets.asyncio.server import ServerConnection

from relay.mirror.exchange import Direction
from relay.mirror.house import House, Partner
from relay.mirror.report import Report
from relay.mirror.syncing import Marks, Sync
from relay.nostr.filter import Filter
from relay.nostr.messages import ClientMessage, Publish, Req
from tests.events import ALICE, BOB, NOW, Clock, note, notes
from tests.mirror.houses import held, house_of, ids, keep
from tests.small_relay import SmallRelay


def at_once() -> Iterator[float]:
    return repeat(0.0)


def sync_of(
    house: House, url: str, file: Path, direction: Direction = Direction.BOTH, now: int = NOW
) -> Sync:
    marks = Marks(file, now=lambda: now)
    return Sync(house, Partner(url), direction, marks, pauses=at_once)


class Fragile(SmallRelay):
    """Hangs up before the answer to every tenth EVENT, and where `breaks` says so."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.count = 0
        self.requests = 0
        self.breaks_at: int | None = None
        """The number of the REQ that it does not answer."""

    async def answer(self, connection: ServerConnection, message: ClientMessage, refusal: str) -> None:
        self.count += isinstance(message, Publish)
        self.requests += isinstance(message, Req)
        if (isinstance(message, Publish) and self.count % 10 == 0) or (
            isinstance(message, Req) and self.requests == self.breaks_at
        ):
            connection.transport.abort()
            return
        await super().answer(connection, message, refusal)


async def test_it_goes_on_after_lost_connections(tmp_path: Path) -> None:
    house = house_of()
    await keep(house, notes(ALICE, 35, step=1))
    report = Report()

    async with Fragile(notes(BOB, 5)) as relay:
        await sync_of(house, relay.url, tmp_path / "marks").run([Filter()], report)

        assert report.failure is None
        assert ids(relay.events) == await held(house)
        assert (len(relay.events), report.received) == (40, 5)


class Poisoned(SmallRelay):
    """Hangs up whenever the poison is sent to it or asked of it."""

    poison = ""

    async def answer(self, connection: ServerConnection, message: ClientMessage, refusal: str) -> None:
        match message:
            case Publish(event, _) if event.id == self.poison:
                connection.transport.abort()
            case Req(_, (wanted, *_)) if wanted.ids is not None and self.poison in wanted.ids:
                connection.transport.abort()
            case _:
                await super().answer(connection, message, refusal)


async def test_one_event_that_ends_every_connection_holds_up_no_other(tmp_path: Path) -> None:
    house = house_of()
    ours, theirs = notes(ALICE, 100, step=1), notes(BOB, 100, step=1)
    await keep(house, ours)

    async with Poisoned(theirs) as relay:
        for poison, direction in ((ours[50].id, Direction.UP), (theirs[50].id, Direction.DOWN)):
            relay.poison = poison
            report = Report()
            await sync_of(house, relay.url, tmp_path / "marks", direction).run([Filter()], report)

            assert report.failure is None
            refused = report.refused_there if direction.is_up else report.refused_here
            assert refused == {"the connection is lost whenever it is under way": 1}
        assert ids(relay.events) == ids([*ours[:50], *ours[51:], *theirs])
        assert await held(house) == ids([*ours, *theirs[:50], *theirs[51:]])


async def test_it_gives_up_where_nothing_moves(tmp_path: Path) -> None:
    async with SmallRelay() as relay:
        url = relay.url
    report = Report()

    await sync_of(house_of(), url, tmp_path / "marks").run([Filter(), Filter()], report)

    assert report.failure is not None and url in report.failure
    assert not report.is_fine


async def test_a_refusal_ends_it_and_is_told(tmp_path: Path) -> None:
    report = Report()

    async with SmallRelay(challenge="who?") as relay:
        relay.refusal = "auth-required: members only"
        await sync_of(house_of(), relay.url, tmp_path / "marks").run([Filter()], report)

    assert report.failure is not None and report.failure.endswith("auth-required: members only")


async def test_paging_goes_on_where_it_was_broken_off(tmp_path: Path) -> None:
    events = notes(ALICE, 2_000, step=1, created_at=NOW - 100_000)
    file = tmp_path / "marks"
    house = house_of()

    async with Fragile(events, reconciles=False) as relay:
        # The third page is not answered, and then nobody is at home.
        relay.breaks_at = 3
        report = Report()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(
                sync_of(house, relay.url, file, Direction.DOWN).run([Filter()], report)
            )
            await relay.until_heard(Req, 3)
            await relay.stop()
            await running
        assert report.failure is not None
        before = len(await held(house))
        assert 0 < before < 2_000
        assert file.exists()

        await relay.start()
        relay.heard.clear()
        late = note(BOB, "late", created_at=NOW - 60)
        relay.events.append(late)
        report = Report()
        await sync_of(house, relay.url, file, Direction.DOWN).run([Filter()], report)

        assert report.failure is None
        assert await held(house) == ids(relay.events)
        # What was done was not asked for again, but for what may have come since.
        asked = [m.filters[0] for m in relay.heard if isinstance(m, Req)]
        assert asked[0].since == NOW - 3_600
        older = [one.until for one in asked if one.since is None]
        assert older and all(until is not None and until < events[-1].created_at for until in older)
        assert not file.exists()


def test_marks_survive_and_grow_old(tmp_path: Path, clock: Clock) -> None:
    marks = Marks(tmp_path / "marks", now=clock)
    marks.set("a", 100, clock.now)

    assert Marks(tmp_path / "marks", now=clock).get("a") == (100, NOW)
    assert marks.get("b") is None
    clock.advance(8 * 86_400)
    assert Marks(tmp_path / "marks", now=clock).get("a") is None


def test_damaged_marks_are_no_marks(tmp_path: Path, clock: Clock) -> None:
    for damage in (b"", b"{", b"[]", b'{"a":[1]}', b'{"a":["x",1]}'):
        (tmp_path / "marks").write_bytes(damage)

        assert Marks(tmp_path / "marks", now=clock).get("a") is None
