"""A raw Nostr client for tests: says exactly what it is told to, right or wrong."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidMessage

from relay.nostr.event import Event, encode, sign
from relay.nostr.keys import SecretKey

ANSWER_SECONDS = 20
"""For one message of the relay; generous, for the machine may be busy."""

_serial = count()


def new_key() -> SecretKey:
    """Return a key that no other test of this run uses."""
    return SecretKey(sha256(b"wire %d" % next(_serial)).digest())


def now() -> int:
    """Unix seconds: the relay under test looks at the real clock."""
    return int(time.time())


def note(
    key: SecretKey, content: str = "", *, kind: int = 1, age: int = 0, tags: Sequence[Sequence[str]] = ()
) -> Event:
    """Return a signed event made `age` seconds ago."""
    return sign(key, created_at=now() - age, kind=kind, tags=tags, content=content)


class Refused(Exception):
    """The relay answered CLOSED; the text is its reason."""


class Wire:
    """One connection."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.challenge = ""

    async def send(self, *message: Any) -> None:
        """Send one message, values as JSON."""
        await self.connection.send(orjson.dumps(message), text=True)

    async def send_event(self, event: Event) -> None:
        await self.connection.send(b'["EVENT",' + encode(event) + b"]", text=True)

    async def receive(self) -> Any:
        """Return the next message. Raises ConnectionClosed, TimeoutError."""
        async with asyncio.timeout(ANSWER_SECONDS):
            return orjson.loads(await self.connection.recv(decode=False))

    async def publish(self, event: Event) -> tuple[bool, str]:
        """Send the event; return the relay's yes or no, and its reason."""
        await self.send_event(event)
        verb, id_, accepted, reason = await self.receive()
        assert (verb, id_) == ("OK", event.id)
        return accepted, reason

    async def subscribe(self, *filters: Any, name: str = "sub") -> list[Any]:
        """Open a subscription that stays; return the stored events. Raises Refused."""
        await self.send("REQ", name, *filters)
        stored = []
        while True:
            match await self.receive():
                case ["EVENT", of, event]:
                    assert of == name
                    stored.append(event)
                case ["EOSE", of, *_]:
                    assert of == name
                    return stored
                case ["CLOSED", of, reason]:
                    assert of == name
                    raise Refused(reason)
                case other:
                    raise AssertionError(f"unexpected: {other}")

    async def query(self, *filters: Any) -> list[Any]:
        """Return the stored events that match, and close the subscription. Raises Refused."""
        stored = await self.subscribe(*filters, name="query")
        await self.send("CLOSE", "query")
        return stored

    async def count(self, *filters: Any) -> int:
        """Return the relay's count. Raises Refused."""
        await self.send("COUNT", "count", *filters)
        match await self.receive():
            case ["COUNT", "count", {"count": int(number)}]:
                return number
            case ["CLOSED", "count", reason]:
                raise Refused(reason)
            case other:
                raise AssertionError(f"unexpected: {other}")

    async def live(self, name: str = "sub") -> Any:
        """Return the next event of an open subscription."""
        verb, of, event = await self.receive()
        assert (verb, of) == ("EVENT", name)
        return event

    async def authenticate(self, key: SecretKey, **wrong: Any) -> tuple[bool, str]:
        """Answer the challenge as NIP-42 wants it, but for what `wrong` names."""
        event = proof(key, self.challenge, **wrong)
        await self.send("AUTH", orjson.loads(encode(event)))
        verb, id_, accepted, reason = await self.receive()
        assert (verb, id_) == ("OK", event.id)
        return accepted, reason


def proof(
    key: SecretKey,
    challenge: str,
    *,
    relay: str = "ws://127.0.0.1/",
    kind: int = 22_242,
    age: int = 0,
    tags: Sequence[Sequence[str]] | None = None,
) -> Event:
    """Return the event that proves a key to a relay (NIP-42)."""
    if tags is None:
        tags = [["relay", relay], ["challenge", challenge]]
    return sign(key, created_at=now() - age, kind=kind, tags=tags)


@asynccontextmanager
async def dial(
    url: str, *, receive_buffer: int | None = None, at: tuple[str, int] | None = None
) -> AsyncIterator[Wire]:
    """Connect and take the challenge that the relay sends first.

    `at` is where to connect to, if not where the URL says. `receive_buffer` in bytes makes the kernel hold
    little of what is not read. Raises OSError, ConnectionClosed.
    """
    where = urlsplit(url)
    sock = socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    # Who is given a small buffer reads only what the test asks for, and cannot close in good order.
    queue, patience = (None, 10) if receive_buffer is None else (1, 0.1)
    try:
        await asyncio.get_running_loop().sock_connect(sock, at or (where.hostname, where.port))
        try:
            connection = await connect(
                url,
                sock=sock,
                max_size=None,
                max_queue=queue,
                close_timeout=patience,
                compression=None,
                proxy=None,
            )
        except InvalidMessage as error:
            if isinstance(error.__cause__, EOFError):
                # A relay that dies over the handshake is a lost connection, as it is a moment later.
                raise ConnectionResetError("hung up on during the handshake") from error
            raise
        async with connection:
            wire = Wire(connection)
            verb, wire.challenge = await wire.receive()
            assert verb == "AUTH"
            yield wire
    finally:
        # Nobody else owns it when the relay dies, or the test ends, in the middle of the handshake.
        sock.close()
