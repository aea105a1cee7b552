"""Following the log: bells that fit, that are lost, overlap or overtake, and a store that fails."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from relay.engine import tail as tails
from relay.engine.tail import Tail
from relay.store.api import Bell, Seq, Stored, StoreError
from relay.store.memory import MemoryStore
from tests.events import ALICE, Clock, note, write


class Tower(MemoryStore):
    """A store whose bells the test rings."""

    def __init__(self) -> None:
        super().__init__()
        self.ring: Callable[[Bell], None]
        self.failures = 0
        """How many more times the log cannot be read."""
        self.reads = 0
        self.follows: asyncio.Queue[bool] = asyncio.Queue()
        """What it was told of following."""
        self.while_reading: Callable[[], None] | None = None
        """Called once, after the first page of the log."""

    def listen(self, on_bell: Callable[[Bell], None]) -> None:
        self.ring = on_bell

    def follow(self, wanted: bool) -> None:
        self.follows.put_nowait(wanted)

    async def log(self, *, after: Seq, upto: Seq, now: int) -> AsyncIterator[list[Stored]]:
        self.reads += 1
        async for page in super().log(after=after, upto=upto, now=now):
            for row in page:
                if self.failures:
                    self.failures -= 1
                    raise StoreError("the disk is gone")
                yield [row]
                yield []
                if self.while_reading is not None:
                    called, self.while_reading = self.while_reading, None
                    called()


class Follower:
    """A tail, and what it passed on."""

    def __init__(self, clock: Clock) -> None:
        self.store = Tower()
        self.got: list[int] = []
        self.changed = asyncio.Event()
        self.wanted = True
        self.tail = Tail(self.store, self._take, now=clock, wanted=lambda: self.wanted)
        self.rows: list[Stored] = []
        self.written = 0

    def _take(self, rows: Sequence[Stored]) -> None:
        assert rows
        self.got.extend(row.seq for row in rows)
        self.changed.set()

    async def commit(self, count: int = 1, **more: object) -> Bell:
        """Store so many events in one commit; return its bell, not rung yet."""
        after = await self.store.head()
        events = [note(ALICE, f"{self.written + n}") for n in range(count)]
        self.written += count
        await self.store.write([write(event, **more) for event in events])
        upto = await self.store.head()
        rows = [
            row async for page in MemoryStore.log(self.store, after=after, upto=upto, now=0) for row in page
        ]
        return Bell(after, upto, tuple(rows))


@pytest.fixture
async def follower(clock: Clock) -> Follower:
    made = Follower(clock)
    await made.commit(2)
    await made.tail.start()
    return made


async def test_it_begins_at_the_present_end(follower: Follower) -> None:
    await follower.tail.catch_up()

    assert follower.got == []
    assert follower.tail.mark == 2


async def test_a_bell_that_continues_brings_its_rows_along(follower: Follower) -> None:
    follower.store.ring(await follower.commit(2))
    follower.store.ring(await follower.commit())

    assert follower.got == [3, 4, 5]
    assert follower.store.reads == 0


async def test_a_bell_that_skips_makes_it_read_the_log(follower: Follower) -> None:
    await follower.commit()
    follower.store.ring(await follower.commit())
    assert follower.got == []

    await follower.tail.catch_up()

    assert follower.got == [3, 4]


async def test_a_lost_bell_is_made_up_for(follower: Follower) -> None:
    await follower.commit(3)

    await follower.tail.catch_up()

    assert follower.got == [3, 4, 5]


async def test_bells_that_overlap_or_come_twice_or_late_repeat_nothing(follower: Follower) -> None:
    first = await follower.commit()
    second = await follower.commit()
    assert first.rows is not None
    assert second.rows is not None

    follower.store.ring(second)
    follower.store.ring(first)
    follower.store.ring(Bell(first.after, second.upto, first.rows + second.rows))
    follower.store.ring(second)
    await follower.tail.catch_up()
    follower.store.ring(first)
    follower.store.ring(second)
    await follower.tail.catch_up()

    assert follower.got == [3, 4]
    assert follower.store.reads == 0


async def test_a_bell_that_begins_before_the_mark_and_ends_after_it_repeats_nothing(
    follower: Follower,
) -> None:
    first = await follower.commit()
    second = await follower.commit()
    assert first.rows is not None
    assert second.rows is not None
    follower.store.ring(first)

    follower.store.ring(Bell(first.after, second.upto, first.rows + second.rows))
    assert follower.got == [3]

    await follower.tail.catch_up()
    assert follower.got == [3, 4]


async def test_a_bell_without_rows_makes_it_read_the_log(follower: Follower) -> None:
    bell = await follower.commit()

    follower.store.ring(Bell(bell.after, bell.upto, None))
    assert follower.got == []

    await follower.tail.catch_up()
    assert follower.got == [3]


async def test_rows_that_are_not_live_only_move_the_mark(follower: Follower) -> None:
    follower.store.ring(await follower.commit(2, live=False))
    assert follower.tail.mark == 4

    await follower.commit(live=False)
    await follower.tail.catch_up()

    assert follower.got == []
    assert follower.tail.mark == 5
    follower.store.ring(await follower.commit())
    assert follower.got == [6]


async def test_a_bell_that_rings_while_it_reads_does_not_overtake(follower: Follower) -> None:
    await follower.commit(2)
    bell = await follower.commit()
    # Contiguous with what has been read by then, but not with what is still being read.
    follower.store.while_reading = lambda: follower.store.ring(Bell(Seq(3), bell.upto, bell.rows))

    await follower.tail.catch_up()

    assert follower.got == [3, 4, 5]


async def test_without_listeners_it_reads_nothing(follower: Follower) -> None:
    follower.wanted = False
    await follower.commit(2)

    await follower.tail.catch_up()

    assert (follower.got, follower.store.reads, follower.tail.mark) == ([], 0, 4)


async def test_without_listeners_it_asks_for_no_bells_until_there_is_one(follower: Follower) -> None:
    follower.wanted = False
    running = asyncio.create_task(follower.tail.run())
    async with asyncio.timeout(20):
        assert await follower.store.follows.get() is False

        follower.wanted = True
        follower.tail.follow()
        follower.tail.follow()

        assert await follower.store.follows.get() is True
    assert follower.store.follows.empty()
    running.cancel()


async def test_a_failure_half_way_repeats_and_loses_nothing(follower: Follower) -> None:
    await follower.commit(3)

    def fail_next() -> None:
        follower.store.failures = 1

    follower.store.while_reading = fail_next
    with pytest.raises(StoreError):
        await follower.tail.catch_up()
    assert follower.got == [3]

    await follower.tail.catch_up()

    assert follower.got == [3, 4, 5]


async def test_after_a_failure_bells_carry_rows_again(follower: Follower) -> None:
    await follower.commit()
    follower.store.failures = 1
    with pytest.raises(StoreError):
        await follower.tail.catch_up()
    await follower.tail.catch_up()

    follower.store.ring(await follower.commit())

    assert follower.got == [3, 4]


async def test_it_goes_on_by_itself_after_failures_and_without_bells(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(tails, "RETRY_SECONDS", 0.01)
    running = asyncio.create_task(follower.tail.run())
    follower.store.failures = 2
    await follower.commit()

    async with asyncio.timeout(10):
        await follower.changed.wait()

    running.cancel()
    assert follower.got == [3]
    assert follower.store.reads == 3


async def test_a_bell_wakes_it_without_waiting_for_the_poll(
    follower: Follower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tails, "POLL_SECONDS", 3600)
    running = asyncio.create_task(follower.tail.run())
    bell = await follower.commit()

    follower.store.ring(Bell(bell.after, bell.upto, None))
    async with asyncio.timeout(10):
        await follower.changed.wait()

    running.cancel()
    assert follower.got == [3]


async def test_expired_rows_are_not_passed_on(follower: Follower, clock: Clock) -> None:
    await follower.commit(expires_at=clock() + 5)
    await follower.commit()
    clock.advance(5)

    await follower.tail.catch_up()

    assert follower.got == [4]


async def test_a_commit_between_listening_and_looking_at_the_end_is_no_gap(clock: Clock) -> None:
    fresh = Follower(clock)
    head = fresh.store.head

    async def slow_head() -> Seq:
        at = await head()
        fresh.store.ring(bell)
        return at

    bell = await fresh.commit()
    fresh.store.head = slow_head  # type: ignore[method-assign]  # rings in the middle of start
    await fresh.tail.start()
    fresh.store.head = head  # type: ignore[method-assign]

    fresh.store.ring(await fresh.commit())

    assert fresh.got == [1, 2]
    assert fresh.tail.mark == 2
