"""Who may ask for what."""

import pytest

from relay.config import RelayConfig
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import Filter, House


def config(**reading: object) -> RelayConfig:
    return RelayConfig.model_validate({"admins": [BOB.public], "policies": {"reading": reading}})


@pytest.mark.parametrize("verb", ["REQ", "COUNT"])
async def test_where_only_members_read_others_are_told_to_prove_a_key_or_no(clock: Clock, verb: str) -> None:
    async with House(clock, config(members_only=True)) as house:
        client = await house.connect()
        assert await client.refusal(verb, {"kinds": [1]}) == "auth-required: only members read here"

        await client.authenticate(ALICE, NOW)
        assert await client.refusal(verb, {"kinds": [1]}) == "restricted: only members read here"

        await client.authenticate(BOB, NOW)
        assert await client.find({"kinds": [1]}) == []


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({}, "restricted: a filter must say which kinds it asks for here"),
        ({"ids": ["0" * 64]}, "restricted: a filter must say which kinds it asks for here"),
        ({"kinds": [1, 4]}, "restricted: kind 4 may not be asked for here"),
    ],
)
async def test_only_some_kinds_may_be_asked_for(clock: Clock, wanted: Filter, reason: str) -> None:
    async with House(clock, config(kinds=["0-3", "30023"])) as house:
        client = await house.connect()

        assert await client.refusal("REQ", wanted) == reason
        assert await client.find({"kinds": [0, 3, 30_023]}) == []


@pytest.mark.parametrize(
    "wanted", [{}, {"kinds": [1]}, {"since": 5, "limit": 1}, {"kinds": [1], "authors": []}]
)
async def test_who_wants_everything_gets_nothing(clock: Clock, wanted: Filter) -> None:
    async with House(clock, config(must_name=["ids", "authors", "tags"])) as house:
        client = await house.connect()

        assert (
            await client.refusal("REQ", wanted) == "restricted: a filter must name ids, authors or tags here"
        )
        client.send("NEG-OPEN", "n", wanted, "6100000200")
        assert await client.receive() == [
            "NEG-ERR",
            "n",
            "restricted: a filter must name ids, authors or tags here",
        ]


async def test_a_filter_that_names_something_is_answered(clock: Clock) -> None:
    async with House(clock, config(must_name=["ids", "authors", "tags"])) as house:
        client = await house.connect()
        await client.publish(note(ALICE, "hello", tags=[["t", "x"]]))

        for wanted in (
            {"authors": [ALICE.public]},
            {"#t": ["x"]},
            {"ids": [note(ALICE, "hello", tags=[["t", "x"]]).id]},
        ):
            assert await client.find(wanted) == ["hello"]


async def test_strangers_name_fewer_things(clock: Clock) -> None:
    wanted = {"authors": ["0" * 64, "1" * 64], "kinds": [1, 2]}
    async with House(clock, config(max_values=3)) as house:
        client = await house.connect()
        assert (
            await client.refusal("REQ", wanted)
            == "auth-required: 4 values in one filter, who proved no key may name 3"
        )

        await client.authenticate(ALICE, NOW)

        assert await client.find(wanted) == []


async def test_kinds_for_members_are_hidden_from_others_but_their_authors(clock: Clock) -> None:
    async with House(clock, config(member_kinds=["30000-30001"])) as house:
        author, stranger, member = await house.connect(), await house.connect(), await house.connect()
        await author.authenticate(ALICE, NOW)
        await member.authenticate(BOB, NOW)
        for client in (author, stranger, member):
            await client.subscribe("s", {})

        await author.publish(event(ALICE, 30_000, "hidden", tags=[["d", "x"]]))

        assert [await client.count({}) for client in (author, stranger, member)] == [1, 0, 1]
        assert [await client.live() for client in (author, stranger, member)] == [
            [("s", "hidden")],
            [],
            [("s", "hidden")],
        ]
        assert (await stranger.refusal("REQ", {"kinds": [30_000]})).startswith("auth-required: ")
