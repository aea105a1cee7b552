"""A socket after its upgrade: turns, pauses, pings and goodbyes, on a transport that the test plays."""

import asyncio
from collections.abc import Sequence
from itertools import count
from time import monotonic

import orjson
import pytest

from relay.config import RelayConfig
from relay.net import connection, websocket
from relay.nostr.event import PubKey
from relay.nostr.reasons import Refusal
from relay.store.api import Outcome, Write
from relay.store.memory import MemoryStore
from tests.events import ALICE, Clock, note
from tests.net.house import Client, House, masked


async def turns() -> None:
    """Let everything happen that can happen now."""
    for _ in range(100):
        await asyncio.sleep(0)


async def test_a_ping_is_answered_with_its_payload_among_the_answers(client: Client) -> None:
    client.wire.say(masked(9, b"are you there") + masked(9, b""))

    assert await client.heard() == []
    assert client.wire.pongs == [b"are you there", b""]


async def test_the_answers_to_one_read_are_one_write(client: Client) -> None:
    before = client.wire.writes

    client.send_at_once(["REQ", "a", {}], ["NONSENSE"], ["COUNT", "b", {}])
    await turns()

    assert client.wire.writes == before + 1
    assert [client.wire.payloads.get_nowait()[:7] for _ in range(3)] == [b'["EOSE"', b'["NOTIC', b'["COUNT']


async def test_one_client_with_much_to_say_lets_the_others_have_their_turn(house: House) -> None:
    many, other = await house.connect(), await house.connect()
    many.send_at_once(*(["CLOSE", f"{n}"] for n in range(1_000)), ["COUNT", "last", {}])
    other.send("COUNT", "first", {})
    answered = []

    async def hear(client: Client) -> None:
        answered.append((await client.receive())[1])

    await asyncio.gather(hear(many), hear(other))

    assert answered == ["first", "last"]


async def test_a_client_that_says_goodbye_gets_the_same_code_back_and_what_is_due(client: Client) -> None:
    client.wire.say(masked(1, b'["COUNT","q",{}]') + masked(8, b"\x0f\xa0bye"))
    await client.wire.gone.wait()

    assert await client.receive() == ["COUNT", "q", {"count": 0}]
    assert client.wire.closed == (4000, b"")


async def test_a_goodbye_without_a_code_is_answered_with_1000(client: Client) -> None:
    client.wire.say(masked(8, b""))
    await client.wire.gone.wait()

    assert client.wire.closed == (1000, b"")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (masked(0, b"continues nothing"), 1002),
        (masked(8, b"\x03"), 1002),
        (masked(1, b"x" * 262_145), 1009),
        (masked(1, b"\xff"), 1007),
    ],
    ids=["protocol", "goodbye", "too long", "no text"],
)
async def test_a_mistake_ends_the_conversation_but_not_the_reading(
    client: Client, said: bytes, code: int
) -> None:
    client.wire.say(said)
    client.send("COUNT", "q", {})
    await turns()

    assert client.wire.closed is not None
    assert client.wire.closed[0] == code
    assert client.wire.ended
    assert client.wire.unread == 0
    assert client.wire.payloads.empty()


async def test_who_does_not_answer_our_goodbye_is_cut(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(websocket, "CLOSING_SECONDS", 0.01)

    client.connection.shut(1012, b"restarting")
    async with asyncio.timeout(10):
        await client.wire.gone.wait()

    assert client.wire.aborted
    assert client.wire.closed == (1012, b"restarting")


async def test_after_our_goodbye_nothing_is_taken_but_the_clients(client: Client) -> None:
    client.connection.shut(1012, b"restarting")
    client.send("COUNT", "q", {})
    client.wire.say(masked(9, b"?") + masked(8, b"\x03\xf4"))
    async with asyncio.timeout(10):
        await client.wire.gone.wait()

    assert client.wire.payloads.empty()
    assert client.wire.pongs == []
    assert not client.wire.aborted


async def test_a_second_goodbye_is_not_said(client: Client) -> None:
    client.connection.shut(1012, b"restarting")
    client.connection.shut(1000, b"idle")

    assert client.wire.closed == (1012, b"restarting")


async def test_a_client_whose_messages_are_held_back_is_still_heard_when_we_say_goodbye(
    clock: Clock,
) -> None:
    class NeverCommits(MemoryStore):
        async def write(self, batch: Sequence[Write]) -> list[Outcome | Refusal]:
            await asyncio.Event().wait()
            return []

    config = RelayConfig.model_validate({"limits": {"max_pending_events": 1}})
    async with House(clock, config, store=NeverCommits()) as house:
        client = await house.connect()
        client.send_event(note(ALICE, "never answered"))
        client.send_event(note(ALICE, "never taken"))
        await turns()
        assert client.wire.unread == 1

        client.connection.shut(1012, b"restarting")
        client.wire.say(masked(8, b"\x03\xf4"))
        async with asyncio.timeout(10):
            await client.wire.gone.wait()

        assert not client.wire.aborted


async def test_a_silent_client_is_pinged_and_then_cut(client: Client) -> None:
    began = monotonic()
    await client.subscribe("s", {})

    for seconds, pings in ((29, 0), (31, 1), (33, 1), (45, 1)):
        client.connection.look_after(began + seconds)
        assert client.wire.pings == pings
    assert not client.wire.aborted

    client.connection.look_after(began + 47)
    assert client.wire.aborted


async def test_a_client_that_answers_its_pings_stays(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    began = monotonic()
    await client.subscribe("s", {})

    for minute in range(1, 20):
        client.connection.look_after(began + 60 * minute)
        assert client.wire.pings == minute
        monkeypatch.setattr(websocket, "monotonic", lambda now=began + 60 * minute + 1: now)
        client.wire.say(masked(10, b""))
        await turns()

    assert not client.wire.aborted


async def test_a_client_that_we_do_not_read_need_not_answer_pings(client: Client) -> None:
    began = monotonic()
    await client.subscribe("s", {})
    client.wire.stall(held=0)

    for seconds in range(0, 600, 2):
        client.connection.look_after(began + seconds)

    assert client.wire.pings == 0
    assert not client.wire.aborted


async def test_a_client_that_does_not_read_its_answers_is_not_read_until_it_does(client: Client) -> None:
    client.wire.stall()
    for n in range(10):
        client.send("COUNT", f"{n}", {})
    await turns()
    assert client.wire.unread == 9

    client.wire.move()

    assert [(await client.receive())[1] for _ in range(10)] == [f"{n}" for n in range(10)]


async def test_messages_in_pieces_are_taken_when_they_are_whole(client: Client) -> None:
    text = orjson.dumps(["COUNT", "q", {"authors": [PubKey("ab" * 32)]}])
    for byte in masked(1, text):
        client.wire.say(bytes((byte,)))

    assert await client.receive() == ["COUNT", "q", {"count": 0}]


async def test_many_clients_with_much_to_say_have_one_turn_together(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = [await house.connect() for _ in range(20)]
    other = await house.connect()
    # Each turn takes as long as one may.
    ticks = count()
    monkeypatch.setattr(websocket, "monotonic", lambda: float(next(ticks)))
    for client in many:
        client.send_at_once(*(["COUNT", f"{n}", {}] for n in range(50)))
    await asyncio.sleep(0)

    before = sum(client.wire.payloads.qsize() for client in many)
    for n in range(10):
        other.send("COUNT", f"{n}", {})
        assert await other.receive() == ["COUNT", f"{n}", {"count": 0}]

    # Its questions take less than 200 turns of the event loop, with one or two answers to others in each.
    assert sum(client.wire.payloads.qsize() for client in many) - before <= 400
    for client in many:
        assert [(await client.receive())[1] for _ in range(50)] == [f"{n}" for n in range(50)]


async def test_a_message_that_does_not_arrive_whole_ends_the_connection(client: Client) -> None:
    await client.subscribe("s", {})
    client.wire.say(masked(1, b"x" * 100)[:50])
    await turns()
    began = monotonic()

    client.connection.look_after(began)
    client.connection.look_after(began + 59)
    assert client.wire.closed is None
    client.connection.look_after(began + 61)

    assert client.wire.closed == (1008, b"a message took too long to arrive")


async def test_a_client_that_is_always_amid_a_message_and_sends_them_whole_stays(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = monotonic()
    await client.subscribe("s", {})
    message = masked(1, b'["CLOSE","x"]')
    client.wire.say(message[:5])
    for n in range(1, 200):
        monkeypatch.setattr(connection, "monotonic", lambda now=began + n: now)
        client.wire.say(message[5:] + message[:5])
        await turns()
        client.connection.look_after(began + n)

    assert client.wire.closed is None


async def test_who_sends_very_much_that_makes_no_sense_is_disconnected(clock: Clock) -> None:
    config = RelayConfig.model_validate({"limits": {"others_per_minute": 10}})
    async with House(clock, config) as house:
        client = await house.connect()
        for _ in range(9):
            client.send("NONSENSE")
        client.wire.say(masked(2, b"binary"))
        client.send("NONSENSE")

        assert [(await client.receive())[0] for _ in range(10)] == ["NOTICE"] * 10
        await client.ended()
        assert client.wire.closed == (1008, b"rate-limited: too much that makes no sense")
