"""The server of one worker on a real socket, the store in memory."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from relay import features, policies
from relay.config import RelayConfig, TimeoutsConfig
from relay.engine.feature import Context
from relay.engine.relay import Relay
from relay.net import server as servers
from relay.net.board import Board, Counter
from relay.net.server import Server
from relay.net.websocket import HandedOver
from relay.net.workers import bind
from relay.store.memory import MemoryStore
from tests.events import ALICE, NOW, author, note, write
from tests.net.house import frames, masked


@pytest.fixture
async def port(tmp_path: Path) -> AsyncIterator[int]:
    """The port of a running server whose store holds 400 notes of 10 kB."""
    config = RelayConfig(timeouts=TimeoutsConfig(stalled_seconds=0.4))
    context = Context(key=author("the relay"))
    store = MemoryStore()
    await store.write([write(note(ALICE, "x" * 10_000, created_at=NOW + n)) for n in range(400)])
    relay = Relay(
        store,
        features.enabled(config, context, policies.enabled(config, context)),
        max_limit=500,
        buffer_bytes=config.limits.max_outbox_bytes,
        now=lambda: NOW + 1000,
    )
    server = Server(relay, config, Board.create(1), tmp_path)
    (listening,) = bind("127.0.0.1", 0, 1)
    stop, following, listens = asyncio.Event(), asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        engine = tasks.create_task(relay.run(following))
        await following.wait()
        serving = tasks.create_task(server.run([listening], stop, listens))
        await listens.wait()
        yield listening.getsockname()[1]
        stop.set()
        await serving
        engine.cancel()
    listening.close()


async def test_few_connections_are_spread_evenly_over_the_workers(tmp_path: Path) -> None:
    config, context = RelayConfig(), Context(key=author("the relay"))
    relay = Relay(
        MemoryStore(),
        features.enabled(config, context, ()),
        max_limit=500,
        buffer_bytes=config.limits.max_outbox_bytes,
        now=lambda: NOW,
    )
    first = Board.create(2)
    sockets = bind("127.0.0.1", 0, 2)
    stop, following = asyncio.Event(), asyncio.Event()
    clients = []
    async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
        engine = tasks.create_task(relay.run(following))
        await following.wait()
        serving = []
        for board in (first, Board(first.fd, 1, 2)):
            listens = asyncio.Event()
            server = Server(relay, config, board, tmp_path)
            serving.append(tasks.create_task(server.run([one.dup() for one in sockets], stop, listens)))
            await listens.wait()

        for _ in range(8):
            reader, writer = await asyncio.open_connection(*sockets[0].getsockname())
            clients.append(writer)
            writer.write(upgrade())
            await reader.readuntil(b"\r\n\r\n")

        assert first.each(Counter.CONNECTIONS_OPEN) == [4, 4]
        for writer in clients:
            writer.close()
            await writer.wait_closed()
        stop.set()
        await asyncio.gather(*serving)
        engine.cancel()
    for one in sockets:
        one.close()


HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def upgrade(**changed: str) -> bytes:
    """Return a request for a WebSocket; `changed` headers have _ for -."""
    headers = {**HANDSHAKE, **{name.replace("_", "-"): value for name, value in changed.items()}}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET / HTTP/1.1\r\nHost: relay.test\r\n{lines}\r\n".encode()


async def test_what_comes_right_behind_the_upgrade_is_taken(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(upgrade() + masked(1, b'["COUNT","q",{}]') + masked(8, b""))

    async with asyncio.timeout(10):
        said = await reader.read()

    # The example of RFC 6455, section 1.3.
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in said
    head, _, rest = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    challenge, answer, goodbye = frames(rest)
    assert challenge[1].startswith(b'["AUTH",')
    assert answer == (1, b'["COUNT","q",{"count":400}]')
    assert goodbye == (8, b"\x03\xe8")
    writer.close()
    await writer.wait_closed()


async def test_a_connection_that_served_pages_may_be_upgraded(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: relay.test\r\n\r\n")
    async with asyncio.timeout(10):
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200 ")

        writer.write(upgrade())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.write(masked(8, b""))
        await reader.read()

    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "changed",
    [
        {"Sec_WebSocket_Version": "8"},
        {"Sec_WebSocket_Key": "dG9vIHNob3J0"},
        {"Sec_WebSocket_Key": "not base64!"},
        {"Connection": "keep-alive"},
    ],
    ids=["version", "short key", "odd key", "no upgrade"],
)
async def test_a_wrong_request_for_a_websocket_is_refused_and_says_which_version_is_right(
    port: int, changed: dict[str, str]
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(upgrade(**changed))

    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in head
    writer.close()
    await writer.wait_closed()


async def test_what_served_the_upgrade_is_let_go(port: int) -> None:
    def parts() -> list[object]:
        kept = (RequestHandler, BaseRequest, HandedOver)
        return [thing for thing in gc.get_objects() if isinstance(thing, kept)]

    async with aiohttp.ClientSession() as session:
        clients = [await session.ws_connect(f"ws://127.0.0.1:{port}/") for _ in range(5)]
        for client in clients:
            await client.receive_json()
        gc.collect()

        assert parts() == []
        for client in clients:
            await client.close()


async def test_a_socket_that_does_not_move_is_cut_and_hinders_nobody(port: int) -> None:
    loop = asyncio.get_running_loop()
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.setblocking(False)
    await loop.sock_connect(stuck, ("127.0.0.1", port))
    await loop.sock_sendall(stuck, upgrade())
    assert (await loop.sock_recv(stuck, 12)) == b"HTTP/1.1 101"
    for number in range(4):
        request = orjson.dumps(["REQ", f"{number}", {"limit": 400}])
        await loop.sock_sendall(stuck, masked(1, request))
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        cut = "torv_connections_stalled_total 1.0"
        while cut not in await (await session.get(f"http://127.0.0.1:{port}/metrics")).text():
            pass

        async with session.ws_connect(f"ws://127.0.0.1:{port}/") as other:
            await other.receive_json()
            await other.send_str('["REQ","after",{"limit":1}]')
            answers = [(await other.receive_json())[0] for _ in range(2)]

    stuck.close()
    assert answers == ["EVENT", "EOSE"]


async def reads_end(reader: asyncio.StreamReader) -> bool:
    """Say whether the server cuts the connection, or answers a request on it."""
    async with asyncio.timeout(10):
        try:
            return not await reader.read(1)
        except ConnectionResetError:
            return True


async def test_one_address_has_few_connections_that_are_no_websockets(port: int) -> None:
    waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(64)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reads_end(reader)
    writer.close()

    # A WebSocket makes room for another.
    first, upgraded = waiting[0]
    upgraded.write(upgrade())
    await first.readuntil(b"\r\n\r\n")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: relay.test\r\n\r\n")
    assert not await reads_end(reader)

    for _, one in (*waiting, (reader, writer)):
        one.close()


async def test_who_has_waited_longest_makes_room_for_who_comes(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "MAX_HTTP_CONNECTIONS", 10)
    waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: relay.test\r\n\r\n")

    assert not await reads_end(reader)
    assert await reads_end(waiting[0][0])
    waiting[1][1].write(b"GET /healthz HTTP/1.1\r\nHost: relay.test\r\n\r\n")
    assert not await reads_end(waiting[1][0])

    for _, one in (*waiting, (reader, writer)):
        one.close()
