"""The server of one worker on a real socket, the store in memory."""

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest

from relay import features, policies
from relay.config import RelayConfig, TimeoutsConfig
from relay.engine.feature import Context
from relay.engine.relay import Relay
from relay.net.board import Board
from relay.net.server import Server
from relay.net.workers import bind
from relay.store.memory import MemoryStore
from tests.events import ALICE, NOW, author, note, write


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


async def test_a_socket_that_does_not_move_is_cut_and_hinders_nobody(port: int) -> None:
    loop = asyncio.get_running_loop()
    stuck = socket.socket()
    stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stuck.setblocking(False)
    await loop.sock_connect(stuck, ("127.0.0.1", port))
    await loop.sock_sendall(
        stuck,
        b"GET / HTTP/1.1\r\nHost: relay.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    assert (await loop.sock_recv(stuck, 12)) == b"HTTP/1.1 101"
    for number in range(4):
        request = orjson.dumps(["REQ", f"{number}", {"limit": 400}])
        await loop.sock_sendall(stuck, bytes((0x81, 0x80 | len(request), 0, 0, 0, 0)) + request)
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
