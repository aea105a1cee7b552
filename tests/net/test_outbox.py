"""What is due to one client: joined, bounded, taken back, and resumed."""

import asyncio

import pytest

from relay.engine.subscription import Subscription
from relay.net.outbox import Outbox
from tests.engine.test_subscription import Reader


class Pipe:
    """A socket that takes as much as the test lets it."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.held = 0
        self.gone = False
        self.drained = asyncio.Event()
        self.drained.set()

    def fill(self, held: int = 0) -> None:
        self.drained.clear()
        self.held = held

    def empty(self) -> None:
        self.held = 0
        self.drained.set()

    def lose(self) -> None:
        self.gone = True
        self.empty()

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def get_write_buffer_size(self) -> int:
        return self.held

    def is_closing(self) -> bool:
        return self.gone

    @property
    def is_full(self) -> bool:
        return not self.drained.is_set()

    async def drain(self) -> None:
        await self.drained.wait()
        if self.gone:
            raise ConnectionResetError("gone")


class Box:
    """An outbox on such a socket, and who owns both."""

    def __init__(self) -> None:
        self.pipe = Pipe()
        self.outbox = Outbox(self.pipe, 100, asyncio.get_running_loop())

    def empty(self) -> None:
        """Let the socket take all that it holds."""
        self.pipe.empty()
        self.outbox.flush()

    @property
    def written(self) -> bytes:
        return b"".join(self.pipe.writes)


@pytest.fixture
async def box() -> Box:
    return Box()


async def turn() -> None:
    """Let everything happen that can happen now."""
    for _ in range(5):
        await asyncio.sleep(0)


def owner(name: str) -> Subscription:
    return Subscription(name, [], Reader())


async def test_what_is_due_at_one_turn_goes_out_as_one_write(box: Box) -> None:
    box.outbox.push(b"a")
    box.outbox.push(b"b", owner("s"))
    box.outbox.push(b"c")
    assert box.pipe.writes == []

    await turn()
    box.outbox.push(b"d")
    await turn()

    assert box.pipe.writes == [b"abc", b"d"]
    assert box.outbox.written == 4


async def test_nothing_is_written_when_nothing_is_due(box: Box) -> None:
    box.outbox.flush()
    await turn()

    assert box.pipe.writes == []


async def test_flush_writes_at_once_and_only_once(box: Box) -> None:
    box.outbox.push(b"a")

    box.outbox.flush()
    await turn()

    assert box.pipe.writes == [b"a"]


async def test_what_is_gathered_waits_for_the_flush(box: Box) -> None:
    box.outbox.gather()
    box.outbox.push(b"a")
    box.outbox.push(b"b")
    await turn()
    assert box.pipe.writes == []

    box.outbox.flush()
    assert box.pipe.writes == [b"ab"]

    box.outbox.push(b"c")
    await turn()
    assert box.pipe.writes == [b"ab", b"c"]


async def test_emptying_writes_what_is_due_also_to_a_full_socket(box: Box) -> None:
    box.pipe.fill()
    box.outbox.push(b"a")

    box.outbox.empty()

    assert box.pipe.writes == [b"a"]


async def test_a_full_socket_is_not_written_to_until_it_has_drained(box: Box) -> None:
    box.pipe.fill()
    box.outbox.push(b"a")
    await turn()
    box.outbox.push(b"b")
    box.outbox.flush()
    await turn()
    assert box.pipe.writes == []

    box.empty()
    await turn()
    box.outbox.push(b"c")
    await turn()

    assert box.pipe.writes == [b"ab", b"c"]


async def test_frames_of_one_subscription_are_taken_back_and_the_others_stay_in_order(box: Box) -> None:
    mine, other = owner("mine"), owner("other")
    box.pipe.fill()
    for frame, whose in ((b"1", None), (b"2", mine), (b"3", other), (b"4", mine), (b"5", None)):
        box.outbox.push(frame, whose)

    box.outbox.drop(mine)
    assert box.outbox.unsent == 3
    box.outbox.drop(owner("mine"))
    box.empty()
    await turn()

    assert box.written == b"135"


async def test_dropping_everything_leaves_nothing_to_write(box: Box) -> None:
    mine = owner("mine")
    box.outbox.push(b"1", mine)

    box.outbox.drop(mine)
    await turn()

    assert box.pipe.writes == []
    box.outbox.push(b"2", mine)
    await turn()
    assert box.pipe.writes == [b"2"]


async def test_it_is_over_when_a_full_socket_and_the_queue_hold_more_than_the_bound(box: Box) -> None:
    box.outbox.push(b"x" * 200)
    assert not box.outbox.is_over, "the socket takes it all at once"
    await turn()

    box.pipe.fill(held=60)
    box.outbox.push(b"x" * 40)
    assert box.outbox.unsent == 100
    assert not box.outbox.is_over

    box.outbox.push(b"x")
    assert box.outbox.is_over

    box.empty()
    await turn()
    assert not box.outbox.is_over
    assert box.outbox.unsent == 0


async def test_room_is_there_at_once_unless_the_socket_is_full(box: Box) -> None:
    await box.outbox.room()

    box.pipe.fill()
    box.outbox.push(b"a")
    waiting = asyncio.ensure_future(box.outbox.room())
    await turn()
    assert not waiting.done()

    box.empty()
    async with asyncio.timeout(10):
        await waiting
    await turn()
    assert box.written == b"a"


async def test_a_socket_that_is_gone_takes_what_is_due_with_it(box: Box) -> None:
    box.pipe.gone = True
    box.outbox.push(b"a")
    await turn()

    assert box.pipe.writes == []
    assert box.outbox.unsent == 0


async def test_a_socket_that_goes_while_it_is_full_takes_what_is_due_with_it(box: Box) -> None:
    box.pipe.fill()
    box.outbox.push(b"a")
    await turn()
    waiting = asyncio.ensure_future(box.outbox.room())
    await turn()

    box.pipe.lose()
    await turn()

    with pytest.raises(ConnectionResetError):
        waiting.result()
    box.outbox.flush()
    assert box.pipe.writes == []
    assert box.outbox.unsent == 0


async def test_after_a_lost_socket_pushing_is_harmless(box: Box) -> None:
    box.pipe.fill()
    box.outbox.push(b"a")
    await turn()
    box.pipe.lose()
    box.outbox.flush()

    box.outbox.push(b"b")
    await turn()

    assert box.pipe.writes == []
    assert box.outbox.unsent == 0
