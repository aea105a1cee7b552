"""What travels between worker processes and the writer process: marshalled tuples in counted frames.

Both ends are the same installation on the same machine, and the socket belongs to one user
(mode 0600): so `marshal`, the fastest there is, and no versions but one check when they meet.
"""

import asyncio
import marshal
import struct
import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import cast

PROTOCOL = (1, sys.version_info[:2], marshal.version)
"""Said by the writer in HELLO; marshal's format belongs to a version of Python."""

MAX_FRAME_BYTES = 256 * 2**20
"""Holds the longest message that the configuration allows (64 MiB) and its index entries."""

_LENGTH = struct.Struct("<I")


class Say(IntEnum):
    """The first item of every message."""

    HELLO = 1
    """Writer → worker, first: PROTOCOL, head."""
    WRITE = 2
    """Worker → writer: number, list of prepared writes."""
    SWEEP = 3
    """Worker → writer: number, unix seconds."""
    DONE = 4
    """Writer → worker: number, and outcomes as their values (a refusal as its prefix and text); for SWEEP how
    many were removed; for COMMAND the answer or a refusal."""
    FAILED = 5
    """Writer → worker: number, text."""
    BELL = 6
    """Writer → worker: after, upto, list of (seq, created_at, json) or None."""
    EPHEMERAL = 7
    """Either way: list of canonical JSON."""
    COMMAND = 8
    """Worker → writer: number, table, payload."""
    FOLLOW = 9
    """Worker → writer: whether it wants bells; at first it does."""
    REMOVE = 10
    """Worker → writer: number, list of ids (hex), whether they are barred; DONE says how many were there."""

    COPY = 11
    """Worker → writer: number, path of the copy; asked until it is whole. DONE says whether it is, and how
    many pages of how many are done."""


class FrameTooLong(Exception):
    """A message does not fit into a frame, or the other end announced one that cannot be right."""


def encode(say: Say, *body: object) -> bytes:
    """Return a message as one frame. Raises FrameTooLong."""
    # marshal takes exact types only: no enums, no named tuples.
    message = marshal.dumps((say.value, *body))  # type: ignore[arg-type]  # it checks while it writes
    if len(message) > MAX_FRAME_BYTES:
        raise FrameTooLong(f"a message of {len(message)} bytes is longer than {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(message)) + message


class FrameReader:
    """Cuts the bytes of a stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, tuple[object, ...]]]:
        """Yield (bytes, message) for every message that is complete now. Raises FrameTooLong."""
        buffer = self._buffer
        buffer += data
        start, end = 0, len(buffer)
        with memoryview(buffer) as view:
            while end - start >= 4:
                (length,) = _LENGTH.unpack_from(view, start)
                if length > MAX_FRAME_BYTES:
                    raise FrameTooLong(f"a frame of {length} bytes was announced")
                if end - start < 4 + length:
                    break
                yield 4 + length, marshal.loads(view[start + 4 : start + 4 + length])
                start += 4 + length
        del buffer[:start]


class FrameStream(asyncio.Protocol):
    """One end of a connection: hands on messages, and knows whether the other end keeps up."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self.transport: asyncio.Transport | None = None
        """None before the connection is made and after it is lost."""
        self.is_slow = False
        """The other end has not taken what was sent; only what must not be lost may be sent now."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        for size, message in self._reader.feed(data):
            self.message_received(size, message)

    def message_received(self, size: int, message: tuple[object, ...]) -> None:
        """Take one message; `size` is its frame's length in bytes."""
        raise NotImplementedError

    def pause_writing(self) -> None:
        self.is_slow = True

    def resume_writing(self) -> None:
        self.is_slow = False

    def send(self, frame: bytes) -> None:
        """Send a frame; does nothing on a lost connection."""
        if self.transport is not None:
            self.transport.write(frame)

    def abort(self) -> None:
        """Hang up at once; does nothing on a lost connection."""
        if self.transport is not None:
            self.transport.abort()
