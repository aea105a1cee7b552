"""Negentropy, protocol V1: two sides find out what the other one lacks (NIP-77, appendix).

Sets are split into ranges of (created_at, id). The sides exchange fingerprints of ranges, split those
that differ, and exchange ids where few are left. Pure: bytes in, bytes out; a long answer is made in
steps, between which others get their turn.

Frames equal those of the reference implementation byte by byte, with one exception: where a frame is
full, the fingerprint of the rest covers all that was not said yet. The reference leaves out the range
that did not fit, and then two sides may find the rest equal that is not.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256
from heapq import merge
from itertools import chain, islice, pairwise
from typing import TypeVar

from relay.nostr.reasons import Refused, invalid

_T = TypeVar("_T")

VERSION = 0x61
ID_BYTES = 32
FINGERPRINT_BYTES = 16
MIN_FRAME_BYTES = 4_096
"""Below it no progress could be promised."""

Item = tuple[int, bytes]
"""(created_at in unix seconds, id as 32 bytes)."""
Bound = tuple[int, bytes]
"""(created_at, the beginning of an id): the first item that a range does not hold any more."""

INFINITY = 2**64 - 1
"""The time of the bound behind everything."""
_END: Bound = (INFINITY, b"")
_HIGHEST_ID = b"\xff" * ID_BYTES

_BUCKETS = 16
_SPLIT_FROM = 2 * _BUCKETS
"""A range with fewer items than this is sent as ids."""
_RESERVED_BYTES = 200
"""Kept free in a frame, for the bounds and the fingerprint that end it."""

_SUMMED = 16
"""A sum is kept for every so many ids: 0.3 µs more for each fingerprint than one for every id, and 1/16 of
the memory (a Python integer of 256 bits takes 68 bytes)."""
_ITEMS_AT_ONCE = 8_192
_RANGES_AT_ONCE = 256


class InvalidFrame(Refused):
    """The peer's message is not one of Negentropy."""


class _Mode(IntEnum):
    SKIP = 0
    FINGERPRINT = 1
    IDS = 2


class Vector:
    """A set of items in the order of (created_at, id), 45 bytes each, with sums over it."""

    __slots__ = ("_ids", "_sums", "_times")

    def __init__(self, times: "array[int]", ids: bytes, sums: list[int]) -> None:
        """Take what `Gathering` has put in order; `sums[n]` is that of the first 16 n ids."""
        self._times = times
        self._ids = ids
        self._sums = sums

    @classmethod
    def of(cls, items: Iterable[Item]) -> "Vector":
        """Return the set of these items, in whatever order they come. Raises ValueError on a second copy."""
        ordered = sorted(items)
        if any(one == other for one, other in pairwise(ordered)):
            raise ValueError("an item is there twice")
        gathering = Gathering()
        exhaust(gathering.add(ordered))
        return exhaust(gathering.seal())

    def __len__(self) -> int:
        return len(self._times)

    def ids(self, lower: int, upper: int) -> bytes:
        """Return the ids of items lower…upper - 1, one behind the other."""
        return self._ids[lower * ID_BYTES : upper * ID_BYTES]

    def item(self, index: int) -> Item:
        """Return one item."""
        return self._times[index], self.ids(index, index + 1)

    def find(self, bound: Bound, start: int) -> int:
        """Return the index of the first item, from `start` on, that is not below the bound."""
        time, id_ = bound
        first = bisect_left(self._times, time, start)
        if not id_:
            return first
        # An id that begins with the bound's is above it: what is left out are zeros.
        return bisect_left(range(bisect_right(self._times, time, first)), id_, first, key=self._id)

    def _id(self, index: int) -> bytes:
        return self._ids[index * ID_BYTES : (index + 1) * ID_BYTES]

    def fingerprint(self, lower: int, upper: int) -> bytes:
        """Return the digest of items lower…upper - 1."""
        total = (self._sum(upper) - self._sum(lower)) % 2**256
        return sha256(total.to_bytes(ID_BYTES, "little") + encode_varint(upper - lower)).digest()[
            :FINGERPRINT_BYTES
        ]

    def _sum(self, end: int) -> int:
        whole = end // _SUMMED
        return self._sums[whole] + sum_ids(self.ids(whole * _SUMMED, end))

    def bound(self, index: int) -> Bound:
        """Return the shortest bound that divides an item from the one before it."""
        (before, lower), (time, id_) = self.item(index - 1), self.item(index)
        if time != before:
            return time, b""
        shared = next(n for n in range(ID_BYTES) if lower[n] != id_[n])
        return time, id_[: shared + 1]


class Gathering:
    """Items on their way into a Vector, a page at a time, the newest second first."""

    __slots__ = ("_pages", "_second")

    def __init__(self) -> None:
        self._pages: list[tuple[array[int], bytes]] = []
        """Each ascending, and below all pages before it."""
        self._second: list[list[Item]] = []
        """What has come of the second that may go on with the next page."""

    def add(self, page: Iterable[Item]) -> Generator[None, None, None]:
        """Take items, in no order; yields between steps of bounded work.

        No item may be newer than the oldest one of the page before.
        """
        items = sorted(page)
        if not items:
            return
        oldest = items[0][0]
        if self._second and self._second[0][0][0] == oldest:
            self._second.append(items)
            return
        cut = bisect_right(items, (oldest, _HIGHEST_ID))
        complete = [items[cut:], *self._second]
        self._second = [items[:cut]]
        yield from self._keep(complete)

    def _keep(self, runs: Sequence[list[Item]]) -> Generator[None, None, None]:
        if sum(map(len, runs)) <= _ITEMS_AT_ONCE:
            self._pages += _packed(sorted(chain.from_iterable(runs)))
            return
        # Very many in one second: sorting them at once would keep everybody waiting.
        pages: list[tuple[array[int], bytes]] = []
        ordered = merge(*runs)
        while some := list(islice(ordered, _ITEMS_AT_ONCE)):
            pages += _packed(some)
            yield
        self._pages += reversed(pages)

    def seal(self) -> Generator[None, None, Vector]:
        """Return the Vector of all items that were added; yields between steps of bounded work."""
        yield from self._keep(self._second)
        times: array[int] = array("Q")
        for some, _ in reversed(self._pages):
            times.extend(some)
        ids = b"".join(page for _, page in reversed(self._pages))
        self._pages.clear()
        sums = [0]
        for start in range(0, len(times), _ITEMS_AT_ONCE):
            yield
            for block in range(start, min(start + _ITEMS_AT_ONCE, len(times)), _SUMMED):
                sums.append(sums[-1] + sum_ids(ids[block * ID_BYTES : (block + _SUMMED) * ID_BYTES]))
        return Vector(times, ids, sums)


def _packed(items: Sequence[Item]) -> list[tuple["array[int]", bytes]]:
    if not items:
        return []
    times, ids = zip(*items, strict=True)
    return [(array("Q", times), b"".join(ids))]


def sum_ids(ids: bytes) -> int:
    """Return the sum of ids that stand one behind the other, as little-endian integers."""
    from_bytes = int.from_bytes
    return sum([from_bytes(ids[n : n + ID_BYTES], "little") for n in range(0, len(ids), ID_BYTES)])


@dataclass(frozen=True, slots=True)
class Differences:
    """What one answer of the server tells the client. Later answers may repeat it."""

    have: tuple[bytes, ...]
    """Ids that the server lacks."""
    need: tuple[bytes, ...]
    """Ids that the client lacks."""


class Server:
    """The side that is asked: it answers frames and learns nothing."""

    def __init__(self, vector: Vector, *, max_frame_bytes: int = 0) -> None:
        """Answers get no longer than `max_frame_bytes`; 0: as long as they need to be."""
        self._vector = vector
        self._max_frame_bytes = _checked(max_frame_bytes)

    def answer(self, frame: bytes) -> Generator[None, None, bytes]:
        """Return the answer to a client's frame; yields between steps of bounded work.

        To a version that is not spoken here the answer is the one that is. Raises InvalidFrame.
        """
        if version_of(frame) != VERSION:
            return bytes([VERSION])
        return (yield from _answer(self._vector, frame, self._max_frame_bytes, None))


class Client:
    """The side that asks, and learns which ids each side lacks."""

    def __init__(self, vector: Vector, *, max_frame_bytes: int = 0) -> None:
        """Frames get no longer than `max_frame_bytes`; 0: as long as they need to be."""
        self._vector = vector
        self._max_frame_bytes = _checked(max_frame_bytes)

    def initiate(self) -> bytes:
        """Return the first frame."""
        out = _Frame()
        _split(self._vector, 0, len(self._vector), _END, out)
        return bytes(out.data)

    def reconcile(self, frame: bytes) -> tuple[bytes | None, Differences]:
        """Return the next frame, None at the end, and what the server's frame told. Raises InvalidFrame."""
        if (version := version_of(frame)) != VERSION:
            raise InvalidFrame(invalid(f"the server speaks version {version - 0x60} of Negentropy"))
        have: list[bytes] = []
        need: list[bytes] = []
        reply = exhaust(_answer(self._vector, frame, self._max_frame_bytes, (have, need)))
        return (reply if len(reply) > 1 else None), Differences(tuple(have), tuple(need))


def exhaust(steps: Generator[None, None, _T]) -> _T:
    """Take all steps at once; return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: _T = done.value
            return result


def _checked(max_frame_bytes: int) -> int:
    if 0 < max_frame_bytes < MIN_FRAME_BYTES:
        raise ValueError(f"a frame takes {MIN_FRAME_BYTES} bytes or more")
    return max_frame_bytes


def version_of(frame: bytes) -> int:
    """Return the first byte of a frame. Raises InvalidFrame where it is no version's."""
    if not frame or not 0x60 <= frame[0] <= 0x6F:
        raise InvalidFrame(invalid("a Negentropy message begins with its version"))
    return frame[0]


def _answer(
    vector: Vector, frame: bytes, most: int, found: tuple[list[bytes], list[bytes]] | None
) -> Generator[None, None, bytes]:
    """Answer a frame range by range; `found` takes what a client has and needs, None for a server."""
    ranges, out = _Ranges(frame), _Frame()
    full = most - _RESERVED_BYTES if most else 2**63
    lower = work = 0
    below: Bound = (0, b"")
    while not ranges.is_at_end:
        bound, mode = ranges.bound(), ranges.varint()
        if bound < below:
            raise InvalidFrame(invalid("the ranges of a Negentropy message ascend"))
        upper = unsaid = vector.find(bound, lower)
        mark = out.mark()
        if mode == _Mode.SKIP:
            out.skip(bound)
        elif mode == _Mode.FINGERPRINT:
            if ranges.take(FINGERPRINT_BYTES) == vector.fingerprint(lower, upper):
                out.skip(bound)
            else:
                _split(vector, lower, upper, bound, out)
                work += _BUCKETS
        elif mode == _Mode.IDS:
            theirs = ranges.take(ranges.varint() * ID_BYTES)
            if found is None:
                unsaid = _send_ids(vector, lower, upper, bound, out, full)
            else:
                _compare(vector.ids(lower, upper), theirs, *found)
                out.skip(bound)
        else:
            raise InvalidFrame(invalid(f"a range of a Negentropy message has no mode {mode}"))
        if len(out.data) > full:
            if mode == _Mode.FINGERPRINT:
                out.back_to(mark)
                unsaid = lower
            out.fingerprint(_END, vector.fingerprint(unsaid, len(vector)))
            break
        lower, below = upper, bound
        work += 1
        if work >= _RANGES_AT_ONCE:
            work = 0
            yield
    return bytes(out.data)


def _split(vector: Vector, lower: int, upper: int, bound: Bound, out: "_Frame") -> None:
    """Say more about a range that differs: its ids if they are few, or the fingerprints of its parts."""
    if upper - lower < _SPLIT_FROM:
        out.ids(bound, vector.ids(lower, upper))
        return
    size, larger = divmod(upper - lower, _BUCKETS)
    for n in range(_BUCKETS):
        end = lower + size + (n < larger)
        out.fingerprint(bound if end == upper else vector.bound(end), vector.fingerprint(lower, end))
        lower = end


def _send_ids(vector: Vector, lower: int, upper: int, bound: Bound, out: "_Frame", full: int) -> int:
    """Send the ids of a range, as many as fit; return the index of the first that did not."""
    fitting = (full - len(out.data)) // ID_BYTES + 1
    if upper - lower <= fitting:
        out.ids(bound, vector.ids(lower, upper))
        return upper
    end = lower + fitting
    out.ids(vector.item(end), vector.ids(lower, end))
    return end


def _compare(ours: bytes, theirs: bytes, have: list[bytes], need: list[bytes]) -> None:
    mine = dict.fromkeys(ours[n : n + ID_BYTES] for n in range(0, len(ours), ID_BYTES))
    other = dict.fromkeys(theirs[n : n + ID_BYTES] for n in range(0, len(theirs), ID_BYTES))
    have += [id_ for id_ in mine if id_ not in other]
    need += [id_ for id_ in other if id_ not in mine]


class _Ranges:
    """Reads a frame. Raises InvalidFrame where it ends too early or holds what cannot be."""

    __slots__ = ("_at", "_frame", "_time")

    def __init__(self, frame: bytes) -> None:
        self._frame = frame
        self._at = 1  # behind the version
        self._time = 0

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._frame)

    def take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._frame):
            raise InvalidFrame(invalid("a Negentropy message ends within a range"))
        taken = self._frame[self._at : end]
        self._at = end
        return taken

    def varint(self) -> int:
        value = 0
        # As many digits of seven bits as a number of 64 bits may have.
        for _ in range(10):
            (digit,) = self.take(1)
            value = value << 7 | digit & 0x7F
            if digit < 0x80:
                return value
        raise InvalidFrame(invalid("a number in a Negentropy message is too long"))

    def bound(self) -> Bound:
        offset = self.varint()
        if offset == 0 or self._time == INFINITY:
            self._time = INFINITY
        elif (time := self._time + offset - 1) < INFINITY:
            self._time = time
        else:
            raise InvalidFrame(invalid("a time in a Negentropy message is too high"))
        length = self.varint()
        if length > ID_BYTES:
            raise InvalidFrame(invalid("an id in a Negentropy message is too long"))
        return self._time, self.take(length)


class _Frame:
    """Writes a frame, range by range."""

    __slots__ = ("_skipped", "_time", "data")

    def __init__(self) -> None:
        self.data = bytearray([VERSION])
        self._time = 0
        self._skipped: Bound | None = None
        """Up to here nothing more is to be said; written when something else follows."""

    def mark(self) -> tuple[int, int, Bound | None]:
        """Remember what was written, for `back_to`."""
        return len(self.data), self._time, self._skipped

    def back_to(self, mark: tuple[int, int, Bound | None]) -> None:
        size, self._time, self._skipped = mark
        del self.data[size:]

    def skip(self, bound: Bound) -> None:
        self._skipped = bound

    def fingerprint(self, bound: Bound, digest: bytes) -> None:
        self._range(bound, _Mode.FINGERPRINT)
        self.data += digest

    def ids(self, bound: Bound, ids: bytes) -> None:
        self._range(bound, _Mode.IDS)
        self.data += encode_varint(len(ids) // ID_BYTES)
        self.data += ids

    def _range(self, bound: Bound, mode: _Mode) -> None:
        if self._skipped is not None:
            skipped, self._skipped = self._skipped, None
            self._range(skipped, _Mode.SKIP)
        time, id_ = bound
        if time == INFINITY:
            self.data.append(0)
        else:
            self.data += encode_varint(1 + time - self._time)
            self._time = time
        self.data.append(len(id_))
        self.data += id_
        self.data.append(mode)


def encode_varint(value: int) -> bytes:
    """Return digits of seven bits, the highest first, as few as possible; all but the last one marked."""
    digits = [value & 0x7F]
    while value := value >> 7:
        digits.append(0x80 | value & 0x7F)
    return bytes(reversed(digits))
