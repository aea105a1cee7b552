"""Listen, accept, look after connections, drain and stop: the server of one worker process."""

import asyncio
import itertools
import logging
import socket
from collections import Counter as CountedAddresses
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
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
from relay.net.board import Board, Counter, Histogram
from relay.net.certificates import Certificates
from relay.net.connection import Connection
from relay.net.control import taking_orders
from relay.net.deflate import PLAIN, Deflater, InvalidExtensions, negotiate
from relay.net.directory import Directory
from relay.net.entrance import Entrance
from relay.net.http import Pages
from relay.net.proxies import Proxies, Visitor
from relay.net.slow import SlowQuestions
from relay.net.websocket import CLOSING_SECONDS, Backlog, HandedOver, take_over, upgrade_mistake
from relay.nostr.event import PubKey
from relay.store.api import StoreError
from relay.store.turns import Turns

log = structlog.get_logger(__name__)

LOOK_SECONDS = 2.0
"""How often connections are looked after."""
ADOPTED_PER_TURN = 100
"""Connections whose subscriptions are judged anew before others get their turn."""
NEWCOMER_SECONDS = 1.0
"""For who has connected right before we stop to say what for."""
GOODBYE_PAUSE_SECONDS = 0.05
"""Between goodbyes, where they are spread over a while."""
ANSWER_SECONDS = 60.0
"""For a request to be answered, and its answer to be taken."""
MAX_HTTP_CONNECTIONS = 2_000
"""Connections of a worker that are no WebSockets, or none yet; 10 kB each."""
REPORT_SOCKET = "worker-{}.sock"
"""In the data folder: where each worker answers to the operator's commands."""
REPORTED = 200
"""Connections that are reported on one by one; there may be thousands."""
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
        self._server.came(handler, transport)
        self._server.expect(handler)

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._server.left(handler)


class Server:
    """Serves one relay on listening sockets that somebody else bound; others may be served beside it."""

    def __init__(
        self, relay: Relay, settings: RelayConfig, board: Board, data: Path, *, label: str = ""
    ) -> None:
        """`label` tells the relay from others in metrics, where there are others. Raises CannotServeTls."""
        self._label = label
        self._relay = relay
        self._board = board
        self._data = data
        self._take_up(settings)
        self._directory: Directory[Server] | None = None
        """Who answers which request; None where this relay is alone."""
        self._connections: set[Connection] = set()
        self._nobody_left = asyncio.Event()
        self._turns = Turns()
        """Of all relays that are served together."""
        self._slow = SlowQuestions()
        self._backlog = Backlog()
        self._http_connections: dict[RequestHandler, str] = {}
        """Those that are no WebSockets, in the order in which they came; what their peers are counted as."""
        self._http_addresses: CountedAddresses[str] = CountedAddresses()
        self._awaited: dict[RequestHandler, float] = {}
        self._newcomers: set[RequestHandler] = set()
        """Who has connected and not asked anything so far."""
        self._welcomed = 0
        """Accepted connections that the HTTP server has not got yet."""
        self._is_leaving = False
        self._numbers = itertools.count(1)
        self._tasks: asyncio.TaskGroup | None = None
        tls = settings.tls
        self._certificates = Certificates(tls.certificate, tls.key) if tls is not None else None

        relay.intake.on_verified = self._note_verified
        relay.intake.on_written = self._note_written

    def _note_verified(self, seconds: float) -> None:
        self._board.add(Counter.VERIFYING_MICROSECONDS, int(seconds * 1e6))

    def _note_written(self, events: int, seconds: float) -> None:
        self._board.add(Counter.EVENTS_WRITTEN, events)
        self._board.observe(Histogram.WRITE, seconds)

    def _take_up(self, settings: RelayConfig) -> None:
        self._settings = settings
        self._proxies = Proxies.of(settings.trusted_proxies, settings.proxy_header)
        # Who has agreed on compression keeps it.
        self._deflater = Deflater() if settings.compression else None
        self._exempt = frozenset(map(PubKey, settings.trust_bridge_keys))
        self._pages = Pages(
            settings,
            self._relay.features,
            self._relay.store,
            self._board,
            self._data,
            catch_up=self._catch_up,
            now=self._relay.now,
            veil=self._relay.veil,
            sift=self._relay.sift,
            label=self._label,
        )

    async def adopt(self, settings: RelayConfig) -> None:
        """Go on by other settings, after the relay has adopted their features. No connection is cut.

        Where to listen and at which path are not among what can change.
        """
        self._take_up(settings)
        for number, connection in enumerate(tuple(self._connections), 1):
            connection.adopt(settings, self._exempt)
            if number % ADOPTED_PER_TURN == 0:
                await asyncio.sleep(0)

    async def run(
        self,
        sockets: Sequence[socket.socket],
        stop: asyncio.Event,
        ready: asyncio.Event,
        *,
        beside: Sequence["Server"] = (),
        goodbye_seconds: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Serve until `stop` is set; then answer what was begun, say goodbye and return.

        `beside` are the servers of other relays on the same sockets. Goodbyes are spread over
        `goodbye_seconds`, asked for when it stops: those who are still there are served meanwhile.
        """
        everyone = (self, *beside)
        if beside:
            self._directory = Directory((one._settings.hosts, one._settings.path, one) for one in everyone)
        http = _HttpServer(self)
        async with asyncio.TaskGroup() as tasks:
            caring = []
            for server in everyone:
                server._tasks, server._turns = tasks, self._turns
                caring.append(tasks.create_task(server._look_after()))

            def welcome(accepted: socket.socket) -> None:
                self._welcomed += 1
                tasks.create_task(self._welcome(http, accepted))

            entrance = Entrance(sockets, welcome, lambda: self._has_more(everyone))
            entrance.open()
            async with AsyncExitStack() as doors:
                for server in everyone:
                    await server._open_side_doors(doors)
                ready.set()
                await stop.wait()
            entrance.close()
            await asyncio.gather(*(server._take_leave(goodbye_seconds) for server in everyone))
            await self._await_newcomers()
            for task in caring:
                task.cancel()
            await http.shutdown(1.0)

    async def _open_side_doors(self, doors: AsyncExitStack) -> None:
        """Listen to the operator's commands, and for who watches us, until `doors` are closed."""
        path = self._data / REPORT_SOCKET.format(self._board.process)
        await doors.enter_async_context(taking_orders(path, self._carry_out))
        if self._settings.metrics_listen and self._board.process == 0:
            try:
                await doors.enter_async_context(self._pages.metrics_listening(self._settings.metrics_listen))
            except OSError as error:
                # The relay is worth more than its metrics.
                log.error("metrics are not served", at=self._settings.metrics_listen, error=error.strerror)

    async def _carry_out(self, order: str) -> dict[str, object]:
        match order.split():
            case ["report"]:
                return self._report()
            case ["kick", number]:
                found = [one for one in self._connections if str(one.number) == number]
                for connection in found:
                    connection.shut(CloseCode.POLICY_VIOLATION, b"disconnected by the operator")
                return {"kicked": len(found)}
        return {"error": f"there is no order {order!r}"}

    def _report(self) -> dict[str, object]:
        # Who is behind with most comes first, then who sends and takes most.
        ranked = sorted(self._connections, key=lambda one: (one.unsent, one.traffic), reverse=True)
        return {
            "worker": self._board.process,
            "connections": len(ranked),
            "shown": [connection.report() for connection in ranked[:REPORTED]],
            "slow": list(self._slow.latest),
        }

    def _has_more(self, everyone: Sequence["Server"]) -> bool:
        """Say whether another worker has fewer connections than this one, of all relays together."""
        counted = (server._board.each(Counter.CONNECTIONS_OPEN) for server in everyone)
        open_ = [sum(of_process) for of_process in zip(*counted, strict=True)]
        here = open_.pop(self._board.process) + len(self._newcomers)
        return bool(open_) and here > min(open_)

    async def _welcome(self, http: _HttpServer, accepted: socket.socket) -> None:
        """Let the HTTP server have a connection, behind the handshake of TLS where that is spoken."""
        tls = self._certificates
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                http,
                accepted,
                ssl=None if tls is None else tls.context,
                ssl_handshake_timeout=None if tls is None else self._settings.timeouts.handshake_seconds,
                ssl_shutdown_timeout=None if tls is None else CLOSING_SECONDS,
            )
        except OSError:
            # Gone already, or no TLS that we understand.
            accepted.close()
        except Exception:
            # A mistake of ours must not take the other clients down.
            log.exception("a connection could not be taken")
            accepted.close()
        finally:
            self._welcomed -= 1

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request, an upgrade among them, or let the server answer whose relay it is for."""
        # For the whole of the answer: a client may be slow in sending a body, or in taking a page.
        self._awaited[request.protocol] = monotonic() + ANSWER_SECONDS
        self._newcomers.discard(request.protocol)
        server: Server | None = self
        try:
            visitor = self._proxies.visitor(
                request.remote or "", request.host, request.headers, over_tls=self._certificates is not None
            )
            if self._directory is not None:
                server = self._directory.find(visitor.host, request.path)
            if server is None:
                response: web.StreamResponse = web.Response(status=404, text="no relay has this name\n")
            else:
                response = await server._answer(request, visitor)
        except ConnectionError:
            raise  # the client is gone
        except Exception:
            log.exception("answering a request failed", path=request.path)
            response = web.Response(status=500, text="internal error\n")
        if not isinstance(response, HandedOver):
            # The next request on this connection has its own time to arrive.
            self.await_request(request.protocol)
        return response

    async def _answer(self, request: web.BaseRequest, visitor: Visitor) -> web.StreamResponse:
        scheme = "wss" if visitor.is_secure else "ws"
        url = self._settings.url or f"{scheme}://{visitor.host}{self._settings.path}"
        if request.headers.get("Upgrade", "").lower() != "websocket":
            return await self._pages.answer(request, url)
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
            most = self._settings.limits.max_message_bytes
            socket = take_over(request, most, self._backlog, extensions=agreed)
        except ConnectionError:
            self._board.disconnect(slot)
            raise
        self._board.add(Counter.CONNECTIONS_OPENED)
        self._board.add(Counter.CONNECTIONS_OPEN)
        connection = Connection(
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
            self._turns,
            PLAIN if agreed is None or self._deflater is None else self._deflater.frames,
            self._slow,
        )
        self._connections.add(connection)
        if self._is_leaving:
            # It came before we stopped to listen: not refused, but sent on.
            connection.shut(RESTARTING, b"restarting")
        return HandedOver()

    def _forget(self, connection: Connection) -> None:
        self._connections.discard(connection)
        self._board.disconnect(connection.slot)
        self._board.add(Counter.CONNECTIONS_OPEN, -1)
        if not self._connections:
            self._nobody_left.set()

    def came(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        """Take in a connection, or cut it, or the one that has been there for the longest instead."""
        self.await_request(handler)
        peer, *_ = transport.get_extra_info("peername") or ("",)
        address = "" if self._proxies.trusts(peer) else counted_as(peer)
        most = self._settings.limits.http_connections_per_address
        if address and most and self._http_addresses[address] >= most:
            self._board.add(Counter.CONNECTIONS_REFUSED)
            transport.abort()
            return
        self._http_connections[handler] = address
        self._http_addresses[address] += 1
        if len(self._http_connections) > MAX_HTTP_CONNECTIONS:
            # Who means well is done in a moment; whoever fills the place up has been there for longer.
            oldest = next(iter(self._http_connections))
            self.left(oldest)
            _cut(oldest)

    def left(self, handler: RequestHandler) -> None:
        """Forget a connection: it is gone, or a WebSocket now."""
        self._awaited.pop(handler, None)
        address = self._http_connections.pop(handler, None)
        if address is not None:
            self._http_addresses[address] -= 1
            if not self._http_addresses[address]:
                del self._http_addresses[address]

    def await_request(self, handler: RequestHandler) -> None:
        """Give a connection a while to finish its next request."""
        self._awaited[handler] = monotonic() + self._settings.timeouts.handshake_seconds

    def expect(self, handler: RequestHandler) -> None:
        """Remember who has connected and not asked anything."""
        self._newcomers.add(handler)

    async def _await_newcomers(self) -> None:
        """Let those who have just connected ask what they came for, or a restart would turn them away."""
        until = monotonic() + NEWCOMER_SECONDS
        while monotonic() < until and (  # noqa: ASYNC110
            self._welcomed or any(one.transport is not None for one in self._newcomers)
        ):
            await asyncio.sleep(0.01)

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
        while True:
            timeouts = self._settings.timeouts
            await asyncio.sleep(min(LOOK_SECONDS, timeouts.stalled_seconds / 4, timeouts.ping_seconds / 4))
            now = monotonic()
            self._catch_up()
            unsent = slow = 0
            if self._certificates is not None:
                self._certificates.look_after()
            for number, connection in enumerate(tuple(self._connections), 1):
                if self._relay.turns_away(connection.origin.address):
                    connection.shut(CloseCode.POLICY_VIOLATION, b"blocked")
                connection.look_after(now)
                unsent += connection.unsent
                slow += connection.is_slow
                if number % LOOKS_PER_TURN == 0:
                    await asyncio.sleep(0)
            self._board.show(Counter.BYTES_UNSENT, unsent)
            self._board.show(Counter.READERS_SLOW, slow)
            self._board.show(Counter.EVENTS_WAITING, len(self._relay.intake))
            self._board.show(Counter.CONNECTIONS_HTTP, len(self._http_connections))
            self._newcomers = {one for one in self._newcomers if one.transport is not None}
            for handler, deadline in tuple(self._awaited.items()):
                if deadline < now:
                    del self._awaited[handler]
                    _cut(handler)

    async def _take_leave(self, goodbye_seconds: Callable[[], float]) -> None:
        log.info("stopping", connections=len(self._connections), goodbye_seconds=goodbye_seconds())
        await self._see_off(goodbye_seconds)
        self._is_leaving = True
        connections = tuple(self._connections)
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

    async def _see_off(self, goodbye_seconds: Callable[[], float]) -> None:
        """Say goodbye to one after the other; to each when it has the answers that are due to it.

        Ends early when there are no seconds for it any more.
        """
        began, leaving = monotonic(), deque(self._connections)
        count = len(leaving)
        paused: list[Connection] = []
        while leaving and self._connections and (seconds := goodbye_seconds()):
            await asyncio.sleep(min(GOODBYE_PAUSE_SECONDS, seconds))
            due = count * min(1.0, (monotonic() - began) / seconds)
            while leaving and count - len(leaving) + 1 <= due:
                connection = leaving.popleft()
                connection.pause()
                paused.append(connection)
            for connection in paused:
                if connection.owes_nothing:
                    connection.shut(RESTARTING, b"restarting")
            paused = [connection for connection in paused if not connection.owes_nothing]


def _cut(handler: RequestHandler) -> None:
    if handler.transport is not None:
        # Closing would wait for a client that takes nothing.
        handler.transport.abort()
