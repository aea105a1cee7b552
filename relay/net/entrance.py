"""Accepting connections, by the worker that has the fewest of all that listen on the same sockets.

The kernel alone spreads them by chance: of eight connections six or more came to one of two workers in three
of ten runs, and one core did nearly everything.
"""

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence

import structlog

log = structlog.get_logger(__name__)

BACKLOG = 4_096
PATIENCE_SECONDS = 0.005
"""So long a newcomer is left to workers with fewer connections; those that are busy come too late."""
AT_ONCE = 16
"""Newcomers that a worker takes behind that wait before it looks again who has fewer."""
FULL_SECONDS = 1.0
"""Until accepting is tried again where no descriptor is free."""

_FULL = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Entrance:
    """The listening sockets of one worker. All methods are called on the event loop."""

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        take: Callable[[socket.socket], None],
        has_more: Callable[[], bool],
    ) -> None:
        """`take` is given each connection; `has_more` says whether another worker has fewer of them."""
        self._sockets = sockets
        self._take = take
        self._has_more = has_more
        self._loop = asyncio.get_running_loop()
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}

    def open(self) -> None:
        """Begin to accept."""
        for listening in self._sockets:
            listening.setblocking(False)
            listening.listen(BACKLOG)
            self._loop.add_reader(listening, self._knocked, listening)

    def close(self) -> None:
        """Accept no more, and close the sockets here. Who waits is left to those that have them open too."""
        for listening in self._sockets:
            if (resting := self._resting.pop(listening, None)) is not None:
                resting.cancel()
            else:
                self._loop.remove_reader(listening)
            listening.close()

    def _knocked(self, listening: socket.socket) -> None:
        if self._has_more():
            self._rest(listening, PATIENCE_SECONDS)
        else:
            # One: the next may be another's already.
            self._accept(listening, 1)

    def _rest(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening)
        self._resting[listening] = self._loop.call_later(seconds, self._come_back, listening)

    def _come_back(self, listening: socket.socket) -> None:
        del self._resting[listening]
        self._loop.add_reader(listening, self._knocked, listening)
        self._accept(listening, AT_ONCE)

    def _accept(self, listening: socket.socket, most: int) -> None:
        for _ in range(most):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                log.error("no connection can be accepted", error=error.strerror)
                self._rest(listening, FULL_SECONDS)
                return
            accepted.setblocking(False)
            self._take(accepted)
