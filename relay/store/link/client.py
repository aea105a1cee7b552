"""A worker process's end: asks the writer process, again if need be, and hears its bells."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from relay.store.api import Bell, Seq, Stored, StoreError
from relay.store.link.frames import PROTOCOL, FrameStream, FrameTooLong, Say, encode
from relay.store.private_sockets import socket_address

log = structlog.get_logger(__name__)

ANSWER_SECONDS = 30.0
"""How long a question waits for the writer, restarts of it included."""
MAX_UNANSWERED_BYTES = 32 * 2**20
"""Of questions held for sending them again; more wait for room."""
MAX_PUSH_BYTES = 8 * 2**20
"""Unsent bytes, beyond which ephemeral events are dropped."""
FIRST_RETRY_SECONDS = 0.02
LAST_RETRY_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _Question:
    frame: bytes
    answer: "asyncio.Future[object]"


class WriterLink:
    """The connection to the writer process, made anew whenever it is lost.

    The writer may die at any moment. Questions that it has not answered are then asked again, in
    their order, so every question must bear being asked twice.
    """

    def __init__(
        self,
        socket_path: Path,
        on_bell: Callable[[Bell], None],
        on_events: Callable[[Sequence[bytes]], None],
        *,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._socket_path = socket_path
        self._on_bell = on_bell
        self._on_events = on_events
        self._answer_seconds = answer_seconds
        self._stream: _WriterStream | None = None
        """The connection, from the writer's greeting until it is lost."""
        self._greeted = asyncio.Event()
        self._questions: dict[int, _Question] = {}
        """By number, in the order they were asked: the unanswered ones."""
        self._last_number = 0
        self._unanswered_bytes = 0
        self._turn = asyncio.Lock()
        self._room = asyncio.Event()
        self._upto: Seq | None = None
        """How far bells have rung; None before the first greeting."""
        self._is_following = True
        self._connecting: asyncio.Task[None] | None = None
        self._failure = "it does not greet"
        """Why the newest attempt to connect failed."""
        self._is_closing = False
        self.dropped_ephemeral = 0
        """Events that could not be announced to other processes."""

    @property
    def is_connected(self) -> bool:
        """Whether the writer has greeted, and was not lost since."""
        return self._stream is not None

    async def connect(self) -> None:
        """Wait for the writer's greeting. Raises StoreError when it stays away."""
        self._connecting = asyncio.create_task(self._stay_connected(), name="link to the writer")
        try:
            async with asyncio.timeout(self._answer_seconds):
                await self._greeted.wait()
        except TimeoutError:
            await self.close()
            raise StoreError(f"no writer answers at {self._socket_path}: {self._failure}") from None

    async def ask(self, say: Say, *body: object) -> object:
        """Return the writer's answer to a question.

        Raises StoreError if the writer failed, or gave no answer in time. What was asked may in the
        second case have happened nevertheless.
        """
        if self._is_closing:
            raise StoreError("the store is closed")
        try:
            async with asyncio.timeout(self._answer_seconds):
                number, answer = await self._send(say, body)
                try:
                    return await answer
                finally:
                    self._forget(number)
        except TimeoutError:
            raise StoreError(f"the writer gave no answer within {self._answer_seconds:g} s") from None

    async def _send(self, say: Say, body: tuple[object, ...]) -> "tuple[int, asyncio.Future[object]]":
        # The lock keeps questions in the order they were asked also while they wait for room.
        async with self._turn:
            while self._unanswered_bytes > MAX_UNANSWERED_BYTES:
                self._room.clear()
                await self._room.wait()
            self._last_number = number = self._last_number + 1
            try:
                frame = encode(say, number, *body)
            except FrameTooLong as error:
                raise StoreError(str(error)) from error
            answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
            self._questions[number] = _Question(frame, answer)
            self._unanswered_bytes += len(frame)
            if self._stream is not None:
                self._stream.send(frame)
            return number, answer

    def _forget(self, number: int) -> None:
        self._unanswered_bytes -= len(self._questions.pop(number).frame)
        self._room.set()

    def announce(self, rows: Sequence[bytes]) -> None:
        """Send ephemeral events to the other processes; drops and counts what does not fit."""
        try:
            frame = encode(Say.EPHEMERAL, list(rows))
        except FrameTooLong:
            frame = None
        if frame is None or self._stream is None or self._stream.is_slow:
            self.dropped_ephemeral += len(rows)
        else:
            self._stream.send(frame)

    def follow(self, wanted: bool) -> None:
        """Say whether bells are wanted; when they are again, one makes up for those that were not rung."""
        self._is_following = wanted
        if self._stream is not None:
            self._stream.send(encode(Say.FOLLOW, wanted))

    async def close(self) -> None:
        """Wait for the answers that are due, then hang up."""
        self._is_closing = True
        due = [question.answer for question in self._questions.values()]
        if due:
            await asyncio.wait(due, timeout=self._answer_seconds)
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])

    # What the stream reports

    def greeted(self, stream: "_WriterStream", protocol: object, head: Seq) -> None:
        """Take a new connection into use."""
        if protocol != PROTOCOL:
            self._failure = f"it speaks {protocol!r}, this process {PROTOCOL!r}: they are not the same Torv"
            stream.abort()
            return
        stream.is_greeted = True
        self._stream = stream
        self._greeted.set()
        if not self._is_following:
            stream.send(encode(Say.FOLLOW, False))
        for question in self._questions.values():
            if not question.answer.done():
                stream.send(question.frame)
        upto, self._upto = self._upto, head
        if upto is not None:
            log.info("found the writer process again", unanswered=len(self._questions))
        if upto is not None and upto < head:
            # Bells were missed while the connection was lost.
            self._on_bell(Bell(upto, head, None))

    def lost(self, stream: "_WriterStream") -> None:
        """Stop using a connection."""
        if self._stream is stream:
            self._stream = None

    def answered(self, number: int, value: object) -> None:
        """Give an answer to who asked; one that came too late is dropped."""
        question = self._questions.get(number)
        if question is None or question.answer.done():
            return
        if isinstance(value, StoreError):
            question.answer.set_exception(value)
        else:
            question.answer.set_result(value)

    def rang(self, bell: Bell) -> None:
        """Pass on a bell of the present connection."""
        self._upto = bell.upto
        self._on_bell(bell)

    def heard(self, rows: Sequence[bytes]) -> None:
        """Pass on another process's ephemeral events."""
        self._on_events(rows)

    async def _stay_connected(self) -> None:
        loop = asyncio.get_running_loop()
        pause = FIRST_RETRY_SECONDS
        while True:
            stream = _WriterStream(self)
            try:
                with socket_address(self._socket_path) as address:
                    await loop.create_unix_connection(lambda stream=stream: stream, address)  # type: ignore[misc]
                await stream.closed.wait()
                if stream.is_greeted:
                    pause = FIRST_RETRY_SECONDS
                    log.warning("lost the writer process", unanswered=len(self._questions))
            except OSError as error:
                self._failure = str(error)
            finally:
                stream.abort()
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_RETRY_SECONDS)


class _WriterStream(FrameStream):
    """One connection to the writer."""

    def __init__(self, link: WriterLink) -> None:
        super().__init__()
        self._link = link
        self.is_greeted = False
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.set_write_buffer_limits(high=MAX_PUSH_BYTES)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._link.lost(self)
        self.closed.set()

    def message_received(self, size: int, message: tuple[object, ...]) -> None:
        match message:
            case (Say.DONE, int(number), value):
                self._link.answered(number, value)
            case (Say.BELL, int(after), int(upto), None):
                self._link.rang(Bell(Seq(after), Seq(upto), None))
            case (Say.BELL, int(after), int(upto), list(rows)):
                self._link.rang(Bell(Seq(after), Seq(upto), tuple(map(Stored._make, rows))))
            case (Say.EPHEMERAL, list(rows)):
                self._link.heard(rows)
            case (Say.FAILED, int(number), str(text)):
                self._link.answered(number, StoreError(text))
            case (Say.HELLO, protocol, int(head)):
                self._link.greeted(self, protocol, Seq(head))
            case _:
                raise ValueError(f"the writer said {message[:2]!r}, which is not for a worker")
