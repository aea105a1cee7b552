"""How often one may publish and ask. Over all workers: tests/wire/test_policies.py."""

from relay.config import RelayConfig
from relay.nostr.event import PubKey
from tests.events import ALICE, BOB, NOW, Clock, author, event, note
from tests.net.house import House


def config(**rates: object) -> RelayConfig:
    return RelayConfig.model_validate({"trust_bridge_keys": [BOB.public], "policies": {"rates": rates}})


async def test_an_author_may_publish_so_many_wherever_they_come_from(clock: Clock) -> None:
    async with House(clock, config(events_per_key=["1=2/hour"])) as house:
        said = []
        for number in range(3):
            client = await house.connect(f"192.0.2.{number}")
            said.append(await client.publish(note(ALICE, str(number))))
        others = await client.publish(note(author("somebody else")))

    assert said == [
        (True, ""),
        (True, ""),
        (False, "rate-limited: at most 2 an hour from one author of events of kind 1"),
    ]
    assert others == (True, "")


async def test_nobody_spends_what_is_anothers_by_naming_him(clock: Clock) -> None:
    async with House(clock, config(events_per_key=["*=1/minute"])) as house:
        client = await house.connect()

        for number in range(5):
            forged = note(BOB, str(number))._replace(pubkey=PubKey(ALICE.public))
            assert (await client.publish(forged))[0] is False

        assert await client.publish(note(ALICE)) == (True, "")


async def test_the_first_entry_that_names_a_kind_counts(clock: Clock) -> None:
    async with House(clock, config(events_per_key=["7=1/minute", "1-9=2/minute"])) as house:
        client = await house.connect()
        kinds = [7, 7, 1, 6, 1, 10_002, 10_002]

        said = [
            await client.publish(
                event(ALICE, kind, str(number), tags=[["e", "0" * 64]], created_at=NOW + number)
            )
            for number, kind in enumerate(kinds)
        ]

    # Kinds of one entry share what it allows, and what no entry names is not limited.
    assert [accepted for accepted, _ in said] == [True, False, True, True, False, True, True]


async def test_an_address_may_publish_so_many_by_kind(clock: Clock) -> None:
    async with House(clock, config(events_per_address=["1=1/day"])) as house:
        one, other = await house.connect("2001:db8::1"), await house.connect("2001:db8:0:1::1")
        neighbour = await house.connect("2001:db8::2")

        assert await one.publish(note(ALICE, "1")) == (True, "")
        assert await neighbour.publish(note(ALICE, "2")) == (
            False,
            "rate-limited: at most 1 a day from one address of events of kind 1",
        )
        assert await other.publish(note(ALICE, "3")) == (True, "")


async def test_a_proved_key_may_bring_so_many_from_any_address(clock: Clock) -> None:
    async with House(clock, config(events_per_authenticated_key=["*=1/minute"])) as house:
        one, other = await house.connect("192.0.2.1"), await house.connect("192.0.2.2")
        for client in (one, other):
            await client.authenticate(ALICE, NOW)

        assert await one.publish(note(author("x"))) == (True, "")
        assert await other.publish(note(author("y"))) == (
            False,
            "rate-limited: at most 1 a minute from one proved key of events of kind 1",
        )


async def test_questions_are_counted_not_their_filters(clock: Clock) -> None:
    async with House(clock, config(requests_per_address="3/minute")) as house:
        client = await house.connect()

        assert await client.find({"kinds": [1]}, {"kinds": [2]}, {"kinds": [3]}) == []
        assert await client.count({"kinds": [1]}) == 0
        client.send("NEG-OPEN", "n", {}, "6100000200")
        assert (await client.receive())[0] == "NEG-MSG"
        for verb in ("REQ", "COUNT"):
            assert (
                await client.refusal(verb, {})
                == "rate-limited: at most 3 a minute from one address of requests"
            )
        client.send("NEG-OPEN", "n", {}, "6100000200")
        assert await client.receive() == [
            "NEG-ERR",
            "n",
            "rate-limited: at most 3 a minute from one address of requests",
        ]


async def test_a_proved_key_may_ask_so_often(clock: Clock) -> None:
    async with House(clock, config(requests_per_authenticated_key="1/minute")) as house:
        one, other = await house.connect("192.0.2.1"), await house.connect("192.0.2.2")
        for client in (one, other):
            await client.authenticate(ALICE, NOW)

        assert await one.find({}) == []
        assert await other.refusal("REQ", {}) == "rate-limited: at most 1 a minute from one key of requests"


async def test_the_bridge_is_not_counted(clock: Clock) -> None:
    settings = config(
        events_per_key=["*=1/day"], events_per_address=["*=1/day"], requests_per_address="1/day"
    )
    async with House(clock, settings) as house:
        bridge = await house.connect()
        await bridge.authenticate(BOB, NOW)

        assert [await bridge.publish(note(ALICE, str(number))) for number in range(3)] == [(True, "")] * 3
        assert len(await bridge.find({})) == len(await bridge.find({})) == 3
