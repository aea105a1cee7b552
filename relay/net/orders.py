"""What the supervisor has its programs do while they run: one order at a time to each, and an answer to each.

An order lies in memory of its own, whose descriptor travels: a datagram is whole or not there, however
large the settings in it are. Both ends are forks of one process, so values are pickled.
"""

import asyncio
import contextlib
import os
import pickle
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

log = structlog.get_logger(__name__)

_ANSWER_BYTES = 4_096


class Orders:
    """The supervisor's end of the line to one program, and to those that are started in its place."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        """The program inherits the second one."""
        self._ours.setblocking(False)
        self._number = 0
        self._answer: asyncio.Future[str] | None = None
        self._turn = asyncio.Lock()

    async def give(self, order: object, *, seconds: float) -> str:
        """Have the program carry it out; return why it could not, or nothing.

        A program that dies over it, or has died before, is no failure: its successor begins with what
        holds then.
        """
        async with self._turn:
            self._number += 1
            loop = asyncio.get_running_loop()
            self._answer = loop.create_future()
            loop.add_reader(self._ours.fileno(), self._hear)
            memory = os.memfd_create("torv-order")
            try:
                os.write(memory, pickle.dumps(order))
                socket.send_fds(self._ours, [b"%d" % self._number], [memory])
                async with asyncio.timeout(seconds):
                    return await self._answer
            except TimeoutError:
                return f"no answer within {seconds:g} seconds"
            except OSError as error:
                return f"cannot be reached: {error.strerror}"
            finally:
                os.close(memory)
                loop.remove_reader(self._ours.fileno())
                self._answer = None

    def forget(self) -> None:
        """The program has died: it answers no more."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result("")

    def close(self) -> None:
        """Give no more orders."""
        self._ours.close()
        self.theirs.close()

    def _hear(self) -> None:
        number, _, said = self._ours.recv(_ANSWER_BYTES).partition(b" ")
        if int(number) == self._number and self._answer is not None and not self._answer.done():
            self._answer.set_result(said.decode())


async def follow_orders(line: socket.socket, carry_out: Callable[[Any], Awaitable[None]]) -> None:
    """Carry out what the supervisor orders, until cancelled or its end is gone. `line` is the program's end.

    What carrying it out raises is logged, and told.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):  # it died before it had its answer
        while True:
            await _readable(loop, line)
            number, fds, _, _ = socket.recv_fds(line, 32, 1)
            if not number:
                break
            order = _read(fds[0])
            said = ""
            try:
                await carry_out(order)
            except Exception as error:
                log.exception("an order could not be carried out")
                said = f"{type(error).__name__}: {error}"
            line.send(number + b" " + said.encode()[: _ANSWER_BYTES - 32])
    # Its sockets are closed a moment before the kernel ends this process too.
    log.warning("the supervisor has died")


def _read(memory: int) -> Any:
    with open(memory, "rb") as file:
        file.seek(0)
        return pickle.load(file)


async def _readable(loop: asyncio.AbstractEventLoop, line: socket.socket) -> None:
    came: asyncio.Future[None] = loop.create_future()
    loop.add_reader(line.fileno(), lambda: None if came.done() else came.set_result(None))
    try:
        await came
    finally:
        loop.remove_reader(line.fileno())
