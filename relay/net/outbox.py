"""What is due to one client: joined into as few writes as can be, and bounded."""

import asyncio
from typing import Protocol

from relay.engine.subscription import Subscription


class Pipe(Protocol):
    """The writing half of a socket."""

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int: ...

    def is_closing(self) -> bool: ...

    @property
    def is_full(self) -> bool:
        """Whether the socket takes no more for now; who owns the outbox calls `flush` when it does."""

    async def drain(self) -> None:
        """Wait until the socket takes more. Raises ConnectionError when it is gone."""


class Outbox:
    """Frames in order; all that is due at one turn of the event loop goes out as one write."""

    __slots__ = ("_frames", "_loop", "_max_bytes", "_owners", "_pipe", "_scheduled", "_size", "written")

    def __init__(self, pipe: Pipe, max_bytes: int, loop: asyncio.AbstractEventLoop) -> None:
        self._pipe = pipe
        self._max_bytes = max_bytes
        self._loop = loop
        self._frames: list[bytes] = []
        self._owners: list[Subscription | None] = []
        self._size = 0
        self._scheduled = False
        self.written = 0
        """Bytes handed to the socket since the connection began."""

    def bound(self, max_bytes: int) -> None:
        """Let the client keep so much waiting from now on."""
        self._max_bytes = max_bytes

    def push(self, frame: bytes, owner: Subscription | None = None) -> None:
        """Queue one or more whole frames."""
        self._frames.append(frame)
        self._owners.append(owner)
        self._size += len(frame)
        if not self._scheduled and not self._pipe.is_full:
            self._scheduled = True
            self._loop.call_soon(self.flush)

    def gather(self) -> None:
        """Write nothing of what is pushed from now on until the next `flush`, which the caller owes."""
        self._scheduled = True

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._size + self._pipe.get_write_buffer_size()

    @property
    def is_over(self) -> bool:
        """Whether more is held for this client than it may keep waiting."""
        return self._pipe.is_full and self.unsent > self._max_bytes

    def drop(self, owner: Subscription) -> None:
        """Take back what is queued for one subscription."""
        if owner not in self._owners:
            return
        kept = [
            (frame, other)
            for frame, other in zip(self._frames, self._owners, strict=True)
            if other is not owner
        ]
        self._frames = [frame for frame, _ in kept]
        self._owners = [other for _, other in kept]
        self._size = sum(map(len, self._frames))

    async def room(self) -> None:
        """Wait while the socket is full: the stored part of an answer is read no faster than it is sent.

        Raises ConnectionError when the client is gone.
        """
        self.flush()
        while self._pipe.is_full:
            await self._pipe.drain()

    def flush(self) -> None:
        """Write what is due, unless the socket is full."""
        self._scheduled = False
        if self._frames and not self._pipe.is_full:
            self.empty()

    def empty(self) -> None:
        """Write what is due, also to a full socket, which holds it then."""
        if self._frames and not self._pipe.is_closing():
            self.written += self._size
            self._pipe.write(self._frames[0] if len(self._frames) == 1 else b"".join(self._frames))
        self._frames.clear()
        self._owners.clear()
        self._size = 0
