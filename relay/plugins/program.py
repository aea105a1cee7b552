"""A plugin's program: started when it is first asked, asked many things at a time, restarted when it dies.

Whatever it does, who asks has an answer, or None, within the time limit. All is bounded: lines that do not
end, what waits to be read by it, what it says on standard error.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from pathlib import Path
from time import monotonic
from typing import cast

import structlog

from relay.plugins.lines import MAX_REASON_CHARS, Answer, Nonsense, parse_answer

log = structlog.get_logger(__name__)

MAX_LINE_BYTES = 64 * 1024
"""Of an answer."""
FIRST_PAUSE_SECONDS = 0.1
LAST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 10.0
"""A program that ran so long is restarted at once when it dies."""
LOOK_SECONDS = 1.0
"""Between two looks whether the program's file has changed."""
MAX_WAIT_SECONDS = 60.0
"""For an answer, however many are before it."""
LAST_WORDS_SECONDS = 0.5
MAX_FAREWELL_SECONDS = 10.0
"""For answers that are due when it is to end."""
CLOSE_SECONDS = 2.0
"""For a program to end when nothing more will be asked."""
SAID_AT_ONCE = 20
"""Lines on standard error that are logged of one run in a minute."""
MAX_UNREAD_BYTES = 2**20

Settled = list[tuple[str, Answer | None]]
"""(id, answer); None: it did not answer, or nothing that makes sense."""


class _Waiting:
    """Questions that were asked together."""

    __slots__ = ("answered", "asked_at", "left", "number", "settled")

    def __init__(self, number: int, ids: set[str]) -> None:
        self.number = number
        """In the order of asking."""
        self.asked_at = monotonic()
        self.left = ids
        self.settled: Settled = []
        self.answered = asyncio.Event()

    def settle(self, id_: str, answer: Answer | None) -> None:
        self.left.discard(id_)
        self.settled.append((id_, answer))
        self.answered.set()


class _Run(asyncio.SubprocessProtocol):
    """One process, from its start to its end."""

    def __init__(self, name: str, on_end: Callable[["_Run"], None]) -> None:
        self.pending: dict[str, _Waiting] = {}
        self.started_at = self.answered_at = monotonic()
        self.ended = asyncio.Event()
        self._has_exited = False
        self._numbers = count()
        self._latest = -1
        """The number of the latest questions that have an answer."""
        self._name = name
        self._on_end = on_end
        self._process: asyncio.SubprocessTransport | None = None
        self._input: asyncio.WriteTransport | None = None
        self._unread = bytearray()
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._drained = asyncio.Event()
        self._nonsense = 0
        self._said: list[float] = []

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._process = cast(asyncio.SubprocessTransport, transport)
        self._input = cast(asyncio.WriteTransport | None, self._process.get_pipe_transport(0))
        if self._input is not None:
            self._input.set_write_buffer_limits(high=MAX_UNREAD_BYTES)

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self._log_said(data)
            return
        *lines, rest = (bytes(self._unread) + data if self._unread else data).split(b"\n")
        for line in lines:
            if line.strip():
                self._take(line)
        self._unread[:] = rest
        if len(rest) > MAX_LINE_BYTES:
            self.kill("an answer is longer than a line may be")

    def process_exited(self) -> None:
        self._has_exited = True
        # What it said last may still lie in the pipe; or what it has started may hold that open.
        asyncio.get_running_loop().call_later(LAST_WORDS_SECONDS, self._finish)

    def connection_lost(self, error: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        if self._process is not None:
            self._process.close()
        self._may_write.set()
        for id_, waiting in self.pending.items():
            waiting.settle(id_, None)
        self.pending.clear()
        self._drained.set()
        self._on_end(self)

    # What its owner calls.

    @property
    def is_alive(self) -> bool:
        return not self._has_exited and self._input is not None and not self._input.is_closing()

    @property
    def code(self) -> int | None:
        return None if self._process is None else self._process.get_returncode()

    async def ask(self, questions: Mapping[str, bytes], seconds: float) -> AsyncIterator[Settled]:
        """Yield the answers as they come.

        A program that answers line by line has others to answer first: as long as it does, those behind
        wait. It has `seconds` for what it has before it, and for what it has passed over.
        """
        if self.ended.is_set():
            yield [(id_, None) for id_ in questions]
            return
        waiting = _Waiting(next(self._numbers), set(questions))
        self.pending.update(dict.fromkeys(questions, waiting))
        try:
            has_room = await self._is_set(self._may_write, waiting, seconds)
            if has_room and self._input is not None and self.is_alive:
                self._input.write(b"".join(questions.values()))
            while has_room and (waiting.left or waiting.settled):
                if not waiting.settled and not await self._is_set(waiting.answered, waiting, seconds):
                    break
                waiting.answered.clear()
                settled, waiting.settled = waiting.settled, []
                yield settled
        finally:
            for id_ in waiting.left:
                self.pending.pop(id_, None)
        if waiting.left:
            if monotonic() - self.answered_at >= seconds:
                self.kill("it does not answer")
            yield [(id_, None) for id_ in waiting.left]

    async def _is_set(self, event: asyncio.Event, waiting: _Waiting, seconds: float) -> bool:
        """Wait for an event as long as the program is at work on what is before these questions."""
        left = seconds
        while left > 0:
            if await _within(asyncio.get_running_loop().time() + left, event):
                return True
            left = self._more_seconds(waiting, seconds)
        return False

    def _more_seconds(self, waiting: _Waiting, seconds: float) -> float:
        now = monotonic()
        if self._latest > waiting.number or now - waiting.asked_at >= MAX_WAIT_SECONDS:
            return 0.0
        return seconds - (now - self.answered_at)

    def kill(self, why: str = "") -> None:
        """End it and what it has started."""
        if self._process is not None and not self._has_exited:
            if why:
                log.error("killing a plugin", plugin=self._name, why=why)
            # It may have ended, without anybody having heard of it yet.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.get_pid(), signal.SIGKILL)

    async def end(self, seconds: float) -> None:
        """Let it answer what it was asked, then end it."""
        deadline = asyncio.get_running_loop().time() + seconds
        if self.pending:
            self._drained.clear()
            await _within(deadline, self._drained)
        if self._input is not None:
            self._input.close()
        if not await _within(asyncio.get_running_loop().time() + CLOSE_SECONDS, self.ended):
            self.kill("it does not end when its input does")
        await self.ended.wait()

    def _take(self, line: bytes) -> None:
        try:
            answer = parse_answer(line)
        except Nonsense as error:
            self._complain(str(error))
            return
        self.answered_at = monotonic()
        waiting = self.pending.pop(answer.id, None)
        if waiting is None:
            # Too late, or never asked.
            self._complain("it answers what nobody waits for")
        else:
            self._latest = max(self._latest, waiting.number)
            waiting.settle(answer.id, answer)
            if not self.pending:
                self._drained.set()

    def _complain(self, why: str) -> None:
        self._nonsense += 1
        # One warning per power of two, not per line.
        if self._nonsense & (self._nonsense - 1) == 0:
            log.warning("a plugin answers nonsense", plugin=self._name, why=why, times=self._nonsense)

    def _log_said(self, data: bytes) -> None:
        now = monotonic()
        for line in data.decode(errors="replace").splitlines():
            self._said = [at for at in self._said if now - at < 60]
            if line.strip() and len(self._said) < SAID_AT_ONCE:
                self._said.append(now)
                log.info("a plugin says", plugin=self._name, said=line[:MAX_REASON_CHARS])


async def _within(deadline: float, event: asyncio.Event) -> bool:
    if event.is_set():
        return True
    try:
        async with asyncio.timeout_at(deadline):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Plugin:
    """A program that is there when it is asked."""

    def __init__(self, name: str, command: str, *, seconds: float) -> None:
        """`command` is the path of a program, or where it holds a space, what a shell runs.

        `seconds` is how long an answer may take; see `_Run.ask`. A path's program is started anew when its
        file changes.
        """
        self.name = name
        self._command = command
        self._seconds = seconds
        self._file = None if " " in command else Path(command)
        self._changed_at: int | None = None
        self._looked_at = 0.0
        self._is_stale = False
        self._run: _Run | None = None
        self._starting = asyncio.Lock()
        self._pause = 0.0
        self._not_before = 0.0
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def load(self) -> int:
        """How many answers are due."""
        return 0 if self._run is None else len(self._run.pending)

    async def ask(self, questions: Mapping[str, bytes]) -> AsyncIterator[Settled]:
        """Yield each question's answer once, some at a time, in any order.

        By id, as the answers name them; no other question of that id may be open. None after the time limit,
        when the program dies, and while it cannot be started.
        """
        run = await self._running()
        if run is None:
            yield [(id_, None) for id_ in questions]
            return
        async for settled in run.ask(questions, self._seconds):
            yield settled

    async def close(self) -> None:
        """End the program, when it has answered; it is started again if it is asked again."""
        async with self._starting:
            run, self._run = self._run, None
            if run is not None:
                await run.end(min(self._seconds, MAX_FAREWELL_SECONDS))
            if self._ending:
                await asyncio.wait(self._ending)

    async def _running(self) -> _Run | None:
        if self._run is not None and self._run.is_alive and not self._has_changed():
            return self._run
        async with self._starting:
            if self._run is not None and self._run.is_alive and not self._has_changed():
                return self._run
            if monotonic() < self._not_before:
                return None
            if self._run is not None and self._run.is_alive:
                log.info("a plugin's file has changed; starting it anew", plugin=self.name)
                self._end_later(self._run)
            self._run = await self._start()
            return self._run

    def _has_changed(self) -> bool:
        now = monotonic()
        if self._file is not None and now - self._looked_at >= LOOK_SECONDS:
            self._looked_at = now
            self._is_stale = self._modified_at() not in (self._changed_at, None)
        return self._is_stale

    def _modified_at(self) -> int | None:
        try:
            return None if self._file is None else self._file.stat().st_mtime_ns
        except OSError:
            return None

    async def _start(self) -> _Run | None:
        self._changed_at = self._modified_at()
        self._is_stale = False
        argv = ("/bin/sh", "-c", self._command) if self._file is None else (str(self._file.absolute()),)
        # What configures the relay may hold secrets of its own.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}
        try:
            _, run = await asyncio.get_running_loop().subprocess_exec(
                lambda: _Run(self.name, self._ended),
                *argv,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            self._wait_before_next(lived=0.0)
            log.error(
                "a plugin cannot be started", plugin=self.name, command=self._command, error=error.strerror
            )
            return None
        log.info("a plugin was started", plugin=self.name)
        return run

    def _ended(self, run: _Run) -> None:
        if run is not self._run:
            return
        self._wait_before_next(lived=monotonic() - run.started_at)
        log.error("a plugin died", plugin=self.name, code=run.code, restart_seconds=self._pause)

    def _wait_before_next(self, *, lived: float) -> None:
        if lived > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        else:
            self._pause = min(max(FIRST_PAUSE_SECONDS, 2 * self._pause), LAST_PAUSE_SECONDS)
        self._not_before = monotonic() + self._pause

    def _end_later(self, run: _Run) -> None:
        self._run = None
        task = asyncio.get_running_loop().create_task(run.end(min(self._seconds, MAX_FAREWELL_SECONDS)))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
