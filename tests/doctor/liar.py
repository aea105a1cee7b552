"""Somebody between the doctor and a good relay, who lies about it: each lie breaks one thing.

What lies is found by what it does to messages, so that all else that the doctor sees is a real relay's.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType, web

from relay.nostr.event import Event, InvalidEvent, parse_event
from relay.nostr.filter import Filter, parse_filter
from relay.nostr.negentropy import Server, Vector, exhaust

Message = list[Any]
"""A message between client and relay, as JSON values."""


class Talk:
    """One client's connection."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.filters: dict[str, list[Filter]] = {}
        """Of open subscriptions."""
        self.stored: dict[str, list[Message]] = {}
        """What has come for subscriptions without an EOSE yet."""

    async def say(self, message: Message) -> None:
        await self.socket.send_str(orjson.dumps(message).decode())

    def wants(self, event: Event) -> Iterable[str]:
        """Yield the names of subscriptions that an event meets."""
        for name, filters in self.filters.items():
            if any(wanted.matches(event) for wanted in filters):
                yield name


class Lie:
    """Tells the truth; others override what they lie about."""

    def __init__(self) -> None:
        self.talks: list[Talk] = []
        self.published: list[Event] = []
        """Whatever was published in the right shape, accepted or not."""

    async def from_client(self, message: Message, talk: Talk) -> Message | None:
        """Return what the relay is told instead; None: nothing."""
        return message

    async def from_relay(self, message: Message, talk: Talk) -> Sequence[Message]:
        """Return what the client is told instead."""
        return [message]

    async def answer(self, talk: Talk, name: str, stored: list[Message], eose: Message) -> Sequence[Message]:
        """Return what the client is told instead of a whole answer to its REQ."""
        return [*stored, eose]

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        """Return the information document that is shown."""
        return document

    def headers(self, headers: dict[str, str]) -> dict[str, str]:
        """Return the headers that HTTP is answered with."""
        return headers

    def call(self, body: bytes) -> bytes | None:
        """Return what a call over HTTP is answered with; None: what the relay answers."""
        return None

    def page(self, path: str, body: bytes) -> bytes:
        """Return the body that HTTP is answered with."""
        return body


async def _upwards(lie: Lie, talk: Talk, up: ClientWebSocketResponse) -> None:
    async for frame in talk.socket:
        if frame.type is not WSMsgType.TEXT:
            break
        try:
            message = orjson.loads(frame.data)
        except orjson.JSONDecodeError:
            await up.send_str(frame.data)
            continue
        _note(lie, talk, message)
        told = await lie.from_client(message, talk)
        if told is not None:
            await up.send_str(orjson.dumps(told).decode())
    await up.close()


def _note(lie: Lie, talk: Talk, message: Message) -> None:
    match message:
        case ["EVENT", dict(event)]:
            try:
                lie.published.append(parse_event(event))
            except InvalidEvent:
                return
        case ["REQ", str(name), *filters] if all(type(one) is dict for one in filters):
            talk.filters[name] = [parse_filter(one) for one in filters]
            talk.stored[name] = []
        case ["CLOSE", str(name)]:
            talk.filters.pop(name, None)


async def _downwards(lie: Lie, talk: Talk, up: ClientWebSocketResponse) -> None:
    async for frame in up:
        if frame.type is not WSMsgType.TEXT:
            break
        message = orjson.loads(frame.data)
        match message:
            case ["EVENT", name, _] if name in talk.stored:
                talk.stored[name].append(message)
                continue
            case ["EOSE", name, *_] if name in talk.stored:
                answer = await lie.answer(talk, name, talk.stored.pop(name), message)
            case ["CLOSED", name, *_]:
                talk.stored.pop(name, None)
                answer = await lie.from_relay(message, talk)
            case _:
                answer = await lie.from_relay(message, talk)
        for told in answer:
            await talk.say(told)
    await talk.socket.close()


@asynccontextmanager
async def lying(http: str, lie: Lie) -> AsyncIterator[str]:
    """Stand before the relay at an http:// URL while the context lasts; yield the ws:// URL."""

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        if "upgrade" in request.headers.get("Connection", "").lower():
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            talk = Talk(socket)
            lie.talks.append(talk)
            async with (
                session.ws_connect(http, max_msg_size=0, headers={"Host": request.host}) as up,
                asyncio.TaskGroup() as both,
            ):
                both.create_task(_upwards(lie, talk, up))
                both.create_task(_downwards(lie, talk, up))
            lie.talks.remove(talk)
            return socket
        if request.method == "POST" and (told := lie.call(await request.read())) is not None:
            return web.Response(body=told)
        passed = {k: v for k, v in request.headers.items() if k.lower() not in ("content-length",)}
        async with session.request(
            request.method, http + request.path_qs, headers=passed, data=await request.read()
        ) as answer:
            body = lie.page(request.path, await answer.read())
            if "nostr+json" in request.headers.get("Accept", ""):
                body = orjson.dumps(lie.document(orjson.loads(body)))
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in ("content-length", "date")}
            return web.Response(status=answer.status, headers=lie.headers(kept), body=body)

    async with ClientSession() as session:
        runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.5)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"ws://127.0.0.1:{runner.addresses[0][1]}/"
        finally:
            await runner.cleanup()


def reconciled(events: Iterable[Event], frame: str) -> str:
    """Return what a relay that shows all these events answers to a Negentropy frame, both in hex."""
    server = Server(Vector.of({(event.created_at, bytes.fromhex(event.id)) for event in events}))
    return exhaust(server.answer(bytes.fromhex(frame))).hex()
