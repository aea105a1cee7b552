"""The supervisor: starts the programs that make up a relay, restarts what dies, stops them in order.

It binds the listening sockets and hands them over by descriptor, so sockets outlive workers: who connects
while a worker restarts is accepted by another one, or waits in the accept queue instead of being refused.
"""

import asyncio
import errno
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import structlog

from relay.net.children import Child, execute, fork

log = structlog.get_logger(__name__)

READY_SECONDS = 60.0
"""For a program to say that it is ready."""
KILL_SECONDS = 5.0
"""After its own time to stop, a program is killed."""
FIRST_RETRY_SECONDS = 0.1
LAST_RETRY_SECONDS = 5.0
STEADY_SECONDS = 10.0
"""A program that ran so long is restarted at once when it dies."""

Main = Callable[[Callable[[], None]], None]
"""What a forked process does; it is given what to call when it serves."""


class CannotStart(Exception):
    """The relay cannot run here; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised process: a fork of this one, or another program."""

    name: str
    run: Main | Sequence[str]
    """What a fork does; or the command line of another program."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's environment, for another program."""
    fds: tuple[int, ...] = ()
    """Descriptors it inherits."""
    stop_seconds: float = 15.0
    """How long it may take to stop."""
    says_ready: bool = True
    """Whether it says when it serves; another program takes `--ready-fd N` and writes one line there."""
    waits: bool = True
    """Whether it starts when the groups before it are ready, and not along with the last of them."""
    on_death: Callable[[], None] | None = None


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """Bind `count` sockets to one address, the kernel spreading connections over their accept queues.

    Refuses a port that somebody else listens on, which SO_REUSEPORT alone would share silently.
    Raises CannotStart.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise CannotStart(f"cannot listen on {host}: {error.strerror}") from error
    probe = socket.socket(family, socket.SOCK_STREAM)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(where)
            probe.listen()
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CannotStart(f"port {port} on {host} is in use; choose another with --port") from error
            raise CannotStart(f"cannot listen on {host} port {port}: {error.strerror}") from error
        where = probe.getsockname()
    finally:
        probe.close()
    return [_sharing(family, where) for _ in range(count)]


def bind_beside(bound: socket.socket, count: int) -> list[socket.socket]:
    """Bind so many more sockets to the address of one that this user has bound. Raises CannotStart."""
    try:
        return [_sharing(bound.family, bound.getsockname()) for _ in range(count)]
    except OSError as error:
        raise CannotStart(f"cannot listen with more workers: {error.strerror}") from error


def _sharing(family: int, where: Any) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.setblocking(False)
    listening.bind(where)
    return listening


class Supervisor:
    """Runs groups of programs: each is ready before the next starts, if that waits, and stops after it."""

    def __init__(self, groups: Sequence[Sequence[Program]]) -> None:
        self._groups = groups
        self._stopping = False
        self._held: dict[str, asyncio.Event] = {}
        """Programs that are stopped, or being stopped, while the others run on; set when they may go on."""
        self._running: dict[str, Child] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def run(self, stop: asyncio.Event, on_ready: Callable[[], None]) -> None:
        """Serve until `stop` is set. Raises CannotStart when a program does not get ready at first."""
        async with asyncio.TaskGroup() as tasks:
            try:
                started: list[asyncio.Future[None]] = []
                for group in self._groups:
                    if any(program.waits for program in group):
                        await _all(started, stop)
                        if stop.is_set():
                            return
                        started = []
                    for program in group:
                        ready = asyncio.get_running_loop().create_future()
                        self._tasks[program.name] = tasks.create_task(self._keep(program, ready))
                        started.append(ready)
                await _all(started, stop)
                if stop.is_set():
                    return
                on_ready()
                await stop.wait()
            finally:
                self._stopping = True
                for group in reversed(self._groups):
                    await asyncio.gather(*(self._stop(program) for program in group))

    async def _keep(self, program: Program, ready: "asyncio.Future[None]") -> None:
        pause = FIRST_RETRY_SECONDS
        while not self._stopping:
            if (held := self._held.get(program.name)) is not None:
                if not ready.done():
                    ready.set_result(None)
                await held.wait()
                pause = FIRST_RETRY_SECONDS
                continue
            began = monotonic()
            try:
                await self._start(program)
            except CannotStart as error:
                await self._end(program)
                if not ready.done():
                    ready.set_exception(error)
                    # Of several only the first is raised; asyncio complains of errors nobody looked at.
                    ready.exception()
                    return
                log.error("a process did not start", process=program.name, error=str(error))
            else:
                if not ready.done():
                    ready.set_result(None)
                code = await self._running[program.name].wait()
                if self._stopping:
                    return
                if program.name in self._held:
                    if program.on_death is not None:
                        program.on_death()
                    continue
                log.error("a process died; restarting it", process=program.name, code=code)
            if program.on_death is not None:
                program.on_death()
            if monotonic() - began > STEADY_SECONDS:
                pause = FIRST_RETRY_SECONDS
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_RETRY_SECONDS)

    async def _start(self, program: Program) -> None:
        reading, writing = os.pipe()
        try:
            try:
                process = self._running[program.name] = _spawn(program, writing)
            except OSError as error:
                raise CannotStart(f"cannot start the {program.name} process: {error.strerror}") from error
            finally:
                os.close(writing)
            async with asyncio.timeout(READY_SECONDS):
                if program.says_ready and not await _read_line(reading):
                    code = await process.wait()
                    raise CannotStart(f"the {program.name} process stopped with exit code {code}")
        except TimeoutError:
            waited = f"{READY_SECONDS:g} seconds"
            raise CannotStart(f"the {program.name} process was not ready after {waited}") from None
        finally:
            os.close(reading)

    def begin_held(self, name: str) -> None:
        """Do not start a program, nor start it anew when it ends, until it is released."""
        self._held[name] = asyncio.Event()

    def is_held(self, name: str) -> bool:
        """Say whether a program waits to be released."""
        return name in self._held

    async def let_go(self, name: str, seconds: float) -> None:
        """Wait until a program that is held ends, as it was told to; stop it when that takes too long."""
        program = next(one for group in self._groups for one in group if one.name == name)
        process = self._running.get(name)
        if process is None or process.returncode is not None:
            return
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            await self._end_gently(program, process)

    async def hold(self, name: str) -> None:
        """Stop a program, in its time, until it is released; the others run on."""
        program = next(one for group in self._groups for one in group if one.name == name)
        self._held[name] = asyncio.Event()
        process = self._running.get(name)
        if process is not None and process.returncode is None:
            await self._end_gently(program, process)

    def release(self, name: str) -> None:
        """Start a program that was held; one that was not runs already."""
        if (held := self._held.pop(name, None)) is not None:
            held.set()

    async def _end_gently(self, program: Program, process: Child) -> None:
        process.send(signal.SIGTERM)
        try:
            async with asyncio.timeout(program.stop_seconds + KILL_SECONDS):
                await process.wait()
        except TimeoutError:
            log.warning("a process did not stop; killing it", process=program.name)
            await self._end(program)

    async def _stop(self, program: Program) -> None:
        process = self._running.get(program.name)
        if process is not None and process.returncode is None:
            await self._end_gently(program, process)
        task = self._tasks.get(program.name)
        if task is not None:
            task.cancel()

    async def _end(self, program: Program) -> None:
        process = self._running.pop(program.name, None)
        if process is not None and process.returncode is None:
            process.send(signal.SIGKILL)
            await process.wait()


def _spawn(program: Program, ready_fd: int) -> Child:
    fds = (*program.fds, ready_fd)
    if not callable(program.run):
        ready = ("--ready-fd", str(ready_fd)) if program.says_ready else ()
        return execute((*program.run, *ready), program.env, fds)
    main = program.run

    return fork(f"torv {program.name}", lambda: main(lambda: say_ready(ready_fd)), fds)


def say_ready(fd: int) -> None:
    """Tell the supervisor that this process serves; close the descriptor it was given for that."""
    try:
        os.write(fd, b"ready\n")
    except BrokenPipeError:
        # It waits no more, and this process is being killed: by it, or for its death.
        log.warning("the supervisor does not wait for this process")
    finally:
        os.close(fd)


async def _read_line(fd: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        if not readable.done():
            readable.set_result(os.read(fd, 64))

    loop.add_reader(fd, read)
    try:
        return await readable
    finally:
        loop.remove_reader(fd)


async def _all(started: "Sequence[asyncio.Future[None]]", stop: asyncio.Event) -> None:
    for ready in started:
        await _first(ready, stop)


async def _first(ready: "asyncio.Future[None]", stop: asyncio.Event) -> None:
    stopped = asyncio.create_task(stop.wait())
    ready.add_done_callback(lambda _: stopped.cancel())
    try:
        await asyncio.wait([stopped])
    finally:
        stopped.cancel()
    if ready.done():
        ready.result()
