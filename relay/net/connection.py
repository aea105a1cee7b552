"""One client: takes what it says to a Session, asks the Relay, and owns the bounded outbox."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import monotonic

import structlog
from websockets.frames import CloseCode

from relay.config import RelayConfig
from relay.engine.feature import Origin
from relay.engine.limits import Rate
from relay.engine.relay import Relay
from relay.engine.sifting import Exhausted
from relay.engine.subscription import LiveEvent, Subscription
from relay.net.board import REFUSALS, Board, Bucket, Counter, Histogram
from relay.net.deflate import Frames, inflate
from relay.net.eager import begin
from relay.net.frames import accepted_frame
from relay.net.incoming import Broken
from relay.net.outbox import Outbox
from relay.net.reconciling import Reconciling
from relay.net.session import Action, Answer, NotText, Session
from relay.net.shapes import shape
from relay.net.slow import SlowQuestions
from relay.net.websocket import WebSocket
from relay.nostr.event import PubKey
from relay.nostr.filter import Filter
from relay.nostr.messages import (
    Challenge,
    Close,
    Closed,
    Count,
    Counted,
    Eose,
    NegClose,
    NegErr,
    NegMsg,
    NegOpen,
    Notice,
    Ok,
    Publish,
    RelayMessage,
    Req,
    encode_relay_message,
)
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.store.api import StoreError
from relay.store.turns import Account, Turns, client

log = structlog.get_logger(__name__)

SCANS_AT_A_TIME = 4
"""Stored parts that are read for one connection at the same time; further REQs wait their turn."""
LARGE_BYTES = 16 * 1024
"""Messages beyond this size are taken in turns: parsing a question with thousands of values takes as long as
answering several small ones."""
LARGE_CLIENTS_BYTES = 1024
"""The same for clients who ask for much."""
CHUNK_BYTES = 256 * 1024
"""A stored part goes out in writes of about this size, most whole in one."""

_TOO_SLOW = str(Refusal(Prefix.ERROR, "too slow: you are not reading what you subscribed to"))
_FAILED = str(Refusal(Prefix.ERROR, "the relay could not read its database; try again later"))
_BINARY = str(invalid("binary frames have no meaning here; send JSON text"))

# NIP-67.
_HINTS: dict[bool | None, tuple[str, ...]] = {True: ("finish",), False: ("more",), None: ()}

Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]
_Question = tuple[type[Req] | type[Count], str]
"""A REQ and a COUNT may bear one name."""


class Connection:
    """One client, from the upgrade to the last byte."""

    __slots__ = (
        "_account",
        "_amid_since",
        "_began",
        "_board",
        "_counted_in",
        "_counted_out",
        "_delivered",
        "_frames",
        "_is_lost",
        "_last_heard",
        "_last_sent",
        "_moved_at",
        "_on_lost",
        "_outbox",
        "_pending",
        "_published",
        "_reconciling",
        "_relay",
        "_room",
        "_scans",
        "_serving",
        "_session",
        "_settings",
        "_slow",
        "_socket",
        "_spawn",
        "_stopping",
        "_subscriptions",
        "number",
        "slot",
    )

    def __init__(
        self,
        number: int,
        socket: WebSocket,
        relay: Relay,
        settings: RelayConfig,
        origin: Origin,
        board: Board,
        slot: int,
        spawn: Spawn,
        exempt: frozenset[PubKey],
        on_lost: "Callable[[Connection], None]",
        turns: Turns,
        frames: Frames,
        slow: SlowQuestions,
    ) -> None:
        """Greet the client, and serve it until it goes or is sent away; then call `on_lost`.

        `slot` is the address's place on the board; `spawn` starts tasks that the server owns. `exempt` keys,
        once proved, are not bound by per-address limits. All connections of a process share `turns`, and
        `frames` with those that agreed on the same compression. `slow` questions are noted for all.
        """
        self.number = number
        self.slot = slot
        limits = settings.limits
        self._socket = socket
        self._relay = relay
        self._settings = settings
        self._board = board
        self._spawn = spawn
        self._on_lost = on_lost
        self._account = Account(turns)
        self._frames = frames
        self._slow = slow
        self._is_lost = False
        events, requests = Rate(limits.events_per_minute), Rate(limits.requests_per_minute)
        others = Rate(limits.others_per_minute)
        self._session = Session(
            origin=origin,
            challenge=secrets.token_hex(16),
            limits=limits,
            exempt=exempt,
            handlers=relay.handlers,
            allow_event=lambda: board.take(slot, Bucket.EVENTS, events),
            allow_request=lambda: board.take(slot, Bucket.REQUESTS, requests),
            allow_other=lambda: board.take(slot, Bucket.OTHERS, others),
        )
        self._outbox = Outbox(socket, limits.max_outbox_bytes, asyncio.get_running_loop())
        self._subscriptions: dict[str, Subscription] = {}
        self._serving: dict[_Question, asyncio.Task[None]] = {}
        """The questions whose answers have to wait for something."""
        self._reconciling: Reconciling | None = None
        self._scans: asyncio.Semaphore | None = None
        self._pending = 0
        self._room: asyncio.Event | None = None
        self._stopping = False
        self._began = self._last_heard = self._moved_at = monotonic()
        self._last_sent = 0
        self._published = self._delivered = 0
        self._counted_in = self._counted_out = 0
        """Bytes that the board knows of."""
        self._amid_since: float | None = None
        self._send(Challenge(self._session.challenge))
        socket.talk(self)

    def adopt(self, settings: RelayConfig, exempt: frozenset[PubKey]) -> None:
        """Go on by other settings, and by the features that the relay has adopted before.

        Subscriptions that these refuse end with CLOSED. Reconciliations go on as they were begun.
        """
        limits = settings.limits
        board, slot = self._board, self.slot
        events, requests = Rate(limits.events_per_minute), Rate(limits.requests_per_minute)
        others = Rate(limits.others_per_minute)
        self._settings = settings
        self._session.adopt(
            url=settings.url or self.origin.url,
            limits=limits,
            exempt=exempt,
            handlers=self._relay.handlers,
            allow_event=lambda: board.take(slot, Bucket.EVENTS, events),
            allow_request=lambda: board.take(slot, Bucket.REQUESTS, requests),
            allow_other=lambda: board.take(slot, Bucket.OTHERS, others),
        )
        self._socket.bound(limits.max_message_bytes)
        self._outbox.bound(limits.max_outbox_bytes)
        if self._reconciling is not None:
            self._reconciling.adopt(settings)
        for subscription in tuple(self._subscriptions.values()):
            if (refusal := self._relay.judge_anew(subscription)) is not None:
                self._refuse(subscription.name, str(refusal))

    @property
    def origin(self) -> Origin:
        """Whose connection this is, with all keys proved so far."""
        return self._session.origin

    def take(self, text: bytes) -> None:
        """Take one message of the client. Raises Broken."""
        self._last_heard = monotonic()
        if self._stopping:
            return
        if len(text) > (LARGE_CLIENTS_BYTES if self._account.is_large else LARGE_BYTES):
            self._take_later(lambda: text)
            return
        try:
            self._act_on(self._session.receive(text, self._relay.now()))
        except NotText:
            raise Broken(CloseCode.INVALID_DATA, "not UTF-8") from None
        if self._has_to_wait:
            self._socket.hold()
            self._spawn(self._wait())

    def take_deflated(self, text: bytes) -> None:
        """Take one message as `take` does, inflated. Raises Broken."""
        small = inflate(text, LARGE_BYTES) if len(text) <= LARGE_BYTES else None
        if small is not None:
            self.take(small)
        elif not self._stopping:
            # A few bytes that become very many wait for their turn as messages do that are long already.
            self._take_later(partial(self._inflate, text))

    def take_binary(self) -> None:
        """Tell the client that we do not understand. Raises Broken."""
        self._session.made_mistake()
        self._send(Notice(_BINARY))

    def answer_ping(self, pong: bytes) -> None:
        """Queue this frame."""
        self._outbox.push(pong)

    def begin_turn(self) -> None:
        """Some messages follow, then `end_turn`: what is due to the client meanwhile is one write."""
        self._outbox.gather()

    def end_turn(self) -> None:
        """Write what is due, unless the socket is full."""
        self._outbox.flush()

    def lost(self) -> None:
        """The client is gone."""
        self._is_lost = True
        self._count_bytes()
        for name in list(self._subscriptions):
            self._close(name)
        for task in self._serving.values():
            task.cancel()
        if self._reconciling is not None:
            self._reconciling.close_all()
        self._on_lost(self)

    def shut(self, code: int, reason: bytes) -> None:
        """Say what is still due, then goodbye."""
        self._stopping = True
        self._outbox.empty()
        self._socket.close(code, reason)

    def abort(self) -> None:
        """Cut the connection without another word."""
        self._socket.abort()

    def pause(self) -> None:
        """Take no more messages: the relay is about to stop."""
        self._stopping = True

    @property
    def owes_nothing(self) -> bool:
        """Whether all that the client has asked and published was answered."""
        return not self._pending and not self._serving

    def look_after(self, now: float) -> None:
        """Cut a socket that does not move or is dead, and a silent client that waits for nothing.

        Called every few seconds with the monotonic clock.
        """
        timeouts = self._settings.timeouts
        self._count_bytes()
        self._socket.look_after(now, timeouts.ping_seconds)
        unsent = self._outbox.unsent
        sent = self._outbox.written - self._socket.get_write_buffer_size()
        if sent != self._last_sent or not unsent:
            self._last_sent, self._moved_at = sent, now
        elif now - self._moved_at >= timeouts.stalled_seconds:
            self._board.add(Counter.CONNECTIONS_STALLED)
            self._socket.abort()
        if not self._socket.is_amid_message:
            self._amid_since = None
        elif self._amid_since is None or self._amid_since < self._last_heard:
            self._amid_since = now
        elif now - self._amid_since >= timeouts.message_seconds:
            self._socket.fail(CloseCode.POLICY_VIOLATION, b"a message took too long to arrive")
        if self._reconciling is not None:
            self._reconciling.look_after(now)
        if not self._subscriptions and now - self._last_heard >= timeouts.idle_seconds:
            self._last_heard = now
            self.shut(CloseCode.NORMAL_CLOSURE, b"idle")

    @property
    def unsent(self) -> int:
        """Bytes that are held for the client."""
        return self._outbox.unsent

    @property
    def traffic(self) -> int:
        """Bytes that have come and gone."""
        return self._socket.received + self._outbox.written

    @property
    def is_slow(self) -> bool:
        """Whether the client takes less than it is sent."""
        return self._socket.is_full

    def report(self) -> dict[str, object]:
        """Say who this is and what it does, for the operator: keys shortened, filters as shapes."""
        now = monotonic()
        return {
            "connection": self.number,
            "address": self.origin.address,
            "seconds": round(now - self._began, 1),
            "silent_seconds": round(now - self._last_heard, 1),
            "keys": sorted(key[:8] for key in self.origin.authenticated),
            "events_in": self._published,
            "events_out": self._delivered,
            "bytes_in": self._socket.received,
            "bytes_out": self._outbox.written,
            "bytes_unsent": self._outbox.unsent,
            "subscriptions": [
                [shape(wanted) for wanted in one.filters] for one in self._subscriptions.values()
            ],
        }

    def _count_bytes(self) -> None:
        received, written = self._socket.received, self._outbox.written
        if (received, written) == (self._counted_in, self._counted_out):
            return
        self._board.add(Counter.BYTES_RECEIVED, received - self._counted_in)
        self._board.add(Counter.BYTES_SENT, written - self._counted_out)
        self._counted_in, self._counted_out = received, written

    def deliver(self, subscription: Subscription, events: Sequence[LiveEvent]) -> None:
        """Queue live events."""
        self._outbox.push(self._frames.live(subscription.prefix, events), subscription)
        self._board.add(Counter.LIVE_SENT, len(events))
        self._delivered += len(events)
        if self._outbox.is_over:
            self.end_slow(subscription)

    def end_slow(self, subscription: Subscription) -> None:
        """End a subscription whose client does not keep up: what is queued for it is dropped."""
        self._board.add(Counter.SUBSCRIPTIONS_TOO_SLOW)
        self._end(subscription, _TOO_SLOW)

    def _act_on(self, action: Action) -> None:
        match action:
            case Answer(messages, mistake):
                self._answer(messages, mistake)
            case Publish(event, json):
                self._pending += 1
                self._published += 1
                self._relay.publish(event, json, self.origin, self._answer_event)
            case Req(name, filters):
                self._board.add(Counter.REQUESTS)
                self._asks()
                self._close(name)
                answer = self._relay.ask(filters, self.origin)
                if isinstance(answer, Refusal):
                    self._refuse(name, str(answer))
                else:
                    self._open(Subscription(name, answer, self))
            case Count(name, filters):
                self._board.add(Counter.COUNTS)
                self._asks()
                answer = self._relay.ask(filters, self.origin, may_search=False)
                if isinstance(answer, Refusal):
                    self._refuse(name, str(answer))
                else:
                    self._serve((Count, name), partial(self._send_count, name, answer))
            case Close(name):
                self._close(name)
            case NegOpen() as message:
                self._board.add(Counter.REQUESTS)
                self._asks()
                self._reconciliations().open(message, self.origin)
            case NegMsg() as message:
                self._reconciliations().go_on(message)
            case NegClose(name):
                self._reconciliations().close(name)

    def _asks(self) -> None:
        client.set(self._account)
        self._account.asks()

    def _reconciliations(self) -> Reconciling:
        # Few connections ever have one.
        if self._reconciling is None:
            self._reconciling = Reconciling(
                self._relay, self._settings, self._outbox, self._send, self._begin
            )
        return self._reconciling

    def _answer(self, messages: tuple[RelayMessage, ...], mistake: bool) -> None:
        for message in messages:
            if isinstance(message, Closed):
                self._close(message.subscription)
            elif isinstance(message, NegErr):
                self._reconciliations().close(message.name)
            elif isinstance(message, Ok) and not message.accepted:
                self._count_refusal(message.reason)
            self._send(message)
        if mistake:
            self._board.add(Counter.MESSAGES_INVALID)

    def _answer_event(self, event_id: str, accepted: bool, reason: str) -> None:
        self._pending -= 1
        if self._room is not None and self._pending <= self._settings.limits.max_pending_events // 2:
            self._room.set()
        if accepted:
            self._board.add(Counter.EVENTS_DUPLICATE if reason else Counter.EVENTS_ACCEPTED)
            self._outbox.push(accepted_frame(event_id, reason))
            return
        self._board.add(Counter.EVENTS_REFUSED)
        self._count_refusal(reason)
        self._send(Ok(event_id, False, reason))

    def _count_refusal(self, reason: str) -> None:
        self._board.add(REFUSALS.get(reason.partition(":")[0], Counter.REFUSED_OTHERWISE))

    def _inflate(self, text: bytes) -> bytes:
        most = self._settings.limits.max_message_bytes
        inflated = inflate(text, most)
        if inflated is None:
            raise Broken(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {most} bytes")
        return inflated

    def _take_later(self, text: Callable[[], bytes]) -> None:
        self._last_heard = monotonic()
        self._socket.hold()
        self._spawn(self._take_large(text))

    async def _take_large(self, text: Callable[[], bytes]) -> None:
        account = self._account
        try:
            await account.turns.take(account)
            heard = account.measure(lambda: self._session.parse(text()))
            if not isinstance(heard, Answer):
                # Filing thousands of values takes half as long as reading them.
                await account.turns.take(account)
                heard = self._session.judge(heard, self._relay.now())
            if self._is_lost or self._stopping:
                return
            self._act_on(heard)
        except NotText:
            self._socket.fail(CloseCode.INVALID_DATA, b"not UTF-8")
        except Broken as error:
            self._socket.fail(error.code, error.reason.encode())
        except Exception:
            log.exception("taking a message failed; closing the connection", connection=self.number)
            self._socket.fail(CloseCode.INTERNAL_ERROR, b"internal error")
        else:
            await self._wait()

    @property
    def _has_to_wait(self) -> bool:
        limits = self._settings.limits
        return (
            self._pending >= limits.max_pending_events
            # Subscriptions are counted by the session; these are COUNTs that pile up.
            or len(self._serving) > limits.max_subscriptions
            or self._relay.intake.is_full
        )

    async def _wait(self) -> None:
        """Let the client say more as soon as what it said can be coped with."""
        while self._has_to_wait:
            if self._pending >= self._settings.limits.max_pending_events:
                self._room = asyncio.Event()
                await self._room.wait()
                self._room = None
            if len(self._serving) > self._settings.limits.max_subscriptions:
                await asyncio.wait(self._serving.values(), return_when=asyncio.FIRST_COMPLETED)
            await self._relay.intake.room()
        self._socket.go_on()

    def _open(self, subscription: Subscription) -> None:
        self._subscriptions[subscription.name] = subscription
        self._board.add(Counter.SUBSCRIPTIONS_OPEN)
        self._relay.open(subscription)
        if not self._answered_at_once(subscription):
            self._serve((Req, subscription.name), partial(self._send_stored, subscription))

    def _answered_at_once(self, subscription: Subscription) -> bool:
        if self._socket.is_full:
            return False
        began = monotonic()
        try:
            rows = self._relay.answer_at_once(subscription)
        except StoreError as error:
            self._end_unread(subscription, error)
            return True
        if rows is None:
            return False
        pieces: list[bytes] = []
        self._frames.add_stored(pieces, subscription.prefix, rows)
        self._end_stored(subscription, pieces, len(rows), began)
        return True

    def _serve(self, question: _Question, work: Callable[[], Coroutine[None, None, None]]) -> None:
        earlier = self._serving.pop(question, None)
        if earlier is not None:
            earlier.cancel()
        task = self._begin(work)
        if task is not None:
            self._serving[question] = task
            task.add_done_callback(lambda done: self._served(question, done))

    def _begin(self, work: Callable[[], Coroutine[None, None, None]]) -> asyncio.Task[None] | None:
        return begin(self._at_edge(work), self._spawn)

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
            return  # the client is gone
        except Exception:
            # A mistake of ours must not take the other clients down: this one is told to come back.
            log.exception("answering failed; closing the connection", connection=self.number)
            self.shut(CloseCode.INTERNAL_ERROR, b"internal error")

    async def _send_stored(self, subscription: Subscription) -> None:
        pieces: list[bytes] = []
        size = rows = 0
        prefix = subscription.prefix
        began, waited = monotonic(), 0.0
        try:
            await self._relay.draw_line(subscription)
            async for page in self._relay.answer(subscription):
                size += self._frames.add_stored(pieces, prefix, page)
                rows += len(page)
                if size >= CHUNK_BYTES:
                    self._outbox.push(b"".join(pieces), subscription)
                    pieces.clear()
                    size = 0
                    full = monotonic()
                    await self._outbox.room()
                    waited += monotonic() - full
        except Exhausted as error:
            self._note_if_slow("REQ", subscription.filters, rows, monotonic() - began - waited)
            self._end(subscription, str(error.refusal))
            return
        except StoreError as error:
            self._end_unread(subscription, error)
            return
        # How fast the client takes its answer is not the question's fault.
        self._end_stored(subscription, pieces, rows, began + waited)

    def _end_unread(self, subscription: Subscription, error: StoreError) -> None:
        log.error("a question could not be answered", connection=self.number, error=str(error))
        self._end(subscription, _FAILED)

    def _end_stored(self, subscription: Subscription, pieces: list[bytes], rows: int, began: float) -> None:
        """Send the last pieces and the EOSE; then what was buffered beyond the line."""
        self._board.add(Counter.STORED_SENT, rows)
        hints = _HINTS[subscription.is_complete]
        pieces.append(self._frames.text(encode_relay_message(Eose(subscription.name, hints))))
        if live := subscription.go_live():
            pieces.append(self._frames.live(subscription.prefix, live))
        self._outbox.push(b"".join(pieces), subscription)
        self._delivered += rows
        seconds = monotonic() - began
        self._board.observe(Histogram.QUESTION, seconds)
        self._note_if_slow("REQ", subscription.filters, rows, seconds)

    def _note_if_slow(self, verb: str, filters: Sequence[Filter], rows: int, seconds: float) -> None:
        most = self._settings.log_slow_queries_ms
        if most and seconds * 1000 >= most:
            self._board.add(Counter.QUESTIONS_SLOW)
            self._slow.note(verb, filters, rows=rows, seconds=seconds, connection=self.number)

    async def _send_count(self, name: str, filters: list[Filter]) -> None:
        began = monotonic()
        try:
            count = await self._relay.count(filters, self.origin)
            registers = None
            if self._settings.hyperloglog:
                registers = await self._relay.registers(filters, self.origin, count)
        except Exhausted as error:
            self._refuse(name, str(error.refusal))
            return
        except StoreError as error:
            log.error("a count could not be made", connection=self.number, error=str(error))
            self._refuse(name, _FAILED)
            return
        self._send(Counted(name, count, registers))
        self._note_if_slow("COUNT", filters, count, monotonic() - began)

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
        self._outbox.push(self._frames.text(encode_relay_message(message)))
