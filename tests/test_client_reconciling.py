"""Reconciling as a client (NIP-77): with a relay that does, one that does not, and some that lie."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import pytest
from websockets.asyncio.server import ServerConnection

from relay.client import Misbehaved, Rejected, RelayClient, Unreachable, Unsupported
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.messages import Auth, Closed, NegClose, NegMsg, NegOpen
from relay.nostr.negentropy import VERSION, Vector, encode_varint
from tests.events import ALICE, BOB, notes
from tests.small_relay import Handler, SmallRelay, hear, say, serving

BY_ALICE = Filter(authors=frozenset({ALICE.public}))


def vector_of(events: Sequence[Event]) -> Vector:
    return Vector.of((event.created_at, bytes.fromhex(event.id)) for event in events)


async def differences(client: RelayClient, events: Sequence[Event]) -> tuple[set[str], set[str]]:
    """Return the ids that the relay lacks, and those that it alone has."""
    have: set[str] = set()
    need: set[str] = set()
    async with asyncio.timeout(20), aclosing(client.reconcile(BY_ALICE, vector_of(events))) as told:
        async for each in told:
            have |= {id_.hex() for id_ in each.have}
            need |= {id_.hex() for id_ in each.need}
    return have, need


async def test_both_sides_differences_are_found() -> None:
    events = notes(ALICE, 300, step=1)
    others = notes(BOB, 5)

    async with SmallRelay([*events[:250], *others]) as relay, RelayClient(relay.url) as client:
        have, need = await differences(client, events[40:])

        assert have == {event.id for event in events[250:]}
        assert need == {event.id for event in events[:40]}
        await relay.until_heard(NegClose)


async def test_equal_sets_take_one_round() -> None:
    events = notes(ALICE, 100, step=1)

    async with SmallRelay(events) as relay, RelayClient(relay.url) as client:
        assert await differences(client, events) == (set(), set())

        await relay.until_heard(NegClose)
        assert [type(message) for message in relay.heard] == [NegOpen, NegClose]


async def test_left_early_it_is_closed() -> None:
    events = notes(ALICE, 3_000, step=1)

    async with SmallRelay(events) as relay, RelayClient(relay.url) as client:
        async with aclosing(client.reconcile(BY_ALICE, vector_of([]))) as told:
            first = await anext(told)

        assert first.need
        await relay.until_heard(NegClose)


async def test_a_key_is_proved_where_the_relay_asks_for_it() -> None:
    events = notes(ALICE, 2)

    async with SmallRelay(events, challenge="prove it") as relay, RelayClient(relay.url, BOB) as client:
        relay.refusal = "auth-required: who are you?"

        assert await differences(client, []) == (set(), {event.id for event in events})
        assert any(isinstance(message, Auth) for message in relay.heard)


async def test_a_query_that_is_too_big_is_rejected_as_blocked() -> None:
    async with SmallRelay(notes(ALICE, 3)) as relay, RelayClient(relay.url) as client:
        relay.most = 2

        with pytest.raises(Rejected, match="blocked: too many query results"):
            await differences(client, [])


async def test_a_relay_that_answers_by_a_notice_does_not_reconcile() -> None:
    async with SmallRelay(reconciles=False) as relay, RelayClient(relay.url) as client:
        with pytest.raises(Unsupported, match="unknown cmd"):
            await differences(client, [])


async def test_a_relay_that_says_nothing_does_not_reconcile() -> None:
    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()

    async with serving(silent) as url, RelayClient(url, answer_seconds=0.05) as client:
        with pytest.raises(Unsupported, match="no Negentropy message"):
            await differences(client, [])


async def test_a_relay_that_takes_it_for_a_subscription_does_not_reconcile() -> None:
    async def confused(connection: ServerConnection) -> None:
        message = await hear(connection)
        assert isinstance(message, NegOpen)
        await say(connection, Closed(message.name, "error: what is that?"))
        await connection.wait_closed()

    async with serving(confused) as url, RelayClient(url) as client:
        with pytest.raises(Unsupported, match="what is that"):
            await differences(client, [])


def answering(frame: bytes, times: int = 1) -> Handler:
    """Return a relay that has one frame for every question."""

    async def answer(connection: ServerConnection) -> None:
        while True:
            message = await hear(connection)
            if isinstance(message, NegOpen | NegMsg):
                for _ in range(times):
                    await say(connection, NegMsg(message.name, frame))

    return answer


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (b"\x62", "version 2"),
        (b"\x00", "begins with its version"),
        (bytes([VERSION]) + b"\x00\x00\x07", "no mode 7"),
        (bytes([VERSION]) + b"\x00\x00\x02" + encode_varint(2**40), "ends within a range"),
    ],
)
async def test_what_is_no_negentropy_is_misbehaviour(frame: bytes, complaint: str) -> None:
    async with serving(answering(frame)) as url, RelayClient(url) as client:
        with pytest.raises(Misbehaved, match=complaint):
            await differences(client, notes(ALICE, 2))


async def test_rounds_that_tell_nothing_come_to_an_end() -> None:
    # "Everything differs", for ever.
    endless = bytes([VERSION]) + b"\x00\x00\x01" + bytes(16)

    async with serving(answering(endless)) as url, RelayClient(url) as client:
        with pytest.raises(Misbehaved, match="32 rounds told nothing new"):
            await differences(client, notes(ALICE, 2))


async def test_the_same_ids_again_and_again_are_nothing_new() -> None:
    async def repeating(connection: ServerConnection) -> None:
        one_id = b"\x00\x00\x02\x01" + b"\xab" * 32
        # The id, and a range before it that "differs", so that there is another round.
        frame = bytes([VERSION]) + b"\x02\x00\x01" + bytes(16) + one_id
        await answering(frame)(connection)

    async with serving(repeating) as url, RelayClient(url) as client:
        with pytest.raises(Misbehaved, match="nothing new"):
            await differences(client, [])


async def test_a_frame_that_answers_nothing_is_discarded() -> None:
    done = bytes([VERSION])

    async with serving(answering(done, times=3)) as url, RelayClient(url) as client:
        assert await differences(client, []) == (set(), set())
        assert await differences(client, []) == (set(), set())


async def test_lost_connection_is_unreachable() -> None:
    async def hanging_up(connection: ServerConnection) -> None:
        await hear(connection)

    async with serving(hanging_up) as url, RelayClient(url) as client:
        with pytest.raises(Unreachable):
            await differences(client, [])


async def test_a_frame_longer_than_a_message_may_be_is_unreachable() -> None:
    async with serving(answering(bytes(10_000))) as url, RelayClient(url, max_message_bytes=4_096) as client:
        with pytest.raises(Unreachable, match="1009"):
            await differences(client, [])
