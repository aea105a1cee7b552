"""One connection to one relay: what is asked, and how answers find the one who asked."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidURI, WebSocketException
from websockets.uri import parse_uri

from relay.client.failures import Misbehaved, Rejected, Unreachable, Unsupported
from relay.client.inbox import EndOfStored, Inbox
from relay.nostr import kinds
from relay.nostr.event import Event, InvalidEvent, check_event, encode, sign
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.messages import (
    Auth,
    Challenge,
    ClientMessage,
    Close,
    Closed,
    Count,
    Counted,
    Delivered,
    Eose,
    InvalidMessage,
    NegClose,
    NegErr,
    NegMsg,
    NegOpen,
    Notice,
    Ok,
    Publish,
    RelayMessage,
    Req,
    encode_client_message,
    parse_relay_message,
)
from relay.nostr.negentropy import Client, Differences, InvalidFrame, Vector
from relay.nostr.reasons import Prefix, prefix_of

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE_EVENTS = 500
"""How many events one page of `page_back` asks for: the cap that many relays have."""

_MAX_UNANSWERED_EVENTS = 256
_MAX_PAGE_EVENTS = 10_000
_MAX_FETCHED_BYTES = 64 * 2**20
_MAX_NEGENTROPY_FRAME_BYTES = 50_000
"""Twice as many characters on the wire: less than relays take at least, which is 128 KiB for most."""
_MAX_IDLE_ROUNDS = 32
"""Negentropy splits a range into 16: of a million events single ones are found in five rounds."""
_FIRST_FRAME_PATIENCE = 3
"""A relay reads all its ids before it answers NEG-OPEN: so many times as long as for another answer."""
_MAX_DISCARD_REASONS = 50
# How long the relay may take to answer the close of the connection.
_CLOSE_SECONDS = 1.0


class RelayClient:
    """One connection to one relay: an async context manager that connects when entered, once.

    With a `signer` it answers the relay's challenges (NIP-42). Calls may overlap. When the connection
    is lost every call raises Unreachable; `reconnect` and `follow` make new connections.
    """

    def __init__(
        self,
        url: str,
        signer: SecretKey | None = None,
        *,
        connect_seconds: float = 10.0,
        answer_seconds: float = 10.0,
        ping_seconds: float = 20.0,
        max_message_bytes: int = 2**20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take a ws:// or wss:// URL; connects to nothing yet. Raises ValueError for another URL.

        `answer_seconds` bounds the wait for every single answer, `max_message_bytes` what the relay
        may send in one message; `clock` gives unix seconds and dates the AUTH events.
        """
        try:
            parse_uri(url)
        except InvalidURI as error:
            raise ValueError(str(error)) from None
        self.url = url
        self._signer = signer
        self._connect_seconds = connect_seconds
        self._answer_seconds = answer_seconds
        self._ping_seconds = ping_seconds
        self._max_message_bytes = max_message_bytes
        self._clock = clock
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._lost: str | None = "not connected"
        self._names = map(str, count(1))
        self._oks: dict[str, list[asyncio.Future[Ok]]] = {}
        self._counts: dict[str, asyncio.Future[int]] = {}
        self._inboxes: dict[str, Inbox] = {}
        self._frames: dict[str, asyncio.Future[NegMsg]] = {}
        self._is_opening: set[str] = set()
        """Reconciliations whose first frame has not been answered."""
        self._unanswered = asyncio.Semaphore(_MAX_UNANSWERED_EVENTS)
        self._awaited = 0
        self._may_read = asyncio.Event()
        self._challenge: str | None = None
        self._challenged = asyncio.Event()
        self._auth_id: str | None = None
        self._authenticated: asyncio.Future[Ok] | None = None
        self.discarded = 0
        """How many messages of the relay broke the protocol and were passed over."""
        self.discards: dict[str, int] = {}
        """The same by reason, of which there are few."""

    async def __aenter__(self) -> Self:
        """Connect. Raises Unreachable."""
        try:
            self._connection = await connect(
                self.url,
                # The relay is spoken to directly, whatever HTTP proxy the environment names.
                proxy=None,
                compression=None,
                open_timeout=self._connect_seconds,
                ping_interval=self._ping_seconds,
                ping_timeout=self._ping_seconds,
                close_timeout=_CLOSE_SECONDS,
                max_size=self._max_message_bytes,
            )
        except (OSError, WebSocketException, UnicodeError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from error
        self._lost = None
        self._may_read.set()
        # Owned by this object: `__aexit__` cancels it and waits for its end.
        self._reader = asyncio.create_task(self._read(self._connection))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._connection is not None and self._reader is not None
        self._reader.cancel()
        try:
            await asyncio.wait({self._reader})
        finally:
            self._lose("the connection was closed")
            await self._hang_up(self._connection)
        if not self._reader.cancelled():
            self._reader.result()

    async def _hang_up(self, connection: ClientConnection) -> None:
        try:
            async with asyncio.timeout(2 * _CLOSE_SECONDS):
                await connection.close()
        except TimeoutError:
            # close() waits without end for room in the buffer, if the relay reads no more.
            connection.transport.abort()
            await connection.wait_closed()

    async def publish(self, event: Event) -> Ok:
        """Send a signed event; return the relay's OK, which accepts it (perhaps as a duplicate).

        Answers `auth-required:` by NIP-42 and sends once more. Raises Rejected, with the relay's
        reason, or Unreachable: then the event may or may not have been stored, and may be sent again.
        """
        message = Publish(event, encode(event))
        async with self._unanswered:
            ok = await self._ask_ok(event.id, message)
            if not ok.accepted and self._can_authenticate_after(ok.reason):
                await self.authenticate()
                ok = await self._ask_ok(event.id, message)
        if not ok.accepted:
            raise self._rejected(ok.reason)
        return ok

    async def subscribe(self, filters: Sequence[Filter]) -> AsyncGenerator[Event | EndOfStored, None]:
        """Yield stored events, `EndOfStored` once, then live events as they come, without end.

        Every event was checked: id, signature, and that it meets one of the filters. A consumer that
        falls behind stops the reading of the whole connection, which may break for it: neither side
        waits for long. Leave early through `contextlib.aclosing`, so that the subscription is closed
        at once. Raises Rejected when the relay refuses or ends the subscription, Unreachable when the
        connection is lost.
        """
        await self._settle_authentication()
        name, inbox = await self._open(filters)
        may_authenticate = True
        is_stored = True
        try:
            while True:
                try:
                    item = await self._next(inbox, has_deadline=is_stored)
                except Rejected as error:
                    if not (may_authenticate and self._can_authenticate_after(error.text)):
                        raise
                    may_authenticate = False
                    await self.authenticate()
                    name, inbox = await self._open(filters)
                    continue
                may_authenticate = False
                if isinstance(item, EndOfStored):
                    is_stored = False
                yield item
        finally:
            await self._close(name)

    async def fetch(self, filters: Sequence[Filter], *, most: int = _MAX_PAGE_EVENTS) -> list[Event]:
        """Return the stored events as the relay sends them, newest first, each once, checked.

        At most `most`, and 64 MiB of JSON; a relay has a cap of its own, so this may not be all: see
        `page_back`. Raises Rejected or Unreachable.
        """
        found, _ = await self._fetch(filters, most)
        return found

    async def _fetch(self, filters: Sequence[Filter], most: int) -> tuple[list[Event], bool]:
        """Do as `fetch`; say too whether the relay said that this is all."""
        found: dict[str, Event] = {}
        size = 0
        is_complete = False
        with self._awaiting_answer():
            async with aclosing(self.subscribe(filters)) as items:
                async for item in items:
                    if isinstance(item, EndOfStored):
                        is_complete = item.is_complete
                        break
                    found[item.id] = item
                    size += len(encode(item))
                    if len(found) >= most or size >= _MAX_FETCHED_BYTES:
                        break
        return list(found.values()), is_complete

    async def page_back(
        self, wanted: Filter, *, page_events: int = PAGE_EVENTS
    ) -> AsyncGenerator[Event, None]:
        """Yield all stored events that match, newest first, page by page until there are no more.

        Most relays cut long answers without saying so: then only an empty page proves that. Others say
        what was all, and send seconds whole (NIP-67); elsewhere events beyond the relay's cap that share
        one second cannot be reached by any filter. `wanted.limit` is not looked at. Raises Rejected or
        Unreachable.
        """
        until = wanted.until
        since = max(0, wanted.since or 0)
        yielded: set[str] = set()
        while until is None or until >= since:
            asked = replace(wanted, until=until, limit=page_events)
            page, is_last = await self._fetch([asked], _MAX_PAGE_EVENTS)
            page.sort(key=lambda event: (-event.created_at, event.id))
            fresh = [event for event in page if event.id not in yielded]
            for event in fresh:
                yield event
            if is_last or not page:
                return
            oldest = page[-1].created_at
            if fresh:
                # The oldest second may have been cut in two: ask for it until it brings nothing new.
                kept = yielded if oldest == until else set()
                yielded = kept | {event.id for event in page if event.created_at == oldest}
                until = oldest
            else:
                until = oldest - 1

    async def count(self, filters: Sequence[Filter]) -> int:
        """Return how many stored events match (NIP-45). Raises Rejected or Unreachable."""
        await self._settle_authentication()
        try:
            return await self._count_once(filters)
        except Rejected as error:
            if not self._can_authenticate_after(error.text):
                raise
        await self.authenticate()
        return await self._count_once(filters)

    async def reconcile(self, wanted: Filter, vector: Vector) -> AsyncGenerator[Differences, None]:
        """Yield what differs between `vector` and what the relay has that matches (NIP-77), each id once.

        Nothing is said of what neither side names: it is equal, if the relay tells the truth. Leave early
        through `contextlib.aclosing`. Raises Unsupported where the relay does not know Negentropy, Rejected
        (where there is too much of it, the prefix is `blocked`), Misbehaved, Unreachable.
        """
        client = Client(vector, max_frame_bytes=_MAX_NEGENTROPY_FRAME_BYTES)
        await self._settle_authentication()
        name = next(self._names)
        try:
            frame = await self._first_frame(name, wanted, client.initiate())
            seen: set[bytes] = set()
            idle = 0
            while True:
                try:
                    reply, told = client.reconcile(frame)
                except InvalidFrame as error:
                    raise Misbehaved(self.url, f"Negentropy: {error.refusal.text}") from error
                have = tuple(id_ for id_ in told.have if id_ not in seen)
                need = tuple(id_ for id_ in told.need if id_ not in seen)
                seen.update(have, need)
                idle = 0 if have or need else idle + 1
                if have or need:
                    yield Differences(have, need)
                if reply is None:
                    return
                if idle >= _MAX_IDLE_ROUNDS:
                    raise Misbehaved(self.url, f"Negentropy: {idle} rounds told nothing new")
                frame = await self._next_frame(name, NegMsg(name, reply))
        finally:
            self._is_opening.discard(name)
            if self._frames.pop(name, None) is not None and self._lost is None:
                try:
                    await self._send(NegClose(name))
                except Unreachable as error:
                    log.debug("close of a reconciliation: %s", error)

    async def authenticate(self) -> None:
        """Wait until the relay's challenge has come and its OK to our answer (NIP-42).

        Raises Rejected when there is no signer or the relay refuses it, Unreachable when no challenge
        comes in time. Does nothing when already authenticated.
        """
        if self._signer is None:
            raise self._rejected(f"{Prefix.AUTH_REQUIRED}: there is no key to authenticate with")
        self._check_connected()
        with self._awaiting_answer():
            await self._within(self._challenged.wait(), "challenge")
            self._check_connected()
            ok = await self._within(self._judgement(), "OK to AUTH")
        if not ok.accepted:
            raise self._rejected(ok.reason)

    @property
    def is_connected(self) -> bool:
        """Whether the connection is there, as far as is known."""
        return self._lost is None

    @property
    def held_bytes(self) -> int:
        """How much has arrived for all subscriptions and was not yet taken, in bytes of messages."""
        return sum(inbox.held_bytes for inbox in self._inboxes.values())

    # What is sent.

    async def _send(self, message: ClientMessage) -> None:
        self._check_connected()
        assert self._connection is not None
        try:
            await self._within(
                self._connection.send(encode_client_message(message), text=True), "room for more"
            )
        except ConnectionClosed as error:
            raise self._unreachable(str(error)) from None

    async def _ask_ok(self, event_id: str, message: Publish) -> Ok:
        waiter: asyncio.Future[Ok] = asyncio.get_running_loop().create_future()
        waiters = self._oks.setdefault(event_id, [])
        waiters.append(waiter)
        try:
            with self._awaiting_answer():
                await self._send(message)
                return await self._within(waiter, "OK")
        finally:
            waiters.remove(waiter)
            if not waiters:
                self._oks.pop(event_id, None)

    async def _open(self, filters: Sequence[Filter]) -> tuple[str, Inbox]:
        name = next(self._names)
        inbox = self._inboxes[name] = Inbox(filters)
        try:
            await self._send(Req(name, tuple(filters)))
        except BaseException:
            del self._inboxes[name]
            raise
        return name, inbox

    async def _next(self, inbox: Inbox, *, has_deadline: bool) -> Event | EndOfStored:
        while (item := inbox.take()) is None:
            if has_deadline:
                await self._within(inbox.wait(), "event or EOSE")
            else:
                await inbox.wait()
        self._update_may_read()
        return item

    async def _close(self, name: str) -> None:
        was_open = self._inboxes.pop(name, None) is not None
        self._update_may_read()
        if was_open and self._lost is None:
            try:
                await self._send(Close(name))
            except Unreachable as error:
                # There is nothing left to close; whoever uses the connection next is told.
                log.debug("close of a subscription: %s", error)

    async def _count_once(self, filters: Sequence[Filter]) -> int:
        name = next(self._names)
        waiter = self._counts[name] = asyncio.get_running_loop().create_future()
        try:
            with self._awaiting_answer():
                await self._send(Count(name, tuple(filters)))
                return await self._within(waiter, "COUNT")
        finally:
            del self._counts[name]

    async def _first_frame(self, name: str, wanted: Filter, frame: bytes) -> bytes:
        opening = NegOpen(name, wanted, frame)
        try:
            return await self._next_frame(name, opening, is_first=True)
        except Rejected as error:
            if not self._can_authenticate_after(error.text):
                raise
        await self.authenticate()
        return await self._next_frame(name, opening, is_first=True)

    async def _next_frame(self, name: str, message: NegOpen | NegMsg, *, is_first: bool = False) -> bytes:
        waiter: asyncio.Future[NegMsg] = asyncio.get_running_loop().create_future()
        self._frames[name] = waiter
        if is_first:
            self._is_opening.add(name)
        with self._awaiting_answer():
            await self._send(message)
            seconds = self._answer_seconds * (_FIRST_FRAME_PATIENCE if is_first else 1)
            try:
                async with asyncio.timeout(seconds):
                    answer = await waiter
            except TimeoutError:
                why = f"no Negentropy message within {seconds:g} s"
                raise (Unsupported(self.url, why) if is_first else self._unreachable(why)) from None
        self._is_opening.discard(name)
        return answer.frame

    def _can_authenticate_after(self, reason: str) -> bool:
        return self._signer is not None and prefix_of(reason) is Prefix.AUTH_REQUIRED

    async def _settle_authentication(self) -> None:
        """Wait for the OK to an AUTH that is under way: until then a relay may veil what it finds."""
        self._check_connected()
        if self._authenticated is not None and not self._authenticated.done():
            with self._awaiting_answer():
                await self._within(self._judgement(), "OK to AUTH")

    async def _judgement(self) -> Ok:
        """Wait for the OK to the answer to the latest challenge; there must have been one."""
        while True:
            latest = self._authenticated
            assert latest is not None
            ok = await asyncio.shield(latest)
            if latest is self._authenticated:
                return ok

    # What is received.

    async def _read(self, connection: ClientConnection) -> None:
        why = "the connection broke"
        try:
            while True:
                await self._may_read.wait()
                text = await connection.recv(decode=False)
                try:
                    message = parse_relay_message(text)
                except InvalidMessage as error:
                    self._discard(str(error))
                    continue
                if isinstance(message, Challenge):
                    await self._answer(message.challenge)
                else:
                    self._dispatch(message, len(text))
        except ConnectionClosed as error:
            why = str(error)
        except Unreachable as error:
            why = error.text
        except asyncio.CancelledError:
            why = "the connection was closed"
            raise
        finally:
            self._lose(why)

    def _dispatch(self, message: RelayMessage, size: int) -> None:
        match message:
            case Ok(event_id, _, _):
                waiting = self._oks.get(event_id, ())
                if event_id == self._auth_id and self._authenticated is not None:
                    waiting = (*waiting, self._authenticated)
                for each in waiting:
                    if not each.done():
                        each.set_result(message)
            case Delivered(name, event) if (inbox := self._inboxes.get(name)) is not None:
                self._deliver(inbox, event, size)
            case Eose(name, hints) if (inbox := self._inboxes.get(name)) is not None:
                inbox.put_end_of_stored(is_complete="finish" in hints)
            case Closed(name, reason):
                self._end(name, self._rejected(reason))
            case Counted(name, number) if (counted := self._counts.get(name)) is not None:
                if not counted.done():
                    counted.set_result(number)
            case NegMsg(name, _) if (expected := self._frames.get(name)) is not None:
                if expected.done():
                    self._discard("a Negentropy message that answers nothing")
                else:
                    expected.set_result(message)
            case NegErr(name, reason, _) if (expected := self._frames.get(name)) is not None:
                _fail(expected, self._rejected(reason))
            case Notice(text):
                log.debug("notice from=%s: %.200s", self.url, text)
                # The only answer of a relay that does not know NEG-OPEN; a word on something else is rare.
                for name in self._is_opening:
                    _fail(self._frames[name], Unsupported(self.url, f"NOTICE: {text:.200}"))

    def _deliver(self, inbox: Inbox, event: Event, size: int) -> None:
        if inbox.failure is not None:
            return
        if not any(wanted.matches(event) for wanted in inbox.filters):
            return self._discard("an event that was not asked for", event)
        try:
            check_event(event)
        except InvalidEvent as error:
            return self._discard(error.refusal.text, event)
        inbox.put(event, size)
        if inbox.is_overfull:
            inbox.end(self._unreachable("a subscription fell too far behind"))
        self._update_may_read()

    def _end(self, name: str, error: Rejected) -> None:
        if (inbox := self._inboxes.pop(name, None)) is not None:
            inbox.end(error)
            self._update_may_read()
        elif (waiting := self._counts.get(name)) is not None:
            _fail(waiting, error)
        elif name in self._is_opening:
            _fail(self._frames[name], Unsupported(self.url, error.text))

    async def _answer(self, challenge: str) -> None:
        # A repeated challenge was answered already; another answer would not be another one.
        if self._signer is None or challenge == self._challenge:
            return
        self._challenge = challenge
        event = sign(
            self._signer,
            created_at=int(self._clock()),
            kind=kinds.CLIENT_AUTH,
            tags=(("relay", self.url), ("challenge", challenge)),
        )
        if self._authenticated is not None and not self._authenticated.done():
            # NIP-42: a new challenge replaces the one before, whose answer may never be judged.
            self._authenticated.set_result(Ok("", False, f"{Prefix.AUTH_REQUIRED}: the challenge changed"))
        self._authenticated = asyncio.get_running_loop().create_future()
        self._auth_id = event.id
        self._challenged.set()
        await self._send(Auth(event))

    def _discard(self, why: str, event: Event | None = None) -> None:
        self.discarded += 1
        reason = why[:200]
        if reason not in self.discards and len(self.discards) >= _MAX_DISCARD_REASONS:
            reason = "other reasons"
        self.discards[reason] = self.discards.get(reason, 0) + 1
        if self.discarded == 1:
            about = "" if event is None else f"event {event.id[:8]}: "
            log.warning("discarded relay=%s, further ones are only counted: %s%.200s", self.url, about, why)

    def _lose(self, why: str) -> None:
        if self._lost is not None:
            return
        self._lost = why
        for inbox in self._inboxes.values():
            inbox.end(self._unreachable(why))
        for waiters in self._oks.values():
            for waiter in waiters:
                _fail(waiter, self._unreachable(why))
        for waiting in self._counts.values():
            _fail(waiting, self._unreachable(why))
        for expected in self._frames.values():
            _fail(expected, self._unreachable(why))
        if self._authenticated is not None:
            _fail(self._authenticated, self._unreachable(why))
        self._challenged.set()

    # Waiting.

    def _unreachable(self, why: str) -> Unreachable:
        return Unreachable(self.url, why)

    def _rejected(self, reason: str) -> Rejected:
        return Rejected(self.url, reason)

    def _check_connected(self) -> None:
        if self._lost is not None:
            raise self._unreachable(self._lost)

    async def _within(self, waiting: Awaitable[T], what: str) -> T:
        try:
            async with asyncio.timeout(self._answer_seconds):
                return await waiting
        except TimeoutError:
            raise self._unreachable(f"no {what} within {self._answer_seconds:g} s") from None

    @contextmanager
    def _awaiting_answer(self) -> Iterator[None]:
        """Read on even past a full subscription: the answer may stand behind its events."""
        self._awaited += 1
        self._update_may_read()
        try:
            yield
        finally:
            self._awaited -= 1
            self._update_may_read()

    def _update_may_read(self) -> None:
        if self._awaited or not any(inbox.is_full for inbox in self._inboxes.values()):
            self._may_read.set()
        else:
            self._may_read.clear()


def _fail(waiter: asyncio.Future[T], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
        # Nobody may be waiting any more: reading it keeps asyncio from reporting it as forgotten.
        waiter.exception()
