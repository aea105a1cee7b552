"""Read plugins: what a program hides is hidden at every door, and so is what it does not answer for."""

import asyncio
import shlex
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import orjson
import pytest

from relay.config import RelayConfig
from relay.engine.feature import HttpRequest, Origin
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.features.test_nip77 import OPENING, reconcile
from tests.features.test_nip88 import page_of, poll
from tests.net.house import URL, Client, House
from tests.search.library import opened

ROOT = Path(__file__).parents[2]
HIDE = ROOT / "docs/operating/examples/hide_drafts.py"
PROGRAM = f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'tests/plugins/program.py'))}"
WARNED = [["content-warning", "x"]]


def plugged(command: str, **settings: object) -> RelayConfig:
    read = {"command": command, "seconds": 30, **settings}
    return RelayConfig.model_validate({"plugins": {"read": read}, "hyperloglog": True})


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[House]:
    """A relay with the script of the documents, an open note and one with a warning of Alice's."""
    async with House(clock, plugged(str(HIDE))) as running:
        client = await running.connect()
        assert await client.publish(note(ALICE, "open", created_at=NOW - 5)) == (True, "")
        assert await client.publish(note(ALICE, "hidden", tags=WARNED)) == (True, "")
        yield running


@pytest.fixture
async def stranger(house: House) -> Client:
    return await house.connect()


@pytest.fixture
async def reader(house: House) -> Client:
    """Somebody who proved a key."""
    client = await house.connect()
    await client.authenticate(BOB, NOW)
    return client


async def test_req_sends_only_what_the_reader_may_see(stranger: Client, reader: Client) -> None:
    assert await stranger.find({}) == ["open"]
    assert await reader.find({}) == ["hidden", "open"]
    assert await stranger.find({"ids": [note(ALICE, "hidden", tags=WARNED).id]}) == []


async def test_a_limit_counts_what_may_be_seen(stranger: Client) -> None:
    assert await stranger.find({"limit": 1}) == ["open"]
    answers = await stranger.request("REQ", "s", {"limit": 1})
    assert answers[-1] == ["EOSE", "s", ["finish"]]


async def test_live_events_are_asked_about_for_each_reader(
    house: House, stranger: Client, reader: Client
) -> None:
    for client in (stranger, reader):
        await client.subscribe("s", {"limit": 0})
    author = await house.connect()
    await author.authenticate(ALICE, NOW)
    await author.subscribe("s", {"limit": 0})

    await author.publish(note(ALICE, "warned", tags=WARNED, created_at=NOW + 1))
    await author.publish(event(ALICE, 31_234, "draft", tags=[["d", "x"]]))
    await author.publish(event(ALICE, 20_001, "passing", tags=WARNED))
    await author.publish(note(ALICE, "the end"))

    assert await until_the_end(stranger) == ["the end"]
    assert await until_the_end(reader) == ["warned", "passing", "the end"]
    assert await until_the_end(author) == ["warned", "draft", "passing", "the end"]


async def until_the_end(client: Client) -> list[str]:
    """Return the contents of live events, the last included."""
    heard: list[str] = []
    while not heard or heard[-1] != "the end":
        message = await client.receive()
        if message[0] == "EVENT":
            heard.append(message[2]["content"])
    return heard


async def test_what_is_stored_and_live_meanwhile_comes_once(house: House, reader: Client) -> None:
    publisher = await house.connect()
    for number in range(30):
        publisher.send_event(note(ALICE, f"note {number}", created_at=NOW + number))
        if number == 10:
            reader.send("REQ", "s", {"kinds": [1]})
    await publisher.publish(note(ALICE, "the end"))

    contents = await until_the_end(reader)

    assert sorted(contents) == sorted(
        [f"note {number}" for number in range(30)] + ["open", "hidden", "the end"]
    )


async def test_count_counts_only_what_the_reader_may_see(stranger: Client, reader: Client) -> None:
    for wanted in ({}, {"authors": [ALICE.public]}):
        assert (await stranger.count(wanted), await reader.count(wanted)) == (1, 2)
    assert await reader.count({"kinds": [1]}, {"authors": [ALICE.public]}) == 2


async def test_registers_hold_only_visible_authors(house: House, stranger: Client, reader: Client) -> None:
    liked = "0" * 64
    await stranger.publish(event(BOB, 7, tags=[["e", liked], *WARNED]))
    wanted = {"kinds": [7], "#e": [liked]}

    answers = [(await client.request("COUNT", "c", wanted))[0][2] for client in (stranger, reader)]

    assert [answer["count"] for answer in answers] == [0, 1]
    assert [set(answer["hll"]) == {"0"} for answer in answers] == [True, False]


async def test_negentropy_does_not_tell_of_what_is_hidden(stranger: Client, reader: Client) -> None:
    hidden = note(ALICE, "hidden", tags=WARNED).id

    assert hidden not in (await reconcile(stranger)).need
    assert hidden in (await reconcile(reader)).need
    assert len((await reconcile(stranger)).need) == 1


async def test_searches_find_only_what_may_be_seen(clock: Clock, tmp_path: Path) -> None:
    async with opened(tmp_path, clock) as library:
        config = plugged(str(HIDE))
        async with House(clock, config, store=library.store, search=library.searcher) as house:
            stranger, reader = await house.connect(), await house.connect()
            await reader.authenticate(BOB, NOW)
            for one in (note(ALICE, "an open pie"), note(ALICE, "a hidden pie", tags=WARNED)):
                await reader.publish(one)
            library.catch_up()

            assert await stranger.find({"search": "pie"}) == ["an open pie"]
            assert len(await reader.find({"search": "pie"})) == 2


async def test_there_is_no_page_of_what_it_might_have_to_sift(house: House, reader: Client) -> None:
    """The votes that a page sums up are not shown to it one by one."""
    hidden, shown = poll(WARNED[0]), poll(created_at=NOW - 1)
    for one in (hidden, shown):
        assert await reader.publish(one) == (True, "")
    stranger = Origin(address="", url=URL)

    async def status(id_: str) -> int:
        request = HttpRequest(
            f"/api/poll/{id_}",
            "relay.test",
            URL,
            house.relay.veil(stranger),
            sift=partial(house.relay.sift, origin=stranger),
        )
        return (await page_of(house).answer(request)).status

    assert (await status(shown.id), await status(hidden.id)) == (404, 404)


async def test_counting_and_comparing_too_much_is_refused(clock: Clock) -> None:
    async with House(clock, plugged(str(HIDE), max_rows=10)) as house:
        client = await house.connect()
        for number in range(12):
            await client.publish(note(ALICE, str(number), created_at=NOW + number))
        too_much = "blocked: this takes a look at more than 10 events; ask for less"

        assert await client.refusal("COUNT", {}) == too_much
        client.send("NEG-OPEN", "n", {}, OPENING)
        assert (await client.receive())[:3] == ["NEG-ERR", "n", too_much]
        # Who sends what is seen looks at nothing in vain.
        assert len(await client.find({})) == 12
        assert await client.count({"until": NOW + 5}) == 6


async def test_looking_for_what_is_hidden_ends(clock: Clock) -> None:
    async with House(clock, plugged(str(HIDE), max_rows=10)) as house:
        client = await house.connect()
        for number in range(12):
            await client.publish(note(ALICE, str(number), tags=WARNED))

        answers = await client.request("REQ", "r", {"limit": 5})

        assert answers == [["CLOSED", "r", "blocked: this takes a look at more than 10 events; ask for less"]]


async def test_other_kinds_are_not_asked_about(clock: Clock) -> None:
    async with House(clock, plugged(f"{PROGRAM} crash", kinds=["30000-39999"])) as house:
        client = await house.connect()
        await client.publish(note(ALICE, "crash"))

        assert await client.find({"kinds": [1]}) == ["crash"]
        assert await client.find({}) == ["crash"]
        assert await client.count({}) == 1


@pytest.mark.parametrize(("on_failure", "shown"), [("hide", ["good"]), ("show", ["good", "hang"])])
async def test_what_is_not_answered_in_time_is_hidden_or_shown_as_the_operator_says(
    clock: Clock, on_failure: str, shown: list[str]
) -> None:
    async with House(clock, plugged(f"{PROGRAM} hang", seconds=1.5, on_failure=on_failure)) as house:
        client = await house.connect()
        for content in ("good", "hang"):
            await client.publish(note(ALICE, content))

        assert sorted(await client.find({})) == shown


async def test_one_that_dies_hides_everything_and_is_there_again(clock: Clock) -> None:
    async with House(clock, plugged(f"{PROGRAM} crash")) as house:
        client = await house.connect()
        await client.publish(note(ALICE, "good", created_at=NOW - 1))
        assert await client.find({}) == ["good"]
        await client.publish(note(ALICE, "crash"))

        assert await client.find({"since": NOW}) == []

        async with asyncio.timeout(30):
            while await client.find({"until": NOW - 1}) != ["good"]:
                pass


async def test_strangers_are_all_alike_to_it(clock: Clock) -> None:
    """Nobody's address is told: what one of them is shown, all are."""
    async with House(clock, plugged(f"{PROGRAM} told_apart")) as house:
        one, other = await house.connect("192.0.2.1"), await house.connect("192.0.2.2")
        for client in (one, other):
            await client.subscribe("s", {"limit": 0})

        await one.publish(note(ALICE, orjson.dumps({"type", "id", "authed"}, default=sorted).decode()))
        await one.publish(note(ALICE, "the end"))

        assert len(await until_the_end(one)) == len(await until_the_end(other)) == 2
