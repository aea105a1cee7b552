"""Limits per client and per address, and clients that do not read."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.serving import UNLIMITED, Served, TorvServe
from tests.wire.client import Refused, dial, new_key, note
from tests.wire.test_http import metrics

DEADLINE_SECONDS = 30


async def test_one_connection_holds_only_so_many_subscriptions(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay.limits]\nmax_subscriptions = 3\n", workers=1)

    async with dial(served.url) as wire:
        for n in range(3):
            await wire.subscribe({"limit": 0}, name=f"s{n}")
        with pytest.raises(Refused, match=r"^rate-limited: "):
            await wire.subscribe({"limit": 0}, name="s3")
        assert await wire.subscribe({"limit": 0}, name="s0") == []
        await wire.send("CLOSE", "s1")
        assert await wire.subscribe({"limit": 0}, name="s3") == []


async def test_events_per_minute_are_counted_over_all_workers_of_an_address(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay.limits]\nevents_per_minute = 6\n", workers=2)
    answers = []

    for _ in range(12):
        async with dial(served.url) as wire:
            answers.append(await wire.publish(note(new_key())))

    assert [accepted for accepted, _ in answers] == [True] * 6 + [False] * 6
    assert all(reason.startswith("rate-limited: ") for _, reason in answers[6:])


async def test_requests_per_minute_are_counted_over_all_workers_of_an_address(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay.limits]\nrequests_per_minute = 6\n", workers=2)
    refused = 0

    for _ in range(6):
        async with dial(served.url) as wire:
            for ask in (wire.query, wire.count):
                try:
                    await ask({"kinds": [1], "limit": 1})
                except Refused as error:
                    assert str(error).startswith("rate-limited: ")
                    refused += 1

    assert refused == 6


async def test_connections_are_counted_over_all_workers_of_an_address(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay.limits]\nconnections_per_address = 5\n", workers=2)

    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(served.url)) for _ in range(5)]
        with pytest.raises(InvalidStatus) as refused:
            async with connect(served.url):
                pass
        assert refused.value.response.status_code == 429
        await wires[0].connection.close()
        await wait_for(served, "torv_connections", 4)

        async with dial(served.url) as wire:
            assert await wire.query({"limit": 0}) == []


async def test_a_trusted_key_is_exempt_once_it_is_proved(torv_serve: TorvServe) -> None:
    bridge = new_key()
    served = torv_serve(
        f'[relay]\ntrust_bridge_keys = ["{bridge.public}"]\n[relay.limits]\nevents_per_minute = 1\n',
        workers=1,
    )

    async with dial(served.url) as wire:
        assert (await wire.publish(note(new_key())))[0] is True
        assert (await wire.publish(note(new_key())))[0] is False
        await wire.authenticate(bridge)
        for _ in range(5):
            assert await wire.publish(note(new_key())) == (True, "")


@pytest.mark.parametrize(
    ("limit", "too_much"),
    [
        ("max_content_chars = 3", {"content": "four"}),
        ("max_event_tags = 2", {"tags": [["t"]] * 3}),
        ("max_age_seconds = 3600", {"age": 4_000}),
    ],
)
async def test_an_event_beyond_a_limit_is_refused(
    torv_serve: TorvServe, limit: str, too_much: dict[str, Any]
) -> None:
    served = torv_serve(f"[relay.limits]\n{limit}\n", workers=1)

    async with dial(served.url) as wire:
        accepted, reason = await wire.publish(note(new_key(), **{"content": "🤙", **too_much}))
        assert await wire.publish(note(new_key(), "🤙🤙🤙", tags=[["t"]] * 2, age=3_000)) == (True, "")

    assert not accepted
    assert reason.startswith("invalid: ")


async def test_a_filter_gets_no_more_than_the_relays_limit(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay.limits]\nmax_limit = 2\n", workers=1)
    key = new_key()

    async with dial(served.url) as wire:
        for n in range(4):
            await wire.publish(note(key, str(n), age=10 * n))

        assert [e["content"] for e in await wire.query({"authors": [key.public]})] == ["0", "1"]
        assert [e["content"] for e in await wire.query({"authors": [key.public], "limit": 9})] == ["0", "1"]
        assert await wire.count({"authors": [key.public]}) == 4


async def wait_for(served: Served, name: str, value: float) -> None:
    """Wait until a metric has this value; nothing else tells what the relay did to a client that sleeps."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while metrics(served)[name] != value:  # noqa: ASYNC110  # the other side is another process
            await asyncio.sleep(0.05)


async def test_a_subscriber_that_does_not_read_loses_its_subscription_and_is_told(
    torv_serve: TorvServe,
) -> None:
    served = torv_serve(UNLIMITED + "max_outbox_bytes = 65536\n", workers=1)
    key = new_key()

    async with dial(served.url, receive_buffer=4096) as slow, dial(served.url) as publisher:
        await slow.subscribe({"authors": [key.public]})
        sent = 0
        while metrics(served)["torv_subscriptions_too_slow_total"] == 0:
            assert sent < 300
            for _ in range(10):
                sent += 1
                assert await publisher.publish(note(key, f"{sent} " + "x" * 100_000)) == (True, "")

        arrived = []
        while (message := await slow.receive())[0] == "EVENT":
            arrived.append(int(message[2]["content"].split()[0]))

        assert message[:2] == ["CLOSED", "sub"]
        assert message[2].startswith("error: too slow")
        # What came is the beginning, whole and in order.
        assert arrived == list(range(1, len(arrived) + 1))
        assert len(arrived) < sent
        # Neither the connection nor its next subscription suffers.
        assert await slow.subscribe({"authors": [key.public], "limit": 1}) != []


async def test_a_socket_that_takes_nothing_is_cut(torv_serve: TorvServe) -> None:
    served = torv_serve(UNLIMITED + "[relay.timeouts]\nstalled_seconds = 1\n", workers=1)
    key = new_key()

    async with dial(served.url) as publisher:
        for n in range(60):
            await publisher.publish(note(key, f"{n} " + "x" * 100_000))
        async with dial(served.url, receive_buffer=4096) as stalled:
            for n in range(4):
                await stalled.send("REQ", f"all {n}", {"authors": [key.public]})

            await wait_for(served, "torv_connections_stalled_total", 1)
            await wait_for(served, "torv_connections", 1)

        assert await publisher.count({"authors": [key.public]}) == 60


async def test_a_client_that_reads_no_answers_is_not_read_either(torv_serve: TorvServe) -> None:
    served = torv_serve(UNLIMITED + "[relay.timeouts]\nstalled_seconds = 1\n", workers=1)

    async with dial(served.url, receive_buffer=4096) as flood, dial(served.url) as other:

        async def say_nonsense_for_ever() -> None:
            with suppress(ConnectionClosed):
                while True:
                    await flood.connection.send("[]")

        asking = asyncio.create_task(say_nonsense_for_ever())
        await wait_for(served, "torv_connections_stalled_total", 1)
        asking.cancel()

        assert await other.query({"limit": 0}) == []
