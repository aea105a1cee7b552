"""The line between the supervisor and one of its programs, both ends in this process."""

import asyncio
import contextlib
import os
import pickle
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.net.orders import Orders, follow_orders


@pytest.fixture
def orders() -> Iterator[Orders]:
    made = Orders()
    yield made
    made.close()


@asynccontextmanager
async def following(orders: Orders, carry_out: Callable[[Any], Awaitable[None]]) -> Any:
    task = asyncio.create_task(follow_orders(orders.theirs, carry_out))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_an_order_arrives_as_it_was_given_however_large_and_is_answered(orders: Orders) -> None:
    taken: list[Any] = []

    async def take(order: Any) -> None:
        taken.append(order)

    async with following(orders, take):
        assert await orders.give({"keys": ("k" * 64,) * 50_000}, seconds=20) == ""
        assert await orders.give("second", seconds=20) == ""

    assert taken == [{"keys": ("k" * 64,) * 50_000}, "second"]


async def test_what_goes_wrong_is_told_and_the_next_order_is_carried_out(orders: Orders) -> None:
    async def fail(order: Any) -> None:
        raise ValueError(f"no {order}")

    async with following(orders, fail):
        assert await orders.give("a", seconds=20) == "ValueError: no a"
        assert await orders.give("b", seconds=20) == "ValueError: no b"


async def test_a_program_that_does_not_answer_is_not_waited_for_without_end(orders: Orders) -> None:
    assert await orders.give("a", seconds=0.05) == "no answer within 0.05 seconds"


async def test_a_late_answer_is_not_taken_for_the_next_ones(orders: Orders) -> None:
    assert await orders.give("a", seconds=0.05) == "no answer within 0.05 seconds"

    async def fail_over_b(order: Any) -> None:
        if order == "b":
            raise ValueError("b")

    async with following(orders, fail_over_b):
        assert await orders.give("b", seconds=20) == "ValueError: b"


async def test_a_program_that_dies_over_an_order_is_no_failure(orders: Orders) -> None:
    giving = asyncio.create_task(orders.give("a", seconds=20))
    await asyncio.sleep(0)
    orders.forget()

    assert await giving == ""


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's end, which the program does not hold, and the program's."""
    with contextlib.ExitStack() as held:
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            held.enter_context(end)
        yield ends


async def test_when_the_supervisor_dies_there_are_no_more_orders(
    line: tuple[socket.socket, socket.socket],
) -> None:
    supervisor, program = line
    taken: list[Any] = []

    async def take(order: Any) -> None:
        taken.append(order)

    with capture_logs() as logs:
        supervisor.close()
        async with asyncio.timeout(20):
            await follow_orders(program, take)

    assert taken == []
    assert logs == [{"event": "the supervisor has died", "log_level": "warning"}]


async def test_the_supervisor_may_die_before_it_has_its_answer(
    line: tuple[socket.socket, socket.socket],
) -> None:
    supervisor, program = line
    taken: list[Any] = []

    async def take_and_kill(order: Any) -> None:
        taken.append(order)
        supervisor.close()

    memory = os.memfd_create("test-order")
    os.write(memory, pickle.dumps("a"))
    socket.send_fds(supervisor, [b"1"], [memory])
    os.close(memory)
    with capture_logs() as logs:
        async with asyncio.timeout(20):
            await follow_orders(program, take_and_kill)

    assert taken == ["a"]
    assert logs == [{"event": "the supervisor has died", "log_level": "warning"}]


async def test_no_descriptor_is_left_behind(orders: Orders) -> None:
    async def take(order: Any) -> None:
        pass

    async with following(orders, take):
        await orders.give(1, seconds=20)
        before = len(os.listdir("/proc/self/fd"))
        for number in range(5):
            await orders.give(number, seconds=20)

        assert len(os.listdir("/proc/self/fd")) == before
