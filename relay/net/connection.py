"""One WebSocket: pumps a Session, asks the Relay, and owns the bounded outbox.

The only file that knows which WebSocket library serves. aiohttp reads; what goes out are whole frames,
built once and written to the transport as they are (no compression is negotiated).
"""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import monotonic

import structlog
from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.abc import AbstractStreamWriter

from relay.config import RelayConfig
from relay.engine.feature import Origin
from relay.engine.limits import Rate
from relay.engine.relay import Relay
from relay.engine.subscription import LiveEvent, Subscription
from relay.net.board import Board, Bucket, Counter
from relay.net.frames import accepted_frame, event_frame, live_frames, text_frame
from relay.net.outbox import Outbox
from relay.net.session import Answer, NotText, Session
from relay.nostr.event import PubKey
from relay.nostr.filter import Filter
from relay.nostr.messages import (
    Challenge,
    Close,
    Closed,
    Count,
    Counted,
    Eose,
    Notice,
    Ok,
    Publish,
    RelayMessage,
    Req,
    encode_relay_message,
)
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.store.api import StoreError

log = structlog.get_logger(__name__)

SCANS_AT_A_TIME = 4
"""Stored parts that are read for one connection at the same time; further REQs wait their turn."""
CHUNK_BYTES = 256 * 1024
"""A stored part goes out in writes of about this size, most whole in one."""
MESSAGES_PER_TURN = 32
"""Messages of one connection that are taken before others get their turn."""
CLOSING_SECONDS = 2.0

_TOO_SLOW = str(Refusal(Prefix.ERROR, "too slow: you are not reading what you subscribed to"))
_FAILED = str(Refusal(Prefix.ERROR, "the relay could not read its database; try again later"))
_BINARY = str(invalid("binary frames have no meaning here; send JSON text"))

Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
_Question = tuple[type[Req] | type[Count], str]
"""A REQ and a COUNT may bear one name."""


class AiohttpPipe:
    """The writing half of an aiohttp connection."""

    __slots__ = ("_protocol", "_transport", "_writer")

    def __init__(self, request: web.BaseRequest, writer: AbstractStreamWriter) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        self._transport = transport
        self._protocol = request.protocol
        self._writer = writer

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def abort(self) -> None:
        """Cut the connection without another word."""
        self._transport.abort()

    @property
    def is_full(self) -> bool:
        # aiohttp leaves a lost connection marked as paused.
        return self._protocol.writing_paused and not self._transport.is_closing()

    async def drain(self) -> None:
        await self._writer.drain()
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")


class Connection:
    """One client, from the upgrade to the last byte."""

    __slots__ = (
        "_board",
        "_last_heard",
        "_last_sent",
        "_moved_at",
        "_outbox",
        "_pending",
        "_pipe",
        "_relay",
        "_room",
        "_scans",
        "_serving",
        "_session",
        "_settings",
        "_spawn",
        "_stopping",
        "_subscriptions",
        "_ws",
        "number",
    )

    def __init__(
        self,
        number: int,
        ws: web.WebSocketResponse,
        pipe: AiohttpPipe,
        relay: Relay,
        settings: RelayConfig,
        origin: Origin,
        board: Board,
        slot: int,
        spawn: Spawn,
        exempt: frozenset[PubKey],
    ) -> None:
        """`slot` is the address's place on the board; `spawn` starts tasks that the server owns.

        `exempt` keys, once proved, are not bound by per-address limits.
        """
        self.number = number
        limits = settings.limits
        self._ws = ws
        self._pipe = pipe
        self._relay = relay
        self._settings = settings
        self._board = board
        self._spawn = spawn
        events, requests = Rate(limits.events_per_minute), Rate(limits.requests_per_minute)
        self._session = Session(
            origin=origin,
            challenge=secrets.token_hex(16),
            limits=limits,
            exempt=exempt,
            handlers=relay.handlers,
            allow_event=lambda: board.take(slot, Bucket.EVENTS, events),
            allow_request=lambda: board.take(slot, Bucket.REQUESTS, requests),
        )
        self._outbox = Outbox(pipe, limits.max_outbox_bytes, spawn, asyncio.get_running_loop())
        self._subscriptions: dict[str, Subscription] = {}
        self._serving: dict[_Question, asyncio.Task[None]] = {}
        self._scans: asyncio.Semaphore | None = None
        self._pending = 0
        self._room: asyncio.Event | None = None
        self._stopping = False
        self._last_heard = self._moved_at = monotonic()
        self._last_sent = 0

    @property
    def origin(self) -> Origin:
        """Whose connection this is, with all keys proved so far."""
        return self._session.origin

    async def run(self) -> None:
        """Serve the client until it goes or is sent away."""
        self._send(Challenge(self._session.challenge))
        try:
            taken = 0
            while True:
                message = await self._ws.receive()
                self._last_heard = monotonic()
                match message.type:
                    case WSMsgType.TEXT if not self._stopping:
                        self._take(message.data)
                    case WSMsgType.BINARY:
                        self._send(Notice(_BINARY))
                    case WSMsgType.TEXT:
                        continue
                    case _:
                        return
                taken += 1
                if self._pending >= self._settings.limits.max_pending_events:
                    await self._await_answers()
                if len(self._serving) > self._settings.limits.max_subscriptions:
                    # Subscriptions are counted by the session; these are COUNTs that pile up.
                    await asyncio.wait(self._serving.values(), return_when=asyncio.FIRST_COMPLETED)
                if self._relay.intake.is_full:
                    await self._relay.intake.room()
                if taken % MESSAGES_PER_TURN == 0:
                    await asyncio.sleep(0)
                    # An answer to each message: a client that reads none of them gets no more.
                    await self._outbox.room()
        except NotText:
            await self._ws.close(code=WSCloseCode.INVALID_TEXT, message=b"not UTF-8")
        except ConnectionError:
            return
        except Exception:
            log.exception("taking a message failed; closing the connection", connection=self.number)
            await self.shut(WSCloseCode.INTERNAL_ERROR, b"internal error")
        finally:
            self._leave()

    async def shut(self, code: int, reason: bytes) -> None:
        """Say what is still due, then close with this code."""
        self._stopping = True
        self._outbox.flush()
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                await self._ws.close(code=code, message=reason)
        except TimeoutError:
            self._pipe.abort()

    def pause(self) -> None:
        """Take no more messages: the relay is about to stop."""
        self._stopping = True

    def look_after(self, now: float) -> None:
        """Cut a socket that does not move, and a silent client that waits for nothing.

        Called every few seconds with the monotonic clock.
        """
        timeouts = self._settings.timeouts
        unsent = self._outbox.unsent
        sent = self._outbox.written - self._pipe.get_write_buffer_size()
        if sent != self._last_sent or not unsent:
            self._last_sent, self._moved_at = sent, now
        elif now - self._moved_at >= timeouts.stalled_seconds:
            self._board.add(Counter.CONNECTIONS_STALLED)
            self._pipe.abort()
        if not self._subscriptions and now - self._last_heard >= timeouts.idle_seconds:
            self._last_heard = now
            self._spawn(self.shut(WSCloseCode.OK, b"idle"))

    def deliver(self, subscription: Subscription, events: Sequence[LiveEvent]) -> None:
        """Queue live events."""
        self._outbox.push(live_frames(subscription.prefix, events), subscription)
        self._board.add(Counter.LIVE_SENT, len(events))
        if self._outbox.is_over:
            self.end_slow(subscription)

    def end_slow(self, subscription: Subscription) -> None:
        """End a subscription whose client does not keep up: what is queued for it is dropped."""
        self._board.add(Counter.SUBSCRIPTIONS_TOO_SLOW)
        self._end(subscription, _TOO_SLOW)

    def _take(self, data: bytes) -> None:
        match self._session.receive(data, self._relay.now()):
            case Answer(messages, mistake):
                self._answer(messages, mistake)
            case Publish(event, json):
                self._pending += 1
                self._relay.publish(event, json, self.origin, self._answer_event)
            case Req(name, filters):
                self._board.add(Counter.REQUESTS)
                self._close(name)
                answer = self._relay.ask(filters, self.origin)
                if isinstance(answer, Refusal):
                    self._refuse(name, str(answer))
                else:
                    self._open(Subscription(name, answer, self))
            case Count(name, filters):
                self._board.add(Counter.COUNTS)
                answer = self._relay.ask(filters, self.origin)
                if isinstance(answer, Refusal):
                    self._refuse(name, str(answer))
                else:
                    self._serve((Count, name), partial(self._send_count, name, answer))
            case Close(name):
                self._close(name)

    def _answer(self, messages: tuple[RelayMessage, ...], mistake: bool) -> None:
        for message in messages:
            if isinstance(message, Closed):
                self._close(message.subscription)
            self._send(message)
        if mistake:
            self._board.add(Counter.MESSAGES_INVALID)

    def _answer_event(self, event_id: str, accepted: bool, reason: str) -> None:
        self._pending -= 1
        if self._room is not None and self._pending <= self._settings.limits.max_pending_events // 2:
            self._room.set()
        if accepted and not reason:
            self._board.add(Counter.EVENTS_ACCEPTED)
            self._outbox.push(accepted_frame(event_id))
            return
        self._board.add(Counter.EVENTS_DUPLICATE if accepted else Counter.EVENTS_REFUSED)
        self._send(Ok(event_id, accepted, reason))

    async def _await_answers(self) -> None:
        self._room = asyncio.Event()
        await self._room.wait()
        self._room = None

    def _open(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.name] = subscription
        self._board.add(Counter.SUBSCRIPTIONS_OPEN)
        self._relay.open(subscription)
        self._serve((Req, subscription.name), partial(self._send_stored, subscription))

    def _serve(self, question: _Question, work: Callable[[], Coroutine[None, None, None]]) -> None:
        earlier = self._serving.pop(question, None)
        if earlier is not None:
            earlier.cancel()
        task = self._spawn(self._at_edge(work))
        self._serving[question] = task
        task.add_done_callback(lambda done: self._served(question, done))

    def _served(self, question: _Question, task: asyncio.Task[None]) -> None:
        if self._serving.get(question) is task:
            del self._serving[question]

    async def _at_edge(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        if self._scans is None:
            self._scans = asyncio.Semaphore(SCANS_AT_A_TIME)
        try:
            async with self._scans:
                await work()
        except ConnectionError:
            return  # the client is gone; its reader notices too
        except Exception:
            # A mistake of ours must not take the other clients down: this one is told to come back.
            log.exception("answering failed; closing the connection", connection=self.number)
            await self.shut(WSCloseCode.INTERNAL_ERROR, b"internal error")

    async def _send_stored(self, subscription: Subscription) -> None:
        frames: list[bytes] = []
        size = rows = 0
        prefix = subscription.prefix
        try:
            await self._relay.draw_line(subscription)
            async for page in self._relay.stored(subscription):
                for row in page:
                    frame = event_frame(prefix, row.json)
                    frames.append(frame)
                    size += len(frame)
                rows += len(page)
                if size >= CHUNK_BYTES:
                    self._outbox.push(b"".join(frames), subscription)
                    frames.clear()
                    size = 0
                    await self._outbox.room()
        except StoreError as error:
            log.error("a question could not be answered", connection=self.number, error=str(error))
            self._end(subscription, _FAILED)
            return
        self._board.add(Counter.STORED_SENT, rows)
        frames.append(text_frame(encode_relay_message(Eose(subscription.name))))
        frames.append(live_frames(prefix, subscription.go_live()))
        self._outbox.push(b"".join(frames), subscription)

    async def _send_count(self, name: str, filters: list[Filter]) -> None:
        try:
            count = await self._relay.count(filters, self.origin)
        except StoreError as error:
            log.error("a count could not be made", connection=self.number, error=str(error))
            self._refuse(name, _FAILED)
            return
        self._send(Counted(name, count))

    def _close(self, name: str) -> None:
        """Forget a subscription; nothing more is sent for it."""
        subscription = self._subscriptions.pop(name, None)
        if subscription is None:
            return
        self._relay.close(subscription)
        self._board.add(Counter.SUBSCRIPTIONS_OPEN, -1)
        task = self._serving.pop((Req, name), None)
        if task is not None:
            task.cancel()
        self._outbox.drop(subscription)

    def _end(self, subscription: Subscription, reason: str) -> None:
        """End a subscription from our side; it may have been closed or replaced meanwhile."""
        if self._subscriptions.get(subscription.name) is not subscription:
            return
        self._refuse(subscription.name, reason)

    def _refuse(self, name: str, reason: str) -> None:
        # The client cannot tell whether its COUNT or its subscription of that name has ended.
        self._close(name)
        self._session.ended(name)
        self._board.add(Counter.REQUESTS_REFUSED)
        self._send(Closed(name, reason))

    def _send(self, message: RelayMessage) -> None:
        self._outbox.push(text_frame(encode_relay_message(message)))

    def _leave(self) -> None:
        for name in list(self._subscriptions):
            self._close(name)
        for task in self._serving.values():
            task.cancel()
