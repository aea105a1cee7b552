"""Counters and buckets in shared memory."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from relay.engine.limits import Rate
from relay.net import board as boards
from relay.net.board import MAX_PROCESSES, Board, Bucket, Counter, Histogram

NO_LIMIT = 0


class Monotonic:
    """The monotonic clock, turned by the test."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    turned = Monotonic()
    monkeypatch.setattr(time, "monotonic", turned)
    return turned


@pytest.fixture
def make(clock: Monotonic) -> Iterator[Callable[[int], Board]]:
    made: list[Board] = []

    def create(processes: int) -> Board:
        made.append(Board.create(processes))
        return made[-1]

    yield create
    for board in made:
        os.close(board.fd)


@pytest.fixture
def board(make: Callable[[int], Board]) -> Board:
    return make(1)


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch, make: Callable[[int], Board]) -> Board:
    """A board with room for 8 addresses."""
    monkeypatch.setattr(boards, "SLOTS", 8)
    return make(1)


def takes(board: Board, address: str, rate: Rate, bucket: Bucket = Bucket.EVENTS) -> int:
    """Return how many tokens the address gets now, 100 at most."""
    slot = board.slot(address)
    return sum(board.take(slot, bucket, rate) for _ in range(100))


def addresses(count: int) -> list[str]:
    return [f"192.0.2.{n}" for n in range(count)]


def test_a_new_address_has_a_minutes_worth(board: Board) -> None:
    assert takes(board, "192.0.2.1", Rate(10)) == 10


def test_a_bucket_refills_evenly(board: Board, clock: Monotonic) -> None:
    takes(board, "192.0.2.1", Rate(60))

    clock.now += 3.5

    assert takes(board, "192.0.2.1", Rate(60)) == 3
    clock.now += 0.5
    assert takes(board, "192.0.2.1", Rate(60)) == 1


def test_asking_an_empty_bucket_does_not_keep_it_empty(board: Board, clock: Monotonic) -> None:
    takes(board, "192.0.2.1", Rate(60))

    for _ in range(8):
        clock.now += 0.125
        taken = takes(board, "192.0.2.1", Rate(60))

    assert taken == 1


def test_a_bucket_never_holds_more_than_a_minutes_worth(board: Board, clock: Monotonic) -> None:
    takes(board, "192.0.2.1", Rate(10))

    clock.now += 10**6

    assert takes(board, "192.0.2.1", Rate(10)) == 10


def test_no_limit_always_gives(board: Board) -> None:
    assert takes(board, "192.0.2.1", Rate(NO_LIMIT)) == 100


def test_buckets_and_addresses_are_told_apart(board: Board) -> None:
    takes(board, "192.0.2.1", Rate(10))

    assert takes(board, "192.0.2.1", Rate(10), Bucket.REQUESTS) == 10
    assert takes(board, "2001:db8::1", Rate(10)) == 10
    assert takes(board, "", Rate(10)) == 10


def test_an_address_keeps_its_place(board: Board) -> None:
    first = board.slot("192.0.2.1")

    assert [board.slot(address) for address in addresses(20)][1] == first
    assert board.slot("192.0.2.1") == first


def test_reconnecting_does_not_fill_the_bucket(board: Board) -> None:
    slot = board.slot("192.0.2.1")
    board.connect(slot, NO_LIMIT)
    takes(board, "192.0.2.1", Rate(10))
    board.disconnect(slot)

    assert takes(board, "192.0.2.1", Rate(10)) == 0


def test_the_longest_idle_address_without_connections_is_forgotten(crowded: Board, clock: Monotonic) -> None:
    for address in addresses(8):
        clock.now += 1
        takes(crowded, address, Rate(10))
    slots = {address: crowded.slot(address) for address in addresses(8)}
    crowded.connect(slots["192.0.2.0"], NO_LIMIT)

    assert crowded.slot("192.0.2.99") == slots["192.0.2.1"]


def test_whoever_takes_a_place_over_has_a_full_bucket_and_no_connections(
    crowded: Board, clock: Monotonic
) -> None:
    for address in addresses(8):
        takes(crowded, address, Rate(10))

    assert crowded.connections(crowded.slot("192.0.2.99")) == 0
    assert takes(crowded, "192.0.2.99", Rate(10)) == 10


def test_no_place_with_connections_is_taken_over(crowded: Board) -> None:
    slots = {address: crowded.slot(address) for address in addresses(8)}
    assert sorted(slots.values()) == list(range(8))
    for address, slot in slots.items():
        crowded.connect(slot, NO_LIMIT)
        takes(crowded, address, Rate(10))

    crowded.slot("192.0.2.99")

    assert {address: crowded.slot(address) for address in addresses(8)} == slots
    assert [takes(crowded, address, Rate(10)) for address in slots] == [0] * 8


def test_an_address_for_which_no_place_is_free_shares_one_until_there_is(crowded: Board) -> None:
    slots = [crowded.slot(address) for address in addresses(8)]
    for slot in slots:
        crowded.connect(slot, NO_LIMIT)
    shared = crowded.slot("192.0.2.99")
    assert crowded.connect(shared, NO_LIMIT)
    assert crowded.connections(shared) == 2
    crowded.disconnect(shared)

    crowded.disconnect(slots[3])

    assert crowded.slot("192.0.2.99") == slots[3]


def test_connections_are_limited_per_address(board: Board) -> None:
    slot = board.slot("192.0.2.1")

    assert [board.connect(slot, 2) for _ in range(3)] == [True, True, False]
    assert board.connections(slot) == 2
    assert board.connect(board.slot("192.0.2.2"), 2)

    board.disconnect(slot)
    assert board.connect(slot, 2)


def test_without_a_limit_the_memory_is_the_limit(board: Board) -> None:
    slot = board.slot("192.0.2.1")

    assert all(board.connect(slot, NO_LIMIT) for _ in range(0xFFFF))
    assert not board.connect(slot, NO_LIMIT)
    assert board.connections(slot) == 0xFFFF


def other(board: Board, process: int) -> Board:
    """Return the same memory as another process sees it."""
    return Board(board.fd, process, board.processes)


def test_processes_share_buckets_and_connections(make: Callable[[int], Board]) -> None:
    first = make(2)
    second = other(first, 1)

    assert takes(first, "192.0.2.1", Rate(10)) == 10
    assert takes(second, "192.0.2.1", Rate(10)) == 0
    slot = first.slot("192.0.2.1")
    assert first.connect(slot, 2)
    assert second.connect(slot, 2)
    assert not first.connect(slot, 2)
    second.disconnect(slot)
    assert first.connections(slot) == 1


def test_a_named_bucket_is_shared_too_and_is_no_address(make: Callable[[int], Board]) -> None:
    board = make(2)

    assert board.spend("wraps 192.0.2.1", Rate(2))
    assert other(board, 1).spend("wraps 192.0.2.1", Rate(2))
    assert not board.spend("wraps 192.0.2.1", Rate(2))
    assert takes(board, "192.0.2.1", Rate(2)) == 2


def test_every_process_counts_in_its_own_row_and_totals_are_sums(make: Callable[[int], Board]) -> None:
    first = make(3)
    second, third = other(first, 1), other(first, 2)

    first.add(Counter.LIVE_SENT)
    second.add(Counter.LIVE_SENT, 10)
    third.add(Counter.STORED_SENT, 100)
    third.add(Counter.CONNECTIONS_OPEN)
    third.add(Counter.CONNECTIONS_OPEN, -1)

    for view in (first, second, third):
        assert view.total(Counter.LIVE_SENT) == 11
        assert view.total(Counter.STORED_SENT) == 100
        assert view.total(Counter.CONNECTIONS_OPEN) == 0


def test_counters_hold_more_than_32_bits(board: Board) -> None:
    board.add(Counter.LIVE_SENT, 2**40)

    assert board.total(Counter.LIVE_SENT) == 2**40


def test_a_dead_process_has_no_connections_and_its_counts_stay(make: Callable[[int], Board]) -> None:
    first = make(2)
    second = other(first, 1)
    slot = first.slot("192.0.2.1")
    for view in (first, second):
        view.connect(slot, NO_LIMIT)
        view.add(Counter.CONNECTIONS_OPEN)
        view.add(Counter.SUBSCRIPTIONS_OPEN, 3)
        view.add(Counter.LIVE_SENT, 5)

    first.forget(1)

    assert first.connections(slot) == 1
    assert first.total(Counter.CONNECTIONS_OPEN) == 1
    assert first.total(Counter.SUBSCRIPTIONS_OPEN) == 3
    assert first.total(Counter.LIVE_SENT) == 10


@pytest.mark.parametrize("processes", [0, MAX_PROCESSES + 1])
def test_only_so_many_processes_fit(processes: int) -> None:
    with pytest.raises(ValueError, match="1 to 256 processes"):
        Board.create(processes)


def test_the_memory_reaches_another_process_by_descriptor() -> None:
    board = Board.create(2)
    taking = [sys.executable, "-c", TAKE_ALL, str(board.fd)]

    subprocess.run(taking, pass_fds=[board.fd], check=True, timeout=30)

    assert board.total(Counter.REQUESTS) == 1
    assert takes(board, "192.0.2.1", Rate(1)) == 0
    assert board.connections(board.slot("192.0.2.1")) == 1
    os.close(board.fd)


TAKE_ALL = """
import sys
from relay.engine.limits import Rate
from relay.net.board import Board, Bucket, Counter
board = Board(int(sys.argv[1]), 1, 2)
slot = board.slot("192.0.2.1")
board.connect(slot, 0)
board.add(Counter.REQUESTS, sum(board.take(slot, Bucket.EVENTS, Rate(1)) for _ in range(100)))
"""


def test_what_takes_time_is_counted_by_how_long(make: Callable[[int], Board]) -> None:
    board = make(2)
    other = Board(board.fd, 1, 2)
    for seconds in (0.0005, 0.001, 0.003, 20.0):
        board.observe(Histogram.QUESTION, seconds)
    other.observe(Histogram.QUESTION, 0.003)

    counts, total = board.distribution(Histogram.QUESTION)

    assert counts == [2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert total == pytest.approx(20.0075)
    assert board.distribution(Histogram.WRITE) == ([0] * 14, 0.0)
    assert board.total(Counter.EVENTS_ACCEPTED) == 0


def test_what_is_now_is_said_by_each_process_and_nothing_for_one_that_died(
    make: Callable[[int], Board],
) -> None:
    board = make(2)
    other = Board(board.fd, 1, 2)
    board.show(Counter.BYTES_UNSENT, 10)
    other.show(Counter.BYTES_UNSENT, 5)
    other.show(Counter.BYTES_UNSENT, 7)
    assert board.each(Counter.BYTES_UNSENT) == [10, 7]

    board.forget(1)

    assert board.each(Counter.BYTES_UNSENT) == [10, 0]
