"""Measuring what a question costs: its own work, by a clock that only work moves."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from relay.engine.metering import Metered, metered
from relay.engine.sifting import Exhausted
from relay.nostr.reasons import Prefix, Refusal

ENOUGH = Refusal(Prefix.RESTRICTED, "enough")


class Work:
    """Takes time when it says so, and notes what was paid."""

    def __init__(self, most: float = 100.0) -> None:
        self.now = 0.0
        self.most = most
        self.seconds = 0.0
        self.rows = 0
        self.ended = False

    def clock(self) -> float:
        return self.now

    def charge(self, seconds: float, rows: int) -> Refusal | None:
        self.seconds += seconds
        self.rows += rows
        return ENOUGH if self.seconds > self.most else None

    async def pages(self) -> AsyncIterator[list[int]]:
        try:
            for number in range(5):
                self.now += 1
                await asyncio.sleep(0)
                self.now += 1
                yield [number] * 3
        finally:
            await asyncio.sleep(0)
            self.ended = True


async def test_all_steps_and_all_rows_are_paid_for() -> None:
    work = Work()

    found = [page async for page in metered(work.pages(), work.charge, work.clock)]

    assert (len(found), work.seconds, work.rows, work.ended) == (5, 10.0, 15, True)


async def test_time_that_others_take_is_not_counted() -> None:
    work = Work()

    async def wait() -> str:
        await asyncio.sleep(0)
        return "done"

    waiting = asyncio.create_task(_await(Metered(wait(), work.charge, work.clock)))
    await asyncio.sleep(0)
    work.now += 50  # somebody else's turn

    assert (await waiting, work.seconds) == ("done", 0.0)


async def _await(work: Metered[str]) -> str:
    return await work


async def test_it_ends_in_the_middle_and_lets_go_of_what_it_held() -> None:
    work = Work(most=4.5)
    found: list[int] = []

    with pytest.raises(Exhausted, match="restricted: enough"):
        async for page in metered(work.pages(), work.charge, work.clock):
            found += page[:1]

    assert (found, work.ended) == ([0, 1], True)


async def test_who_is_not_waited_for_is_cancelled_as_without_it() -> None:
    work = Work()

    async def wait() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            work.ended = True
        return "never"

    waiting = asyncio.create_task(_await(Metered(wait(), work.charge, work.clock)))
    await asyncio.sleep(0)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.ended


async def test_errors_pass() -> None:
    work = Work()

    async def fail() -> str:
        await asyncio.sleep(0)
        raise LookupError("lost")

    with pytest.raises(LookupError, match="lost"):
        await Metered(fail(), work.charge, work.clock)
