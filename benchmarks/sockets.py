"""A WebSocket client that costs little: raw sockets, ready-made frames, replies counted by their bytes.

The client shares the machine with the relay it measures; what it spends is missing there.
"""

import base64
import os
import select
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from urllib.parse import urlsplit

from benchmarks.server import RelayFailed

READ_BYTES = 262_144
PATIENCE_SECONDS = 60.0
"""A relay that says nothing for so long has failed."""

# An empty ping, and its answer. The bytes may also stand in a frame's length: a pong too many does no harm.
PING = b"\x89\x00"
PONG = b"\x8a\x80" + bytes(4)


def frame(payload: bytes) -> bytes:
    """Return a client's text frame. Its mask is zero, so the payload stays as it is (RFC 6455, 5.3)."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x81, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", 0x81, 0xFE, size)
    else:
        head = struct.pack("!BBQ", 0x81, 0xFF, size)
    return head + bytes(4) + payload


def payloads(received: bytes) -> Iterator[bytes]:
    """Yield the payloads of the server frames in `received`, which begins and ends with whole ones."""
    position = 0
    while position < len(received):
        size, start = received[position + 1], position + 2
        if size == 126:
            size, start = int.from_bytes(received[start : start + 2], "big"), start + 2
        elif size == 127:
            size, start = int.from_bytes(received[start : start + 8], "big"), start + 8
        yield received[start : start + size]
        position = start + size


class Peer:
    """One connection: what is to be sent, and counts of what came."""

    def __init__(self, url: str) -> None:
        """Connect and upgrade, blocking. Raises RelayFailed."""
        where = urlsplit(url)
        host, port = where.hostname or "127.0.0.1", where.port or 80
        self.socket = socket.create_connection((host, port), timeout=PATIENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET {where.path or '/'} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._read_some()
        head, early = head.split(b"\r\n\r\n", 1)
        if b" 101 " not in head.split(b"\r\n", 1)[0]:
            raise RelayFailed(f"no upgrade: {head[:80]!r}")
        # The challenge comes first, and has to be out of the way before anything is counted.
        while b'["AUTH"' not in early or not _is_whole(early):
            early += self._read_some()
        self._unsent = memoryview(b"")

    def _read_some(self) -> bytes:
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise RelayFailed("the relay closed the connection")
        return data

    def fileno(self) -> int:
        return self.socket.fileno()

    def ask(self, request: bytes, *ends: bytes) -> bytes:
        """Send one message and read, blocking, until one of `ends` has come and a frame is complete."""
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.sendall(frame(request))
        received = b""
        while not any(end in received for end in ends) or not _is_whole(received):
            received += self._read_some()
        return received

    def send(self, data: bytes) -> None:
        """Queue frames and send what the kernel takes."""
        self._unsent = memoryview(bytes(self._unsent) + data if self._unsent else data)
        self.flush()

    def flush(self) -> None:
        """Send what the kernel takes of what is queued."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def receive(self) -> bytes:
        """Return what has come. Raises RelayFailed when the relay is gone."""
        try:
            return self._read_some()
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.socket.close()


def _is_whole(received: bytes) -> bool:
    """Say whether the bytes end where a frame ends."""
    position = 0
    while position + 2 <= len(received):
        size, start = received[position + 1], position + 2
        if size == 126:
            size, start = int.from_bytes(received[start : start + 2], "big"), start + 2
        elif size == 127:
            size, start = int.from_bytes(received[start : start + 8], "big"), start + 8
        position = start + size
    return position == len(received)


class Tally:
    """Counts how often a byte pattern came in a stream that arrives in pieces."""

    def __init__(self, pattern: bytes) -> None:
        self._pattern = pattern
        self._tail = b""
        self.count = 0

    def take(self, data: bytes) -> int:
        """Count in the next piece; return how many came with it."""
        piece = self._tail + data
        found = piece.count(self._pattern)
        # Shorter than the pattern: what was counted cannot be counted again.
        self._tail = piece[-(len(self._pattern) - 1) :]
        self.count += found
        return found


@contextmanager
def dialed(url: str, count: int) -> Iterator[list[Peer]]:
    """Open so many connections, and close them at the end."""
    peers: list[Peer] = []
    try:
        for _ in range(count):
            peers.append(Peer(url))  # noqa: PERF401  # what is open is closed when one fails
        yield peers
    finally:
        for peer in peers:
            peer.close()


class Loop:
    """Waits for many peers at once, of which some send."""

    def __init__(self, senders: Sequence[Peer], readers: Sequence[Peer] = ()) -> None:
        self._senders = senders
        self._waiting: set[Peer] = set()
        self._epoll = select.epoll()
        self._peers: dict[int, Peer] = {}
        for peer in (*senders, *readers):
            peer.socket.setblocking(False)
            self._peers[peer.fileno()] = peer
            self._epoll.register(peer.fileno(), select.EPOLLIN)

    def run(
        self,
        on_data: Callable[[Peer, bytes], None],
        is_done: Callable[[], bool],
        *,
        before_wait: Callable[[], float] = lambda: PATIENCE_SECONDS,
    ) -> None:
        """Read until it is done. `before_wait` may send, and says how many seconds to wait at most.

        Raises RelayFailed when a connection ends, or nothing comes for long.
        """
        heard = perf_counter()
        with self._epoll:
            while not is_done():
                wait = before_wait()
                self._await_room()
                ready = self._epoll.poll(wait)
                now = perf_counter()
                if ready:
                    heard = now
                elif now - heard >= PATIENCE_SECONDS:
                    raise RelayFailed(f"the relay said nothing for {PATIENCE_SECONDS:.0f} s")
                for fd, events in ready:
                    peer = self._peers[fd]
                    if events & select.EPOLLOUT:
                        peer.flush()
                    if events & ~select.EPOLLOUT and (data := peer.receive()):
                        if PING in data:
                            peer.send(PONG)
                        on_data(peer, data)

    def _await_room(self) -> None:
        """Wait for writability exactly where something is unsent."""
        for peer in self._senders:
            if peer.has_unsent != (peer in self._waiting):
                mask = select.EPOLLIN | (select.EPOLLOUT if peer.has_unsent else 0)
                self._epoll.modify(peer.fileno(), mask)
                self._waiting ^= {peer}
