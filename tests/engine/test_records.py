"""What features do with records: judge, keep up, answer requests, make events, do jobs."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import orjson
import pytest

from relay.engine.feature import Feature, Follower, HttpRequest, HttpResponse, Job, Origin, Route, VeilRule
from relay.engine.jobs import run_jobs
from relay.nostr.event import Event
from relay.nostr.reasons import Refusal, invalid
from relay.store.api import KEEP, Change, Records, Ruling, StoreError, Table, Write
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import House

SECRET = 2_222
"""A kind that is hidden while the door is closed."""
KNOCK = 22_222
"""An ephemeral kind that asks the relay to open or close the door."""


class Door:
    """A feature with a door: followed records, requests, and what one may see behind it."""

    def __init__(self) -> None:
        self.is_open = False
        self.house: House | None = None

    def judge(self, told: Event, records: Records, now: int) -> Ruling | Refusal:
        if records.get("door") is None and told.content == "only when open":
            return invalid("the door is closed")
        return KEEP

    def command(self, payload: bytes, records: Records, now: int) -> Ruling | Refusal:
        if payload == b"open":
            records.put("door", b"open")
        else:
            records.delete("door")
        return Ruling(answer=b"it is " + payload)

    def changed(self, changes: Sequence[Change]) -> None:
        for change in changes:
            self.is_open = change.value is not None

    async def knock(self, asking: Event, origin: Origin, now: int) -> tuple[bool, str]:
        assert self.house is not None
        if asking.content == "break":
            raise RuntimeError("a mistake in a feature")
        if asking.content == "fail":
            raise StoreError("the disk is gone")
        answer = await self.house.desk.command("door", asking.content.encode())
        assert isinstance(answer, bytes)
        return True, f"info: {answer.decode()}"

    async def look(self, origin: Origin, now: int) -> list[Event]:
        return [event(BOB, 20_001, f"made at {now}", created_at=now)]

    def feature(self) -> Feature:
        return Feature(
            "door",
            tables=(Table("door", self.judge, command=self.command, followed=True),),
            followers=(Follower("door", self.changed),),
            effects=(self.name_table,),
            requests={KNOCK: self.knock},
            conjured={20_001: self.look},
            veils=(VeilRule(self.hidden, lambda shown, origin: self.is_open, is_personal=False),),
        )

    def name_table(self, write: Write) -> Write:
        return replace(write, tables=("door",)) if write.event.kind == SECRET else write

    def hidden(self) -> frozenset[int]:
        return frozenset() if self.is_open else frozenset({SECRET})


@pytest.fixture
def door() -> Door:
    return Door()


async def test_a_table_refuses_through_the_whole_relay(clock: Clock, door: Door) -> None:
    async with House(clock, extra=[door.feature()]) as house:
        door.house = house
        client = await house.connect()
        assert await client.publish(event(ALICE, SECRET, "only when open")) == (
            False,
            "invalid: the door is closed",
        )
        assert await client.publish(event(ALICE, KNOCK, "open")) == (True, "info: it is open")
        assert await client.publish(event(ALICE, SECRET, "only when open")) == (True, "")


async def test_a_change_takes_effect_on_the_next_question_and_the_next_event(
    clock: Clock, door: Door
) -> None:
    async with House(clock, extra=[door.feature()]) as house:
        door.house = house
        writer, reader = await house.connect(), await house.connect()
        await writer.publish(event(ALICE, SECRET, "behind the door"))
        assert await reader.find({"kinds": [SECRET]}) == []
        assert await reader.count({"kinds": [SECRET]}) == 0
        await reader.subscribe("s", {"kinds": [SECRET]})
        await writer.publish(event(ALICE, SECRET, "unseen"))
        await writer.publish(event(ALICE, KNOCK, "open"))
        await writer.publish(event(ALICE, SECRET, "seen"))
        assert await reader.live() == [("s", "seen")]
        assert sorted(await reader.find({"kinds": [SECRET]})) == ["behind the door", "seen", "unseen"]
        await writer.publish(event(ALICE, KNOCK, "close"))
        assert await reader.find({"kinds": [SECRET]}) == []


async def test_a_request_that_fails_is_answered_and_the_relay_goes_on(clock: Clock, door: Door) -> None:
    failed = (False, "error: the event could not be stored; try again later")
    async with House(clock, extra=[door.feature()]) as house:
        door.house = house
        client = await house.connect()
        assert await client.publish(event(ALICE, KNOCK, "break")) == failed
        assert await client.publish(event(ALICE, KNOCK, "fail")) == failed
        assert await client.publish(note(ALICE)) == (True, "")


async def test_a_request_is_neither_kept_nor_passed_on(clock: Clock, door: Door) -> None:
    async with House(clock, extra=[door.feature()]) as house:
        door.house = house
        writer, reader = await house.connect(), await house.connect()
        assert await reader.subscribe("s", {"kinds": [KNOCK, 1]}) == []
        await writer.publish(event(ALICE, KNOCK, "open"))
        await writer.publish(note(ALICE, "after"))
        assert await reader.live() == [("s", "after")]


async def test_what_is_asked_for_by_its_kind_is_made_for_the_reader(clock: Clock, door: Door) -> None:
    async with House(clock, extra=[door.feature()]) as house:
        client = await house.connect()
        assert await client.find({"kinds": [20_001]}) == [f"made at {NOW}"]
        assert await client.find({"kinds": [20_001], "until": NOW - 1}) == []
        assert await client.find({}) == []


async def test_followers_hear_at_the_start_of_what_there_is(clock: Clock, door: Door) -> None:
    async with House(clock, extra=[Door().feature()]) as before:
        await before.desk.command("door", b"open")
    async with House(clock, store=before.store, extra=[door.feature()]):
        assert door.is_open


async def test_a_desk_that_nobody_opened_says_so(door: Door) -> None:
    from relay.engine.desk import Desk

    with pytest.raises(RuntimeError, match=r"^there is no store here$"):
        Desk().record("door", "door")


async def test_jobs_run_again_also_after_a_failure() -> None:
    runs: list[int] = []
    third = asyncio.Event()

    async def work(now: int) -> None:
        runs.append(now)
        if len(runs) == 1:
            raise RuntimeError("a mistake in a job")
        if len(runs) == 3:
            third.set()

    feature = Feature("worker", jobs=(Job("work", 0.001, work),))
    running = asyncio.create_task(run_jobs([feature], lambda: NOW))
    async with asyncio.timeout(5):
        await third.wait()
    running.cancel()
    assert runs[:3] == [NOW, NOW, NOW]


async def _echo(request: HttpRequest) -> HttpResponse:
    told = {
        "path": request.path,
        "query": dict(request.query),
        "authorization": request.authorization,
        "body": request.body.decode(),
    }
    return HttpResponse(orjson.dumps(told), "application/json")


ECHO = Feature(
    "echo",
    routes=(
        Route("/echo", "application/echo", _echo, method="POST"),
        Route("/below/*", None, _echo),
    ),
)
