"""Whose slice is next: small questions first, large ones in turn, nobody for ever."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from relay.store.turns import LARGE_SECONDS, Account, Turns


@pytest.fixture
def turns() -> Turns:
    return Turns()


def large(turns: Turns) -> Account:
    """The account of somebody whose question has taken long already."""
    account = Account(turns)
    account.seconds = 10 * LARGE_SECONDS
    return account


async def work(account: Account, name: str, slices: int, done: list[str]) -> None:
    for _ in range(slices):
        await account.turns.take(account)
        done.append(name)


async def all_of(*working: Coroutine[Any, Any, None]) -> None:
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        for one in working:
            tasks.create_task(one)


def test_a_small_question_does_not_wait_where_nobody_does(turns: Turns) -> None:
    async def ask() -> None:
        taking = turns.take(Account(turns))
        with pytest.raises(StopIteration):
            taking.send(None)

    asyncio.run(ask())


async def test_large_questions_have_their_slices_in_turn(turns: Turns) -> None:
    done: list[str] = []

    await all_of(*(work(large(turns), name, 3, done) for name in "abc"))

    assert done == ["a", "b", "c"] * 3


async def test_several_questions_of_one_client_have_the_turns_of_one(turns: Turns) -> None:
    done: list[str] = []
    greedy = large(turns)

    await all_of(*(work(greedy, f"{n}", 2, done) for n in range(4)), work(large(turns), "other", 2, done))

    assert done[:4] == ["0", "other", "1", "other"]


async def test_at_one_turn_of_the_loop_there_is_one_large_slice(turns: Turns) -> None:
    done: list[str] = []
    at_once: list[int] = []

    async def watch() -> None:
        while len(done) < 6:
            before = len(done)
            await asyncio.sleep(0)
            at_once.append(len(done) - before)

    await all_of(watch(), *(work(large(turns), name, 3, done) for name in "ab"))

    assert max(at_once) == 1


async def test_a_small_question_comes_before_the_large_ones_that_wait(turns: Turns) -> None:
    done: list[str] = []

    await all_of(
        *(work(large(turns), "large", 5, done) for _ in range(16)), work(Account(turns), "small", 5, done)
    )

    assert done[:5] == ["small"] * 5


async def test_large_questions_go_on_however_many_small_ones_there_are(turns: Turns) -> None:
    done: list[str] = []
    is_over = False

    async def ask_for_ever() -> None:
        # Small ones that have to wait, for the turn of the loop is used up.
        while not is_over:
            turns._ends_at = 0.0 if turns._ends_at is not None else None
            await turns.take(Account(turns))

    async def finish() -> None:
        nonlocal is_over
        await work(large(turns), "large", 10, done)
        is_over = True

    await all_of(*(ask_for_ever() for _ in range(20)), finish())

    assert done == ["large"] * 10


async def test_a_question_that_is_given_up_leaves_no_trace(turns: Turns) -> None:
    account, done = large(turns), list[str]()
    given_up = [asyncio.create_task(work(account, "given up", 1, done)) for _ in range(100)]
    await asyncio.sleep(0)
    for task in given_up:
        task.cancel()

    await all_of(work(account, "kept", 1, done))

    assert done == ["kept"]
    assert not turns._large


def test_who_has_asked_for_much_asks_for_little_again_after_some_small_questions(turns: Turns) -> None:
    account = large(turns)

    was_large = []
    for _ in range(6):
        account.asks()
        was_large.append(account.is_large)

    assert was_large == [True, True, True, False, False, False]


def test_a_step_puts_its_time_on_the_account(turns: Turns) -> None:
    account = Account(turns)

    assert account.measure(lambda: sum(range(100_000))) == 4_999_950_000

    assert account.seconds > 0
