"""A WebSocket client on asyncio, for loads with many different clients that are in no hurry.

It has no rates to measure: where they count, `benchmarks.sockets` is the client.
"""

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from benchmarks.sockets import PATIENCE_SECONDS, PING, PONG, frame

_READ_BYTES = 65_536


class Line:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take an upgraded connection; `dialed` makes one."""
        self._reader = reader
        self._writer = writer

    async def send(self, message: bytes) -> None:
        """Send one text message. Raises ConnectionError."""
        await self.send_raw(frame(message))

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are: frames, or what is none. Raises ConnectionError."""
        self._writer.write(data)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await self._writer.drain()

    async def read(self) -> bytes:
        """Return some of what comes, at once when something did. Raises ConnectionError at the end."""
        data = await self._reader.read(_READ_BYTES)
        if not data:
            raise ConnectionResetError("the relay closed the connection")
        if PING in data:
            self._writer.write(PONG)
        return data

    async def read_until(self, *patterns: bytes) -> None:
        """Read on until one of the patterns has come. Raises ConnectionError, TimeoutError."""
        tail = b""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not any(pattern in tail for pattern in patterns):
                tail = tail[-200:] + await self.read()


@asynccontextmanager
async def dialed(url: str) -> AsyncIterator[Line]:
    """Connect and upgrade; close at the end, without a word. Raises OSError, TimeoutError."""
    where = urlsplit(url)
    async with asyncio.timeout(PATIENCE_SECONDS):
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET {where.path or '/'} HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise ConnectionRefusedError(f"no upgrade: {head[:80]!r}")
        yield Line(reader, writer)
    finally:
        writer.close()
