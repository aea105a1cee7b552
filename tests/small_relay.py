"""A relay of a few lines for tests of clients: it keeps events in a list, and misbehaves when told to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from relay.nostr import negentropy
from relay.nostr.event import Event
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
    parse_client_message,
)

Handler = Callable[[ServerConnection], Awaitable[None]]


@asynccontextmanager
async def serving(handler: Handler, *, port: int = 0) -> AsyncIterator[str]:
    """Serve WebSocket on loopback while the context lasts; yield the URL."""
    async with serve(handler, "127.0.0.1", port, close_timeout=0.2) as server:
        yield url_of(server)


def url_of(server: Server) -> str:
    """Return the URL under which a server listens."""
    host, port = server.sockets[0].getsockname()
    return f"ws://{host}:{port}"


async def say(connection: ServerConnection, message: RelayMessage) -> None:
    """Send one message as a relay does."""
    await connection.send(encode_relay_message(message), text=True)


async def hear(connection: ServerConnection) -> ClientMessage:
    """Wait for a client's next message."""
    return parse_client_message(await connection.recv(decode=False))


class SmallRelay:
    """Answers EVENT, REQ, CLOSE, COUNT, AUTH and NEG-OPEN; `async with` it to serve."""

    def __init__(
        self,
        events: Sequence[Event] = (),
        *,
        cap: int = 500,
        challenge: str | None = None,
        reconciles: bool = True,
    ) -> None:
        """Keep `events`; send `cap` stored events per filter at most, and `challenge` on connect.

        Where it does not reconcile, it answers NEG-OPEN as relays do that never heard of it: by a NOTICE.
        """
        self.reconciles = reconciles
        self.most: int | None = None
        """How many events it reconciles at most."""
        self.events = list(events)
        self.cap = cap
        self.challenge = challenge
        self.refusal = ""
        """What EVENT, REQ, COUNT and NEG-OPEN are refused with while the client is not authenticated."""
        self.auth_answer: tuple[bool, str] = (True, "")
        self.heard: list[ClientMessage] = []
        self.connections: dict[ServerConnection, dict[str, Req]] = {}
        self._reconciling: dict[tuple[ServerConnection, str], negentropy.Server] = {}
        self.url = ""
        self._port = 0
        self._changed = asyncio.Condition()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen: again at the same port, when stopped before."""
        self._server = await serve(self._talk, "127.0.0.1", self._port)
        self.url = url_of(self._server)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close all connections with 1012, as a relay that restarts does, and listen no more."""
        self._server.close(code=1012)
        await self._server.wait_closed()

    async def until_heard(self, kind: type[ClientMessage], times: int = 1) -> None:
        """Wait until so many messages of a kind have come, over all connections."""
        async with asyncio.timeout(10), self._changed:
            await self._changed.wait_for(lambda: sum(type(m) is kind for m in self.heard) >= times)

    async def add(self, event: Event) -> None:
        """Keep an event and send it to the subscriptions that it meets."""
        self.events.append(event)
        for connection, requests in list(self.connections.items()):
            for name, request in requests.items():
                if any(wanted.matches(event) for wanted in request.filters):
                    await say(connection, Delivered(name, event))

    async def _talk(self, connection: ServerConnection) -> None:
        self.connections[connection] = {}
        authenticated = self.challenge is None
        try:
            if self.challenge is not None:
                await say(connection, Challenge(self.challenge))
            while True:
                message = await hear(connection)
                if isinstance(message, Auth):
                    authenticated = self.auth_answer[0]
                    await say(connection, Ok(message.event.id, *self.auth_answer))
                else:
                    await self.answer(connection, message, "" if authenticated else self.refusal)
                async with self._changed:
                    self.heard.append(message)
                    self._changed.notify_all()
        except ConnectionClosed:
            del self.connections[connection]

    async def answer(self, connection: ServerConnection, message: ClientMessage, refusal: str) -> None:
        """Answer one message; `refusal` is why it is refused."""
        match message:
            case Publish(event, _):
                await say(connection, Ok(event.id, not refusal, refusal))
                if not refusal:
                    await self.add(event)
            case Req(name) | Count(name) if refusal:
                await say(connection, Closed(name, refusal))
            case Req(name, filters):
                self.connections[connection][name] = message
                for event in self.stored(message):
                    await say(connection, Delivered(name, event))
                await say(connection, Eose(name))
            case Count(name, filters):
                number = sum(any(wanted.matches(event) for wanted in filters) for event in self.events)
                await say(connection, Counted(name, number))
            case Close(name):
                self.connections[connection].pop(name, None)
            case NegOpen(name) | NegMsg(name) if not self.reconciles:
                await say(connection, Notice("ERROR: bad msg: unknown cmd"))
            case NegOpen(name) if refusal:
                await say(connection, NegErr(name, refusal))
            case NegOpen(name, wanted, frame):
                matching = [event for event in self.events if wanted.matches(event)]
                if self.most is not None and len(matching) > self.most:
                    await say(connection, NegErr(name, "blocked: too many query results", self.most))
                    return
                items = [(event.created_at, bytes.fromhex(event.id)) for event in matching]
                server = negentropy.Server(negentropy.Vector.of(items))
                self._reconciling[connection, name] = server
                await say(connection, NegMsg(name, negentropy.exhaust(server.answer(frame))))
            case NegMsg(name, frame):
                server = self._reconciling[connection, name]
                await say(connection, NegMsg(name, negentropy.exhaust(server.answer(frame))))
            case NegClose(name):
                self._reconciling.pop((connection, name), None)

    def stored(self, request: Req) -> list[Event]:
        """Return the stored events that answer a request."""
        newest_first = sorted(self.events, key=lambda event: (-event.created_at, event.id))
        found: dict[str, Event] = {}
        for wanted in request.filters:
            limit = self.cap if wanted.limit is None else min(self.cap, wanted.limit)
            matching = [event for event in newest_first if wanted.matches(event)]
            found |= {event.id: event for event in matching[:limit]}
        return list(found.values())
