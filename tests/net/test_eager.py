"""Coroutines that begin without a task."""

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from relay.net.eager import Work, begin

Spawn = Callable[[Work], "asyncio.Task[None]"]


@pytest.fixture
async def spawn() -> Spawn:
    return asyncio.get_running_loop().create_task


def unwanted(work: Work) -> "asyncio.Task[None]":
    raise AssertionError("no task is needed")


async def test_work_that_need_not_wait_is_done_at_once_and_is_no_task() -> None:
    done = []

    async def inner() -> str:
        return "well"

    async def work() -> None:
        done.append(await inner())

    assert begin(work(), unwanted) is None
    assert done == ["well"]


async def test_what_work_raises_before_it_waits_reaches_the_caller() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin(work(), unwanted)


async def test_the_rest_goes_on_when_what_it_waits_for_comes(spawn: Spawn) -> None:
    steps: list[object] = []
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        steps.append("begun")
        steps.append(await ready)
        await asyncio.sleep(0)
        steps.append(asyncio.current_task() is task)

    task = begin(work(), spawn)
    assert steps == ["begun"]
    assert task is not None
    ready.set_result("ready")
    await task

    assert steps == ["begun", "ready", True]


async def test_what_it_waits_for_may_have_come_before_its_task_runs(spawn: Spawn) -> None:
    ready = asyncio.Event()

    async def work() -> None:
        await ready.wait()

    task = begin(work(), spawn)
    ready.set()

    assert task is not None
    await task


async def test_a_failure_after_waiting_is_the_tasks(spawn: Spawn) -> None:
    async def work() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    task = begin(work(), spawn)

    assert task is not None
    with pytest.raises(ZeroDivisionError):
        await task


@pytest.mark.parametrize("steps", [0, 3])
async def test_the_rest_can_be_cancelled_and_cleans_up(spawn: Spawn, steps: int) -> None:
    never, lock, left = asyncio.Event(), asyncio.Lock(), []

    async def work() -> None:
        async with lock:
            try:
                await never.wait()
            finally:
                left.append("cleaned up")

    task = begin(work(), spawn)
    assert task is not None
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert left == ["cleaned up"]
    assert not lock.locked()


async def test_those_who_wait_for_one_lock_are_served_in_their_order(spawn: Spawn) -> None:
    gate, order = asyncio.Semaphore(0), []

    async def work(number: int) -> None:
        async with gate:
            order.append(number)

    tasks = [begin(work(number), spawn) for number in range(4)]
    gate.release()
    for task in tasks:
        assert task is not None
        await task

    assert order == [0, 1, 2, 3]


async def test_cancelled_work_lets_go_of_what_it_held_without_a_collection(spawn: Spawn) -> None:
    class Page:
        """What a question has read."""

    held: list[weakref.ref[Page]] = []

    async def work() -> None:
        page = Page()
        held.append(weakref.ref(page))
        await asyncio.Event().wait()

    gc.disable()
    try:
        task = begin(work(), spawn)
        assert task is not None
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        del task

        assert [page() for page in held] == [None]
    finally:
        gc.enable()
