"""One supervisor in the place of another: sockets and locks stay open, and nobody is refused meanwhile.

The successor is a new process of the program as it is installed now. It inherits the descriptors and one end
of a line, on which the two say, each in a JSON object:

- successor: `prepared`, when its configuration is right and all is imported, or `failed`, and why;
- predecessor: `go`, when its writers have stopped;
- successor: `ready`, when it serves;
- predecessor: nothing more. It sends its clients on and ends, and the line with it.

Until `ready` the predecessor can go on as before.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import structlog

log = structlog.get_logger(__name__)

OPTION = "--take-over-fd"
"""The option of the program that names the successor's end of the line."""

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)


class Successor:
    """A supervisor that was started to take this one's place."""

    def __init__(self, process: subprocess.Popen[bytes], line: socket.socket) -> None:
        self._process = process
        self._line = line
        self._line.setblocking(False)
        self._heard = b""

    @classmethod
    def start(cls, argv: Sequence[str], estate: Mapping[str, Any], fds: Sequence[int]) -> "Successor":
        """Start the program anew; it inherits the descriptors, and is told of them by `estate`.

        Raises OSError.
        """
        ours, theirs = socket.socketpair()
        try:
            process = subprocess.Popen(
                [*argv, OPTION, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(*fds, theirs.fileno()),
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.sendall(orjson.dumps(estate) + b"\n")
        return cls(process, ours)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def hear(self, seconds: float) -> Mapping[str, Any]:
        """Return what it says next; `failed` also where it says nothing in time, or ends."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                while b"\n" not in self._heard:
                    try:
                        chunk = await loop.sock_recv(self._line, 65_536)
                    except OSError:
                        chunk = b""  # it died before it had heard what there is
                    if not chunk:
                        code = await self._ended()
                        return {"say": "failed", "why": f"the new process ended with exit code {code}"}
                    self._heard += chunk
        except TimeoutError:
            return {"say": "failed", "why": f"the new process said nothing within {seconds:g} seconds"}
        line, _, self._heard = self._heard.partition(b"\n")
        said: Mapping[str, Any] = orjson.loads(line)
        return said

    def say(self, what: str) -> None:
        """Tell it something; one that is gone hears nothing."""
        try:
            self._line.send(orjson.dumps({"say": what}) + b"\n")
        except OSError as error:
            log.warning("the new process could not be told", error=str(error))

    def kill(self) -> None:
        """End it at once; what it has started ends with it."""
        self._process.kill()

    async def end(self) -> None:
        """Kill it, and wait until it is gone."""
        self.kill()
        await self._ended()
        self._line.close()

    async def _ended(self) -> int:
        while (code := self._process.poll()) is None:  # noqa: ASYNC110  # a thread must not wait for it
            await asyncio.sleep(0.01)
        return code


@dataclass(frozen=True, slots=True)
class Inheritance:
    """What a successor was given."""

    line: socket.socket
    estate: Mapping[str, Any]

    @classmethod
    def read(cls, fd: int) -> "Inheritance":
        """Hear from the predecessor, on the descriptor that `OPTION` names, what there is."""
        line = socket.socket(fileno=fd)
        os.set_inheritable(fd, False)
        line.settimeout(10)
        said = b""
        while not said.endswith(b"\n"):
            said += line.recv(65_536)
        inherited = cls(line, orjson.loads(said))
        for each in (*inherited.estate["sockets"], *inherited.estate["locks"].values()):
            os.set_inheritable(each, False)
        return inherited

    def lock_of(self, data: Path) -> int | None:
        """Return the descriptor that holds a data folder, if the predecessor had it."""
        found: int | None = self.estate["locks"].get(str(data.resolve()))
        return found

    def sockets(self, host: str, port: int) -> list[socket.socket]:
        """Return the listening sockets, if they are those of this host and port as they were asked for."""
        found = [socket.socket(fileno=fd) for fd in self.estate["sockets"]]
        if self.estate["address"] == [host, port]:
            return found
        for one in found:
            one.close()
        return []

    def say(self, what: str, **more: Any) -> None:
        """Tell the predecessor something; if it has died there is nobody to tell."""
        try:
            self.line.sendall(orjson.dumps({"say": what, **more}) + b"\n")
        except OSError as error:
            log.warning("the process before this one is gone", error=str(error))

    async def go(self) -> None:
        """Wait until the predecessor lets go of the writers, or is gone."""
        self.line.setblocking(False)
        with contextlib.suppress(OSError):  # it died
            await asyncio.get_running_loop().sock_recv(self.line, 4_096)

    async def gone(self) -> None:
        """Wait until the predecessor has ended; then die with who stands in for it, if somebody does."""
        with contextlib.suppress(OSError):  # it died
            while await asyncio.get_running_loop().sock_recv(self.line, 4_096):
                pass
        self.line.close()
        while self.estate["leaves"] and os.getppid() == self.estate["pid"]:  # noqa: ASYNC110  # nothing tells
            # Its end reaches us before it is our parent no more; that must not kill us.
            await asyncio.sleep(0.01)
        if self.estate["stands_in"]:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def stand_in(pid: int) -> int:
    """Be the process that was started at first, for the supervisor that has taken its place: until that ends.

    A shell, a container or another service manager watches the process that it has started. Signals are
    passed on; a successor's successor, whose parent ends, becomes this process's child.

    Returns the exit code.
    """
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, {*FORWARDED, signal.SIGCHLD})
    code = 0
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            children = _children()
            if not children:
                return code if code >= 0 else 128 - code
            pid = children[0]
        elif ended == 0:
            number = signal.sigwait({*FORWARDED, signal.SIGCHLD})
            if number != signal.SIGCHLD:
                os.kill(pid, number)


def _children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def program() -> list[str]:
    """Return the command line that starts this program again, as it is installed now."""
    words = list(sys.orig_argv)
    if OPTION in words:
        at = words.index(OPTION)
        del words[at : at + 2]
    return [sys.executable, *words[1:]]
