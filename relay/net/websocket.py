"""A WebSocket from its upgrade to its last byte: frames in, frames out, pings, and the goodbye (RFC 6455).

aiohttp serves HTTP up to the 101 and then lets go: its request, parser, response and task cost 10 kB for
each connection, and handing a message to a task that waits for it costs more than reading it.
"""

import asyncio
import binascii
from base64 import b64decode
from collections import deque
from time import monotonic
from typing import Protocol

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from websockets.frames import CloseCode, Opcode
from websockets.utils import accept_key

from relay.net.frames import PING, close_frame, pong_frame
from relay.net.incoming import DEFLATED, Broken, Incoming, parse_goodbye

log = structlog.get_logger(__name__)

MESSAGES_PER_TURN = 64
"""Frames of one client that are taken before others get their turn. With half as many, one client's events
were written by 38 at a time, which costs the writer a third more."""
TURN_SECONDS = 0.002
"""After so long others get their turn too, however few were taken."""
CLOSING_SECONDS = 2.0
"""For a client to answer our goodbye."""


class Talker(Protocol):
    """The conversation that a WebSocket carries."""

    def take(self, text: bytes) -> None:
        """Take a text message, in UTF-8 if the client keeps to RFC 6455. Raises Broken."""

    def take_deflated(self, text: bytes) -> None:
        """Take a text message that is compressed still. Raises Broken."""

    def take_binary(self) -> None:
        """A binary message came."""

    def answer_ping(self, pong: bytes) -> None:
        """Queue this frame."""

    def begin_turn(self) -> None:
        """Some messages follow, then `end_turn`; what is due to the client meanwhile may wait for that."""

    def end_turn(self) -> None:
        """Write what is due, as far as the socket takes it."""

    def lost(self) -> None:
        """The client is gone; nothing follows."""


class Backlog:
    """The sockets of which more was read than fits into their turns.

    Together they have one turn at each turn of the event loop: who says little waits for that one, however
    many there are that say much.
    """

    def __init__(self) -> None:
        self._waiting: deque[WebSocket] = deque()
        self._is_scheduled = False

    def add(self, socket: "WebSocket") -> None:
        """Give the socket another turn, after those that wait already."""
        self._waiting.append(socket)
        self._schedule()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._take_turns)

    def _take_turns(self) -> None:
        self._is_scheduled = False
        ends_at = monotonic() + TURN_SECONDS
        try:
            # Who needs more than this turn waits for the next one.
            for _ in range(len(self._waiting)):
                self._waiting.popleft().turn_came()
                if monotonic() > ends_at:
                    break
        finally:
            if self._waiting:
                self._schedule()


class WebSocket(asyncio.Protocol):
    """One client's socket, once its upgrade was answered.

    Messages are handed over as they are read. What its talker cannot take yet stays unread.
    """

    __slots__ = (
        "_backlog",
        "_closing",
        "_drained",
        "_heard_at",
        "_incoming",
        "_is_held",
        "_is_paused",
        "_loop",
        "_pinged_at",
        "_talker",
        "_transport",
        "_waits",
        "deflates",
        "is_full",
        "received",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        max_message_bytes: int,
        backlog: Backlog,
        *,
        deflates: bool = False,
    ) -> None:
        """All sockets of a process share a `backlog`."""
        self.deflates = deflates
        """Whether both sides may send compressed messages."""
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._talker: Talker | None = None
        self._incoming: Incoming | None = Incoming(max_message_bytes, deflates=deflates)
        """None after a mistake: the bytes that follow make no sense."""
        self._backlog = backlog
        self._waits = False
        """Whether what was read already is taken at a turn that is to come."""
        self._is_held = False
        self._is_paused = False
        self._closing: asyncio.TimerHandle | None = None
        """Set once we have said goodbye; cuts the connection if the client does not answer."""
        self._drained: asyncio.Event | None = None
        self._heard_at = monotonic()
        self._pinged_at = 0.0
        self.received = 0
        """Bytes that have come, frames and all."""
        self.is_full = False
        """Whether the client reads too slowly for more to be written now."""

    def talk(self, talker: Talker) -> None:
        """Say who takes the messages, and begin."""
        self._talker = talker
        if self._incoming:
            self._take_turn_later()

    def bound(self, max_message_bytes: int) -> None:
        """Take messages of so many bytes at most from now on."""
        if self._incoming is not None:
            self._incoming.bound(max_message_bytes)

    # Writing: what an `Outbox` needs of its pipe.

    def write(self, data: bytes) -> None:
        """Send whole frames; not after `is_closing`."""
        self._transport.write(data)

    def get_write_buffer_size(self) -> int:
        return self._transport.get_write_buffer_size()

    def is_closing(self) -> bool:
        """Say whether nothing more can be said: the goodbye was, or the client is gone."""
        return self._closing is not None or self._transport.is_closing()

    async def drain(self) -> None:
        """Wait until the socket is no longer full. Raises ConnectionResetError when it is closing."""
        if self.is_full and not self.is_closing():
            if self._drained is None:
                self._drained = asyncio.Event()
            await self._drained.wait()
        if self.is_closing():
            raise ConnectionResetError("the client is gone")

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        if self._talker is not None:
            self._talker.end_turn()
        if not self.is_full:
            self._let_writers_go()
            if self._is_paused:
                self._take_turn_later()

    # Reading.

    def data_received(self, data: bytes) -> None:
        self._heard_at = monotonic()
        self.received += len(data)
        if self._incoming is not None:
            self._incoming.feed(data)
            self._take_turn()

    @property
    def is_amid_message(self) -> bool:
        """Whether some of a message has come and the rest has not, though we read."""
        return self._incoming is not None and self._incoming.has_begun and not self._is_paused

    def hold(self) -> None:
        """Hand over no more messages until `go_on`; called while one is taken."""
        self._is_held = True

    def go_on(self) -> None:
        """Hand over messages again."""
        self._is_held = False
        self._take_turn()

    def _take_turn(self) -> None:
        incoming, talker = self._incoming, self._talker
        if incoming is None or talker is None or self._waits:
            return
        ends_at = monotonic() + TURN_SECONDS
        talker.begin_turn()
        try:
            for _ in range(MESSAGES_PER_TURN):
                # An answer to each message: a client that reads none of them is not read either.
                if self._is_held or (self.is_full and self._closing is None):
                    self._pause()
                    break
                frame = incoming.take()
                if frame is None:
                    self._resume()
                    break
                self._take(talker, *frame)
                if monotonic() > ends_at:
                    self._take_turn_later()
                    break
            else:
                self._take_turn_later()
        except Broken as error:
            self.fail(error.code, error.reason.encode())
        except Exception:
            # A mistake of ours must not take the other clients down: this one is told to come back.
            log.exception("taking a message failed; closing the connection")
            self.fail(CloseCode.INTERNAL_ERROR, b"internal error")
        finally:
            talker.end_turn()

    def _take(self, talker: Talker, opcode: int, payload: bytes) -> None:
        if opcode == Opcode.CLOSE:
            self._answer_goodbye(parse_goodbye(payload))
        elif self._closing is not None:
            return
        elif opcode == Opcode.TEXT:
            talker.take(payload)
        elif opcode == Opcode.PING:
            talker.answer_ping(pong_frame(payload))
        elif opcode == Opcode.TEXT | DEFLATED:
            talker.take_deflated(payload)
        elif opcode & ~DEFLATED == Opcode.BINARY:
            talker.take_binary()

    def _take_turn_later(self) -> None:
        self._pause()
        if not self._waits:
            self._waits = True
            self._backlog.add(self)

    def turn_came(self) -> None:
        """Take what was read already."""
        self._waits = False
        self._take_turn()

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    # Ending.

    def close(self, code: int, reason: bytes) -> None:
        """Say goodbye, and wait a little for the client's; `reason` has at most 123 bytes."""
        if self.is_closing():
            return
        self._say_goodbye(code, reason)
        self._is_held = False
        if self._is_paused:
            self._take_turn_later()

    def abort(self) -> None:
        """Cut the connection without another word."""
        self._transport.abort()

    def look_after(self, now: float, ping_seconds: float) -> None:
        """Ping a silent client, and cut one that did not answer within half of that time.

        Called every now and then with the monotonic clock.
        """
        if self._is_paused or self.is_full:
            # Its answer may lie among what we do not read; our ping would wait behind what it does not.
            self._heard_at = now
        elif self.is_closing() or now - self._heard_at < ping_seconds:
            return
        elif self._pinged_at < self._heard_at:
            self._pinged_at = now
            self._transport.write(PING)
        elif now - self._pinged_at >= ping_seconds / 2:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        talker, self._talker, self._incoming = self._talker, None, None
        if self._closing is not None:
            self._closing.cancel()
        self._let_writers_go()
        if talker is not None:
            talker.lost()

    def _let_writers_go(self) -> None:
        if self._drained is not None:
            self._drained.set()
            self._drained = None

    def _say_goodbye(self, code: int, reason: bytes) -> None:
        if self._talker is not None:
            self._talker.end_turn()
        self._transport.write(close_frame(code, reason))
        self._closing = self._loop.call_later(CLOSING_SECONDS, self._transport.abort)
        self._let_writers_go()

    def _answer_goodbye(self, code: int) -> None:
        if not self.is_closing():
            self._say_goodbye(CloseCode.NORMAL_CLOSURE if code == CloseCode.NO_STATUS_RCVD else code, b"")
        self._incoming = None
        self._transport.close()

    def fail(self, code: CloseCode, reason: bytes) -> None:
        """Say goodbye for a mistake, the client's or ours, and take nothing more."""
        if not self.is_closing():
            self._say_goodbye(code, reason)
        # The client may be in the middle of a long message. What it still sends is read and dropped:
        # closing now would reset the connection, and the reset would overtake the goodbye.
        self._incoming = None
        self._resume()
        # TLS has no end in one direction; there the client closes, or is cut after a while.
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()


class HandedOver(web.StreamResponse):
    """The response to a request that became a WebSocket: for aiohttp nothing is left to send."""

    def __init__(self) -> None:
        super().__init__(status=101)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


class _Early:
    """Takes the bytes that came right behind the upgrade, in place of aiohttp's own reader."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """The handler was told that it has lost the client."""


def upgrade_mistake(request: web.BaseRequest) -> str | None:
    """Say what is wrong with a request for a WebSocket, if anything is (RFC 6455, section 4.2.1)."""
    headers = request.headers
    if request.method != "GET" or "upgrade" not in headers.get("Connection", "").lower():
        return "a WebSocket begins with GET and `Connection: Upgrade`"
    if headers.get("Sec-WebSocket-Version") != "13":
        return "this relay speaks version 13 of the WebSocket protocol"
    try:
        key = b64decode(headers.get("Sec-WebSocket-Key", ""), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    return None if len(key) == 16 else "Sec-WebSocket-Key holds 16 bytes in base64"


def take_over(
    request: web.BaseRequest, max_message_bytes: int, backlog: Backlog, *, extensions: str | None = None
) -> WebSocket:
    """Answer a right request for a WebSocket and take its transport from aiohttp.

    `extensions` is what was agreed on, which can be permessage-deflate only. The caller calls `talk`, and
    returns `HandedOver` to aiohttp. Raises ConnectionResetError.
    """
    handler, transport = request.protocol, request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client is gone")
    transport.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: %b\r\n%b\r\n"
        % (
            accept_key(request.headers["Sec-WebSocket-Key"]).encode(),
            b"" if extensions is None else b"Sec-WebSocket-Extensions: %b\r\n" % extensions.encode(),
        )
    )
    early = _Early()
    handler.set_parser(early)  # type: ignore[arg-type]
    socket = WebSocket(transport, max_message_bytes, backlog, deflates=extensions is not None)
    socket.is_full = handler.writing_paused
    transport.set_protocol(socket)
    # aiohttp must believe that the client is gone, to forget it, and must not close what it has lost.
    handler.transport = None
    handler.connection_lost(None)
    if early.data:
        socket.data_received(early.data)
    return socket
