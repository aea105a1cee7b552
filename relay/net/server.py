"""Listen, accept, look after connections, drain and stop: the server of one worker process."""

import asyncio
import itertools
import logging
import socket
from collections.abc import Coroutine, Sequence
from pathlib import Path
from time import monotonic

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler
from websockets.frames import CloseCode

from relay.config import RelayConfig
from relay.engine.feature import Origin
from relay.engine.limits import counted_as
from relay.engine.relay import Relay
from relay.net.board import Board, Counter
from relay.net.certificates import Certificates
from relay.net.connection import Connection
from relay.net.deflate import PLAIN, Deflater, InvalidExtensions, negotiate
from relay.net.http import Pages
from relay.net.proxies import Proxies, Visitor
from relay.net.websocket import CLOSING_SECONDS, HandedOver, take_over, upgrade_mistake
from relay.nostr.event import PubKey
from relay.store.api import StoreError

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""How often connections are looked after."""
LOOKS_PER_TURN = 500
"""So many are looked after before those that have something to say get their turn; each takes 1 µs."""
# Sent on a graceful stop: client pools take it as "come back soon" (RFC 6455 registry: Service Restart).
RESTARTING = CloseCode.SERVICE_RESTART

# aiohttp logs a traceback for every malformed request. Those are the clients' mistakes, answered with
# 400; ours are caught and logged in `Server.handle`.
_SILENT = logging.getLogger("aiohttp.server")
_SILENT.setLevel(logging.CRITICAL)


class _HttpServer(web.Server):
    """aiohttp's server, which itself never gives up on a request that is not finished."""

    def __init__(self, server: "Server") -> None:
        # aiohttp's access log would name every reader; the board counts instead.
        super().__init__(server.handle, access_log=None, keepalive_timeout=30, logger=_SILENT)
        self._server = server

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self._server.await_request(handler)


class Server:
    """Serves one relay on listening sockets that somebody else bound."""

    def __init__(self, relay: Relay, settings: RelayConfig, board: Board, data: Path) -> None:
        """Raises CannotServeTls."""
        self._relay = relay
        self._settings = settings
        self._board = board
        self._pages = Pages(
            settings,
            relay.features,
            relay.store,
            board,
            data,
            catch_up=self._catch_up,
            now=relay.now,
            veil=relay.veil,
        )
        self._connections: set[Connection] = set()
        self._nobody_left = asyncio.Event()
        self._large_ones = asyncio.Lock()
        self._awaited: dict[RequestHandler, float] = {}
        self._numbers = itertools.count(1)
        self._tasks: asyncio.TaskGroup | None = None
        self._exempt = frozenset(map(PubKey, settings.trust_bridge_keys))
        self._deflater = Deflater() if settings.compression else None
        tls = settings.tls
        self._certificates = Certificates(tls.certificate, tls.key) if tls is not None else None
        self._proxies = Proxies.of(settings.trusted_proxies, settings.proxy_header)

    async def run(self, sockets: Sequence[socket.socket], stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Serve until `stop` is set; then answer what was begun, say goodbye and return."""
        loop = asyncio.get_running_loop()
        http = _HttpServer(self)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            caring = tasks.create_task(self._look_after())
            tls = self._certificates
            listeners = [
                await loop.create_server(
                    http,
                    sock=one,
                    backlog=4096,
                    ssl=None if tls is None else tls.context,
                    ssl_handshake_timeout=(
                        None if tls is None else self._settings.timeouts.handshake_seconds
                    ),
                    ssl_shutdown_timeout=None if tls is None else CLOSING_SECONDS,
                )
                for one in sockets
            ]
            ready.set()
            await stop.wait()
            for listener in listeners:
                listener.close()
            await self._drain()
            caring.cancel()
            await http.shutdown(1.0)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, an upgrade among them."""
        try:
            return await self._answer(request)
        except ConnectionError:
            raise  # the client is gone
        except Exception:
            log.exception("answering a request failed", path=request.path)
            return web.Response(status=500, text="internal error\n")

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self._awaited.pop(request.protocol, None)
        visitor = self._proxies.visitor(
            request.remote or "", request.host, request.headers, over_tls=self._certificates is not None
        )
        scheme = "wss" if visitor.is_secure else "ws"
        url = self._settings.url or f"{scheme}://{visitor.host}{self._settings.path}"
        if request.headers.get("Upgrade", "").lower() != "websocket":
            response = await self._pages.answer(request, url)
            # The next request on this connection has its own time to arrive.
            self.await_request(request.protocol)
            return response
        # NIP-01: "Relays MUST only accept connections to a single endpoint".
        if request.path != self._settings.path:
            return web.Response(status=404, text="the relay is not at this path\n")
        return self._converse(request, visitor, url)

    def _converse(self, request: web.BaseRequest, visitor: Visitor, url: str) -> web.StreamResponse:
        mistake = upgrade_mistake(request)
        if mistake is not None:
            return web.Response(status=400, text=f"{mistake}\n", headers={"Sec-WebSocket-Version": "13"})
        try:
            offers = request.headers.getall("Sec-WebSocket-Extensions", ())
            agreed = negotiate(offers) if self._deflater is not None else None
        except InvalidExtensions as error:
            return web.Response(status=400, text=f"{error}\n")
        address = visitor.address
        self._catch_up()
        if self._relay.turns_away(address):
            return web.Response(status=403, text="your address is blocked here\n")
        slot = self._board.slot(counted_as(address))
        if not self._board.connect(slot, self._settings.limits.connections_per_address):
            self._board.add(Counter.CONNECTIONS_REFUSED)
            return web.Response(status=429, text="too many connections from your address\n")
        try:
            socket = take_over(request, self._settings.limits.max_message_bytes, extensions=agreed)
        except ConnectionError:
            self._board.disconnect(slot)
            raise
        self._board.add(Counter.CONNECTIONS_OPENED)
        self._board.add(Counter.CONNECTIONS_OPEN)
        self._connections.add(
            Connection(
                next(self._numbers),
                socket,
                self._relay,
                self._settings,
                Origin(address=address, url=url),
                self._board,
                slot,
                self._spawn,
                self._exempt,
                self._forget,
                self._large_ones,
                PLAIN if agreed is None or self._deflater is None else self._deflater.frames,
            )
        )
        return HandedOver()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._board.disconnect(connection.slot)
        self._board.add(Counter.CONNECTIONS_OPEN, -1)
        if not self._connections:
            self._nobody_left.set()

    def await_request(self, handler: RequestHandler) -> None:
        """Give a connection a while to finish its next request."""
        self._awaited[handler] = monotonic() + self._settings.timeouts.handshake_seconds

    def _catch_up(self) -> None:
        try:
            self._relay.catch_up()
        except StoreError as error:
            # What was known is what counts then.
            log.warning("keeping up with records failed", error=str(error))

    def _spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        if self._tasks is None:
            raise RuntimeError("the server does not run")
        return self._tasks.create_task(work)

    async def _look_after(self) -> None:
        timeouts = self._settings.timeouts
        pause = min(LOOK_SECONDS, timeouts.stalled_seconds / 4, timeouts.ping_seconds / 4)
        while True:
            await asyncio.sleep(pause)
            now = monotonic()
            self._catch_up()
            if self._certificates is not None:
                self._certificates.look_after()
            for number, connection in enumerate(tuple(self._connections), 1):
                if self._relay.turns_away(connection.origin.address):
                    connection.shut(CloseCode.POLICY_VIOLATION, b"blocked")
                connection.look_after(now)
                if number % LOOKS_PER_TURN == 0:
                    await asyncio.sleep(0)
            for handler, deadline in tuple(self._awaited.items()):
                if handler.transport is None:
                    del self._awaited[handler]
                elif deadline < now:
                    del self._awaited[handler]
                    handler.force_close()

    async def _drain(self) -> None:
        connections = tuple(self._connections)
        log.info("stopping", connections=len(connections))
        for connection in connections:
            connection.pause()
        try:
            async with asyncio.timeout(self._settings.timeouts.drain_seconds):
                await self._relay.intake.drain()
        except TimeoutError:
            log.warning("not everything could be answered in time")
        for connection in connections:
            connection.shut(RESTARTING, b"restarting")
        self._nobody_left.clear()
        if self._connections:
            # Each is cut if it does not answer in time.
            await self._nobody_left.wait()
