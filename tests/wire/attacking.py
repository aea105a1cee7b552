"""Clients that mean no good, as a process: `python -m tests.wire.attacking KIND URL COUNT`.

Says when the attack is under way, and goes on until it is killed. Nothing is read but what a kind needs.
"""

import asyncio
import os
import resource
import sys
import zlib
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from tests.net.house import masked

UNDER_WAY = b"under way\n"
AT_ONCE = 50
"""Handshakes."""


def upgrade(host: str, *, deflates: bool = False) -> bytes:
    """Return a request for a WebSocket."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflates else ""
    return (
        f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{offer}"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def bomb() -> bytes:
    """Return a question of some hundred bytes that inflates to nearly as much as a message may hold."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    said = compressor.compress(b'["COUNT",' + b" " * 262_000 + b'"bomb",{"ids":[]}]')
    said += compressor.flush(zlib.Z_SYNC_FLUSH)
    payload = said[:-4]
    assert 125 < len(payload) < 65_536
    return b"\xc1\xfe" + len(payload).to_bytes(2, "big") + bytes(4) + payload


FLOODS = {
    # What each client repeats as fast as it is read.
    "bombs": bomb() * 20,
    "pings": masked(9, b"") * 2_000,
    "fragments": (masked(1, b"[", ends=False) + masked(0, b"", ends=False) * 900 + masked(0, b"]")) * 4,
    "nonsense": masked(1, b"[") * 2_000,
}


class Flooder(asyncio.Protocol):
    """Says the same again and again, and reads what it must so that it is read."""

    def __init__(self, said: bytes, first: bytes, begun: Callable[[], None]) -> None:
        self._said = said
        self._first = first
        self._begun = begun
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._first)

    def data_received(self, data: bytes) -> None:
        if self._first:
            self._first = b""
            self._begun()
            self.resume_writing()

    def resume_writing(self) -> None:
        assert self._transport is not None
        # The buffer is never full for long: the relay decides how fast this goes.
        if not self._first and not self._transport.is_closing():
            self._transport.write(self._said)
            asyncio.get_running_loop().call_later(0.001, self._go_on)

    def _go_on(self) -> None:
        assert self._transport is not None
        if self._transport.get_write_buffer_size() < 65_536:
            self.resume_writing()
        else:
            asyncio.get_running_loop().call_later(0.001, self._go_on)


async def flood(kind: str, host: str, port: int, count: int) -> None:
    """Connect so many clients that all say the same without end."""
    loop = asyncio.get_running_loop()
    begun = asyncio.Semaphore(0)
    first = upgrade(f"{host}:{port}", deflates=kind == "bombs")
    for _ in range(count):
        await loop.create_connection(lambda: Flooder(FLOODS[kind], first, begun.release), host, port)
    for _ in range(count):
        await begun.acquire()


async def hold(kind: str, host: str, port: int, count: int) -> None:
    """Hold so many connections open that do next to nothing."""

    async def connect(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        _KEPT.append((reader, writer))
        match kind:
            case "half handshakes":
                writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: web")
            case "half messages":
                writer.write(upgrade(f"{host}:{port}"))
                writer.write(masked(1, b"x" * 200_000)[: 100_000 if number % 20 == 0 else 1_000])
            case "idle":
                writer.write(upgrade(f"{host}:{port}") + masked(1, b'["REQ","s",{"kinds":[4242]}]'))
        if kind != "half handshakes":
            await reader.readuntil(b"\r\n\r\n")

    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*map(connect, range(first, min(count, first + AT_ONCE))))


_KEPT: list[object] = []
KINDS: dict[str, Callable[[str, str, int, int], Awaitable[None]]] = {
    **dict.fromkeys(FLOODS, flood),
    **dict.fromkeys(("half handshakes", "half messages", "idle"), hold),
}


async def attack(kind: str, url: str, count: int) -> None:
    """Begin, say so, and go on."""
    where = urlsplit(url)
    await KINDS[kind](kind, where.hostname or "", where.port or 0, count)
    sys.stdout.buffer.write(UNDER_WAY)
    sys.stdout.buffer.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    # The relay is to have what processor time it wants.
    os.nice(10)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(attack(sys.argv[1], sys.argv[2], int(sys.argv[3])))
