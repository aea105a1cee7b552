"""What the processes of one machine share without messages: counters, and buckets per address.

One piece of anonymous shared memory, handed to every worker by descriptor. Each process writes its own
counters; the buckets are written by all. Nothing is locked: two workers that take from one bucket in the
same microsecond may together take one too few, which no limit minds.
"""

import mmap
import os
import time
from bisect import bisect_left
from enum import IntEnum
from hashlib import blake2b

from relay.engine.limits import Rate
from relay.nostr.reasons import Prefix

SLOTS = 16_384
"""Addresses that are told apart at a time; beyond it the longest idle ones are forgotten."""
PROBES = 8
MAX_PROCESSES = 256


class Counter(IntEnum):
    """What every worker counts."""

    EVENTS_ACCEPTED = 0
    EVENTS_DUPLICATE = 1
    EVENTS_REFUSED = 2
    REQUESTS = 3
    COUNTS = 4
    REQUESTS_REFUSED = 5
    STORED_SENT = 6
    LIVE_SENT = 7
    CONNECTIONS_OPENED = 8
    CONNECTIONS_REFUSED = 9
    CONNECTIONS_STALLED = 10
    SUBSCRIPTIONS_TOO_SLOW = 11
    MESSAGES_INVALID = 12
    CONNECTIONS_OPEN = 13
    """Goes down too."""
    SUBSCRIPTIONS_OPEN = 14
    """Goes down too."""
    REFUSED_AUTH_REQUIRED = 15
    """Events, by the prefix of the reason, as the others with such names."""
    REFUSED_BLOCKED = 16
    REFUSED_ERROR = 17
    REFUSED_INVALID = 18
    REFUSED_MUTE = 19
    REFUSED_POW = 20
    REFUSED_RATE_LIMITED = 21
    REFUSED_RESTRICTED = 22
    REFUSED_OTHERWISE = 23
    BYTES_RECEIVED = 24
    BYTES_SENT = 25
    EVENTS_WRITTEN = 26
    """In all batches that were given to the writer."""
    VERIFYING_MICROSECONDS = 27
    QUESTIONS_SLOW = 28
    BYTES_UNSENT = 29
    """Held for clients now, as the next three are what is now."""
    READERS_SLOW = 30
    EVENTS_WAITING = 31
    CONNECTIONS_HTTP = 32


NOW = frozenset(
    {
        Counter.CONNECTIONS_OPEN,
        Counter.SUBSCRIPTIONS_OPEN,
        Counter.BYTES_UNSENT,
        Counter.READERS_SLOW,
        Counter.EVENTS_WAITING,
        Counter.CONNECTIONS_HTTP,
    }
)
"""What goes up and down, and is nothing for a process that is gone."""


REFUSALS: dict[str, Counter] = {
    Prefix.AUTH_REQUIRED: Counter.REFUSED_AUTH_REQUIRED,
    Prefix.BLOCKED: Counter.REFUSED_BLOCKED,
    Prefix.ERROR: Counter.REFUSED_ERROR,
    Prefix.INVALID: Counter.REFUSED_INVALID,
    Prefix.MUTE: Counter.REFUSED_MUTE,
    Prefix.POW: Counter.REFUSED_POW,
    Prefix.RATE_LIMITED: Counter.REFUSED_RATE_LIMITED,
    Prefix.RESTRICTED: Counter.REFUSED_RESTRICTED,
}
"""By the prefix of the reason; there are no others that an event is usually refused with."""


class Histogram(IntEnum):
    """What takes time, and how often how much."""

    QUESTION = 0
    """From a REQ to its EOSE."""
    WRITE = 1
    """From a batch of admitted events to its commit."""


BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""In seconds: the upper ends of the histograms' buckets but for the last, which has none."""
_CELLS = len(BOUNDS) + 2
"""Of a histogram: its buckets, and the sum in microseconds."""


_ROW = len(Counter) + len(Histogram) * _CELLS
"""Numbers of one process."""


class Bucket(IntEnum):
    """What is limited per address."""

    EVENTS = 0
    REQUESTS = 1
    OTHERS = 2
    """AUTH, and what makes no sense."""


class Board:
    """The shared memory, as one of its processes sees it."""

    def __init__(self, fd: int, process: int, processes: int) -> None:
        """Map the memory behind `fd`; `process` is this one's place, 0 ≤ process < processes."""
        self.fd = fd
        self.process = process
        self.processes = processes
        self._memory = mmap.mmap(fd, _size(processes))
        view = memoryview(self._memory)
        counters_end = processes * _ROW * 8
        buckets = SLOTS * len(Bucket)
        self._counters = view[:counters_end].cast("Q")
        self._keys = view[counters_end : counters_end + SLOTS * 8].cast("Q")
        tokens_at = counters_end + SLOTS * 8
        self._tokens = view[tokens_at : tokens_at + buckets * 8].cast("d")
        self._touched = view[tokens_at + buckets * 8 : tokens_at + buckets * 16].cast("d")
        self._connections = view[tokens_at + buckets * 16 :].cast("H")
        self._base = process * _ROW

    @classmethod
    def create(cls, processes: int) -> "Board":
        """Make new shared memory for so many processes; `fd` is for the others."""
        fd = os.memfd_create("torv-board")
        os.ftruncate(fd, _size(processes))
        return cls(fd, 0, processes)

    def add(self, counter: Counter, amount: int = 1) -> None:
        """Count, in this process's own row."""
        self._counters[self._base + counter] += amount

    def show(self, counter: Counter, value: int) -> None:
        """Say what is now, for this process."""
        self._counters[self._base + counter] = value

    def observe(self, histogram: Histogram, seconds: float) -> None:
        """Count something that took so long."""
        place = self._base + len(Counter) + histogram * _CELLS
        self._counters[place + bisect_left(BOUNDS, seconds)] += 1
        self._counters[place + _CELLS - 1] += int(seconds * 1e6)

    def total(self, counter: Counter) -> int:
        """Return the sum over all processes."""
        return sum(self._counters[counter::_ROW])

    def each(self, counter: Counter) -> list[int]:
        """Return what every process has counted, by its place."""
        return list(self._counters[counter::_ROW])

    def distribution(self, histogram: Histogram) -> tuple[list[int], float]:
        """Return how many took as long as each of `BOUNDS` and not longer, or longer than all, and the sum.

        In seconds, over all processes.
        """
        cells = [
            sum(self._counters[len(Counter) + histogram * _CELLS + cell :: _ROW]) for cell in range(_CELLS)
        ]
        return cells[:-1], cells[-1] / 1e6

    def forget(self, process: int) -> None:
        """A process died: its connections are gone; what it had counted stays."""
        base = process * _ROW
        for counter in NOW:
            self._counters[base + counter] = 0
        for slot in range(SLOTS):
            self._connections[slot * self.processes + process] = 0

    def slot(self, address: str) -> int:
        """Return the place of an address's buckets; it stays its own while it has connections.

        Where all places it could have are others' own, it shares one of them.
        """
        key = int.from_bytes(blake2b(address.encode(), digest_size=8).digest(), "little") or 1
        first = key % SLOTS
        oldest: int | None = None
        oldest_touched = float("inf")
        for probe in range(PROBES):
            slot = (first + probe) % SLOTS
            if self._keys[slot] == key:
                return slot
            touched = max(self._touched[slot * len(Bucket) + bucket] for bucket in Bucket)
            if touched < oldest_touched and self.connections(slot) == 0:
                oldest, oldest_touched = slot, touched
        if oldest is None:
            return first
        self._keys[oldest] = key
        now = time.monotonic()
        for bucket in Bucket:
            # Any rate's bucket is full after a day.
            self._tokens[oldest * len(Bucket) + bucket] = 0.0
            self._touched[oldest * len(Bucket) + bucket] = now - 86_400
        return oldest

    def take(self, slot: int, bucket: Bucket, rate: Rate) -> bool:
        """Take one token of an address; False when there is none, or always True for no limit."""
        if not rate.most:
            return True
        place = slot * len(Bucket) + bucket
        now = time.monotonic()
        tokens = rate.refill(self._tokens[place], now - self._touched[place])
        self._touched[place] = now
        if tokens < 1:
            self._tokens[place] = tokens
            return False
        self._tokens[place] = tokens - 1
        return True

    def spend(self, name: str, rate: Rate) -> bool:
        """Take one token of the bucket of this name, which is no address; see `take`."""
        return self.take(self.slot(name), Bucket.EVENTS, rate)

    def drain(self, name: str, rate: Rate, amount: float) -> bool:
        """Take any amount of the bucket of this name; see `relay.engine.limits.Drain`."""
        place = self.slot(name) * len(Bucket) + Bucket.EVENTS
        now = time.monotonic()
        tokens = rate.refill(self._tokens[place], now - self._touched[place]) - amount
        self._touched[place] = now
        self._tokens[place] = tokens
        return tokens > 0

    def connect(self, slot: int, most: int) -> bool:
        """Count one more connection of an address; False when it has `most` (0: no limit) already."""
        if most and self.connections(slot) >= most:
            return False
        place = slot * self.processes + self.process
        if self._connections[place] == 0xFFFF:
            return False
        self._connections[place] += 1
        return True

    def disconnect(self, slot: int) -> None:
        """Count one connection less."""
        self._connections[slot * self.processes + self.process] -= 1

    def connections(self, slot: int) -> int:
        """Return the address's open connections, over all processes."""
        return sum(self._connections[slot * self.processes : (slot + 1) * self.processes])


def _size(processes: int) -> int:
    if not 1 <= processes <= MAX_PROCESSES:
        raise ValueError(f"1 to {MAX_PROCESSES} processes")
    return processes * _ROW * 8 + SLOTS * (8 + len(Bucket) * 16 + processes * 2)
