"""The writer process's end: takes batches from all workers, commits them together, rings their bells."""

import asyncio
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from relay.nostr.reasons import Refusal
from relay.store.api import Seq, StoreError, Table
from relay.store.link.copies import Copies
from relay.store.link.frames import PROTOCOL, FrameStream, Say, encode
from relay.store.private_sockets import listen
from relay.store.sqlite import Committed, Prepared, SqliteWriter, removes_owned

log = structlog.get_logger(__name__)

MAX_COMMIT_EVENTS = 4_000
MAX_COMMIT_BYTES = 32 * 2**20
"""Bounds how long one commit keeps others waiting; a longer batch is committed alone."""
MAX_PENDING_BYTES = 16 * 2**20
"""Of one worker's uncommitted batches; beyond it the worker is not read from."""
MAX_PUSH_BYTES = 8 * 2**20
"""Unsent bytes of one worker, beyond which it gets bells without rows and no ephemeral events."""
SMALL_COMMIT_EVENTS = 16
SMALL_COMMIT_BYTES = 256 * 2**10
"""Up to here a commit is done on the event loop: the way to a thread and back costs as much as it does."""
TICK_SECONDS = 1.0
"""Between sweeps of expired events."""
HANG_UP_SECONDS = 5.0
"""For workers to take their last answers."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Batch:
    worker: "_Worker"
    number: int
    prepared: list[Prepared]
    size: int
    """Bytes of its frame."""


@dataclass(slots=True)
class _Sweep:
    now: int
    worker: "_Worker | None" = None
    """Who asked; None for the clock."""
    number: int = 0
    removed: int = 0
    """By the slices done so far."""


@dataclass(frozen=True, slots=True)
class _Command:
    worker: "_Worker"
    number: int
    table: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class _Removal:
    worker: "_Worker"
    number: int
    ids: list[str]
    barred: bool


class WriterServer:
    """Feeds one `SqliteWriter` with what all workers send, until it is stopped."""

    def __init__(
        self, writer: SqliteWriter, socket_path: Path, *, now: Callable[[], float] = time.time
    ) -> None:
        self._writer = writer
        self._socket_path = socket_path
        self._now = now
        self._head = writer.head
        self._workers: set[_Worker] = set()
        self._pending: deque[_Batch] = deque()
        self._sweeps: deque[_Sweep] = deque()
        self._commands: deque[_Command | _Removal] = deque()
        self._removing: list[tuple[list[_Batch], Committed]] = []
        """Committed, and to be answered when all that somebody owned is removed."""
        self._adopting: list[tuple[tuple[Table, ...], asyncio.Future[None]]] = []
        self._is_untidy = writer.is_untidy
        self._awake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "writer")
        self._checkpoint_thread = ThreadPoolExecutor(1, "checkpoint")
        self._checkpoint: asyncio.Future[None] | None = None
        self._copies = Copies(writer.copy)
        self.is_stopping = False

    async def run(self, ready: Callable[[], None], stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then commit what has arrived, answer it, and hang up.

        Calls `ready` once workers can connect. Raises StoreError when the socket cannot be made.
        """
        loop = asyncio.get_running_loop()
        server = await loop.create_unix_server(lambda: _Worker(self), sock=_listen(self._socket_path))
        try:
            ready()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._work())
                ticking = tasks.create_task(self._tick())
                await stop.wait()
                ticking.cancel()
                self.is_stopping = True
                self._awake.set()
                for worker in self._workers:
                    worker.stop_reading()
        finally:
            server.close()
            self._socket_path.unlink(missing_ok=True)
            await self._copies.stop()
            await self._hang_up()
            self._thread.shutdown()
            self._checkpoint_thread.shutdown()

    async def adopt(self, tables: Iterable[Table]) -> None:
        """Let these tables judge, between two commits; see `SqliteWriter.adopt`. Raises ValueError."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._adopting.append((tuple(tables), done))
        self._awake.set()
        await done

    # What workers report

    def join(self, worker: "_Worker") -> None:
        """Greet a worker: bells go on from the head that it is told."""
        self._workers.add(worker)
        worker.send(encode(Say.HELLO, PROTOCOL, self._head))

    def leave(self, worker: "_Worker") -> None:
        """Forget a worker. What it sent is committed all the same."""
        self._workers.discard(worker)
        if worker.dropped_ephemeral:
            log.warning("a worker was too slow for ephemeral events", dropped=worker.dropped_ephemeral)

    def enqueue(self, work: "_Batch | _Sweep | _Command | _Removal") -> None:
        """Have something done, in its turn."""
        match work:
            case _Batch():
                self._pending.append(work)
            case _Sweep():
                self._sweeps.append(work)
            case _Command() | _Removal():
                self._commands.append(work)
        self._awake.set()

    def pass_on(self, sender: "_Worker", rows: list[bytes]) -> None:
        """Send ephemeral events to the other workers; the sender has told its own followers."""
        frame = encode(Say.EPHEMERAL, rows)
        for worker in self._workers:
            if worker is not sender:
                worker.tell(len(rows), frame)

    # Work

    async def _work(self) -> None:
        while True:
            self._awake.clear()
            self._adopt_now()
            if self._pending or self._sweeps or self._commands or self._removing:
                # A slice of a sweep after each commit: neither keeps the other waiting for ever.
                if self._pending:
                    await self._commit(self._next_group())
                if self._commands:
                    command = self._commands.popleft()
                    await (
                        self._carry_out(command) if isinstance(command, _Command) else self._remove(command)
                    )
                if self._removing:
                    await self._remove_slice()
                if self._sweeps:
                    await self._sweep_slice(self._sweeps[0])
                # Not only in idle time: a relay may have none, and be short of room.
                if self._writer.is_shrinking:
                    await self._between("shrinking the file", self._writer.shrink)
                self._is_untidy = self._writer.is_untidy
            elif self.is_stopping:
                return
            elif self._is_untidy:
                self._is_untidy = await self._tidy()
            else:
                await self._awake.wait()

    def _adopt_now(self) -> None:
        adopting, self._adopting = self._adopting, []
        for tables, done in adopting:
            try:
                self._writer.adopt(tables)
            except ValueError as error:
                done.set_exception(error)
            else:
                done.set_result(None)

    def _next_group(self) -> list[_Batch]:
        """Take the batches of the next transaction: all that wait, within bounds."""
        group: list[_Batch] = []
        events = size = 0
        while self._pending:
            events += len(self._pending[0].prepared)
            size += self._pending[0].size
            if group and (events > MAX_COMMIT_EVENTS or size > MAX_COMMIT_BYTES):
                break
            group.append(self._pending.popleft())
        return group

    async def _commit(self, group: list[_Batch]) -> None:
        prepared = [one for batch in group for one in batch.prepared]
        try:
            if (
                len(prepared) <= SMALL_COMMIT_EVENTS
                and sum(batch.size for batch in group) <= SMALL_COMMIT_BYTES
            ):
                done, checkpoint_due = self._commit_now(prepared)
            else:
                done, checkpoint_due = await self._in_thread(lambda: self._commit_now(prepared))
        except Exception as error:
            if len(group) > 1:
                # One batch may be at fault, and the others must not fail for it.
                for batch in group:
                    await self._commit([batch])
                return
            if isinstance(error, StoreError):
                log.error("a commit failed", events=len(prepared), error=str(error))
            else:
                # A mistake of ours in this batch: the others' can still be committed.
                log.exception("a commit failed", events=len(prepared))
            group[0].worker.answer(group[0], encode(Say.FAILED, group[0].number, str(error)))
            return
        if self._writer.is_removing and any(removes_owned(one) for one in prepared):
            self._removing.append((group, done))
        else:
            self._answer(group, done)
        if done.upto > done.after:
            self._ring(done)
        if checkpoint_due:
            self._begin_checkpoint()

    def _begin_checkpoint(self) -> None:
        if self._checkpoint is None:
            loop = asyncio.get_running_loop()
            self._checkpoint = loop.run_in_executor(self._checkpoint_thread, self._writer.checkpoint)
            self._checkpoint.add_done_callback(self._on_checkpoint)

    def _answer(self, group: list[_Batch], done: Committed) -> None:
        start = 0
        for batch in group:
            end = start + len(batch.prepared)
            outcomes = [
                (outcome.prefix.value, outcome.text) if isinstance(outcome, Refusal) else outcome.value
                for outcome in done.outcomes[start:end]
            ]
            batch.worker.answer(batch, encode(Say.DONE, batch.number, outcomes))
            start = end

    async def _carry_out(self, command: _Command) -> None:
        try:
            done = await self._in_thread(lambda: self._writer.command(command.table, command.payload))
        except Exception as error:
            if isinstance(error, StoreError):
                log.error("a command failed", table=command.table, error=str(error))
            else:
                log.exception("a command failed", table=command.table)
            command.worker.send(encode(Say.FAILED, command.number, str(error)))
            return
        answer = done.answer
        said = (answer.prefix.value, answer.text) if isinstance(answer, Refusal) else answer
        command.worker.send(encode(Say.DONE, command.number, said))
        if done.upto > done.after:
            self._ring(done)

    def copy(self, worker: "_Worker", number: int, target: Path) -> None:
        """Say how far a copy of the database is; the first to ask begins it."""
        try:
            answer = encode(Say.DONE, number, self._copies.ask(target))
        except StoreError as error:
            answer = encode(Say.FAILED, number, str(error))
        worker.send(answer)

    async def _remove(self, removal: _Removal) -> None:
        try:
            removed = await self._in_thread(lambda: self._writer.remove(removal.ids, removal.barred))
        except StoreError as error:
            log.error("a removal failed", error=str(error))
            removal.worker.send(encode(Say.FAILED, removal.number, str(error)))
        else:
            removal.worker.send(encode(Say.DONE, removal.number, removed))
            if self._writer.checkpoint_due():
                self._begin_checkpoint()

    async def _remove_slice(self) -> None:
        """Remove some of what somebody owned; answer when nothing is left of it."""
        try:
            await self._in_thread(self._writer.remove_slice)
        except StoreError as error:
            # It goes on when the database can be written again; what arrives is refused all the same.
            log.error("removing what somebody owned failed", error=str(error))
            failed, self._removing = self._removing, []
            for group, _ in failed:
                for batch in group:
                    batch.worker.answer(batch, encode(Say.FAILED, batch.number, str(error)))
            return
        if not self._writer.is_removing:
            done, self._removing = self._removing, []
            for group, committed in done:
                self._answer(group, committed)

    def _commit_now(self, prepared: list[Prepared]) -> tuple[Committed, bool]:
        return self._writer.commit(prepared), self._writer.checkpoint_due()

    def _on_checkpoint(self, done: "asyncio.Future[None]") -> None:
        self._checkpoint = None
        if not done.cancelled() and (error := done.exception()) is not None:
            # The log grows meanwhile; the next commit asks for a checkpoint again.
            log.error("a checkpoint failed", error=str(error))

    def _ring(self, done: Committed) -> None:
        self._head = done.upto
        frame: bytes | None = None
        for worker in self._workers:
            if not worker.takes_rows:
                worker.miss(done.after, done.upto)
                continue
            if frame is None:
                frame = _bell(done)
            worker.send(frame)

    async def _sweep_slice(self, sweep: _Sweep) -> None:
        try:
            removed = await self._in_thread(lambda: self._writer.sweep(sweep.now))
        except StoreError as error:
            log.error("a sweep failed", error=str(error))
            answer = encode(Say.FAILED, sweep.number, str(error))
        else:
            sweep.removed += removed
            if removed:
                return
            answer = encode(Say.DONE, sweep.number, sweep.removed)
        self._sweeps.popleft()
        if sweep.worker is None:
            await self._between("shrinking the file", self._writer.shrink)
        else:
            sweep.worker.send(answer)

    async def _tidy(self) -> bool:
        """Use idle time for the tiers; whether more is due."""
        return await self._between("tidying the tiers", self._writer.tidy)

    async def _between(self, doing: str, slice_: Callable[[], bool]) -> bool:
        """Do a slice of the writer's own work; whether there is more of it."""
        was_shrinking = self._writer.is_shrinking
        try:
            is_more = await self._in_thread(slice_)
        except StoreError as error:
            log.error("the writer's own work failed", doing=doing, error=str(error))
            return False
        # The file itself gets shorter only when its log is copied to the end.
        if self._writer.checkpoint_due() or (was_shrinking and not self._writer.is_shrinking):
            self._begin_checkpoint()
        return is_more

    async def _tick(self) -> None:
        while True:
            if not self._sweeps:
                self.enqueue(_Sweep(int(self._now())))
            await asyncio.sleep(TICK_SECONDS)

    async def _in_thread(self, do: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, do)

    async def _hang_up(self) -> None:
        """Close all connections, after what is still to be sent."""
        gone = [asyncio.ensure_future(worker.closed.wait()) for worker in self._workers]
        for worker in self._workers:
            if worker.transport is not None:
                worker.transport.close()
        if gone:
            _, late = await asyncio.wait(gone, timeout=HANG_UP_SECONDS)
            for waiting in late:
                waiting.cancel()
        for worker in self._workers:
            worker.abort()


def _bell(done: Committed) -> bytes:
    fits = sum(len(json) for _, _, json in done.rows) <= MAX_PUSH_BYTES
    return encode(Say.BELL, done.after, done.upto, done.rows if fits else None)


class _Worker(FrameStream):
    """A connected worker process."""

    def __init__(self, server: WriterServer) -> None:
        super().__init__()
        self._server = server
        self._pending_bytes = 0
        self._is_reading = True
        self._is_following = True
        self._missed: tuple[Seq, Seq] | None = None
        """(after, upto) of the bells it was too slow for, or did not want."""
        self.dropped_ephemeral = 0
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=MAX_PUSH_BYTES)
        self._server.join(self)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self.closed.set()
        self._server.leave(self)

    def message_received(self, size: int, message: tuple[object, ...]) -> None:
        match message:
            case (Say.WRITE, int(number), list(prepared)):
                self._pending_bytes += size
                if self._pending_bytes > MAX_PENDING_BYTES:
                    self.stop_reading()
                self._server.enqueue(_Batch(self, number, prepared, size))
            case (Say.FOLLOW, bool(is_following)):
                self._is_following = is_following
                self._make_up()
            case (Say.COMMAND, int(number), str(table), bytes(payload)):
                self._server.enqueue(_Command(self, number, table, payload))
            case (Say.EPHEMERAL, list(rows)):
                self._server.pass_on(self, rows)
            case (Say.REMOVE, int(number), list(ids), bool(barred)):
                self._server.enqueue(_Removal(self, number, ids, barred))
            case (Say.COPY, int(number), str(path)):
                self._server.copy(self, number, Path(path))
            case (Say.SWEEP, int(number), int(now)):
                self._server.enqueue(_Sweep(now, self, number))
            case _:
                raise ValueError(f"a worker said {message[:1]!r}, which is not for the writer")

    def stop_reading(self) -> None:
        if self._is_reading and self.transport is not None:
            self._is_reading = False
            self.transport.pause_reading()

    def answer(self, batch: _Batch, frame: bytes) -> None:
        """Send a batch's answer, and read on where the worker had to wait."""
        self.send(frame)
        self._pending_bytes -= batch.size
        if self._is_reading or self._server.is_stopping or self._pending_bytes > MAX_PENDING_BYTES:
            return
        if self.transport is not None:
            self._is_reading = True
            self.transport.resume_reading()

    @property
    def takes_rows(self) -> bool:
        """Whether it wants bells, and keeps up."""
        return self._is_following and not self.is_slow

    def miss(self, after: Seq, upto: Seq) -> None:
        """Leave a bell out; one without rows makes up for it when the worker takes bells again."""
        self._missed = (self._missed[0] if self._missed else after, upto)

    def _make_up(self) -> None:
        if self._missed is not None and self.takes_rows:
            after, upto = self._missed
            self._missed = None
            self.send(encode(Say.BELL, after, upto, None))

    def tell(self, count: int, frame: bytes) -> None:
        """Send ephemeral events; drop and count them if the worker does not keep up."""
        if self.is_slow:
            self.dropped_ephemeral += count
        else:
            self.send(frame)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._make_up()


def _listen(path: Path) -> socket.socket:
    try:
        return listen(path)
    except OSError as error:
        raise StoreError(f"cannot listen on {path}: {error}") from error
