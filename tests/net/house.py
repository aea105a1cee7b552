"""A whole relay in this process, without sockets: the real features, engine, session and connection.

Only the two ends of the WebSocket are played here: what the client says is fed to the connection, and
the frames that it writes are read back.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from typing import Any

import orjson
import pytest
from websockets.frames import Frame, Opcode

from relay import features, policies
from relay.config import RelayConfig
from relay.engine.desk import Desk
from relay.engine.feature import Context, Feature, Origin, Search, nobody
from relay.engine.jobs import close
from relay.engine.relay import Relay
from relay.features.management.book import membership
from relay.net.board import Board
from relay.net.connection import Connection
from relay.net.deflate import PLAIN, Deflater, inflate
from relay.net.incoming import DEFLATED
from relay.net.slow import SlowQuestions
from relay.net.websocket import Backlog, WebSocket
from relay.nostr.event import Event, PubKey
from relay.nostr.keys import SecretKey
from relay.store.api import Store, Veil
from relay.store.memory import MemoryStore
from relay.store.turns import Turns
from tests.events import Clock, author, event

Filter = Mapping[str, object]
"""A filter's JSON values."""

URL = "ws://relay.test/"
ADDRESS = "192.0.2.1"
RELAY_KEY = author("the relay itself")
UNVEILED = Veil(frozenset(), lambda event: True)
"""What a reader may see from whom nothing is hidden."""
ANSWER_SECONDS = 10
"""How long a test waits for an answer before it fails."""


class Wire(asyncio.Transport):
    """The socket: hands over what the test says, and reads the frames back that the relay writes."""

    def __init__(self) -> None:
        super().__init__()
        self.payloads: asyncio.Queue[bytes] = asyncio.Queue()
        """Of the text frames; the test takes them."""
        self.pings = 0
        self.pongs: list[bytes] = []
        self.closed: tuple[int, bytes] | None = None
        """(code, reason) of the relay's goodbye, which may answer the client's."""
        self.writes = 0
        self.held = 0
        """Bytes that were written and that the client has not taken."""
        self.aborted = False
        self.ended = False
        """The relay has written its last byte."""
        self.ends, self.gone = asyncio.Event(), asyncio.Event()
        """Whether goodbye was said by the relay; whether the connection is no more."""
        self._protocol: asyncio.Protocol | None = None
        self._said: deque[bytes] = deque()
        self._reading = True

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def say(self, data: bytes) -> None:
        """Let these bytes come in, as one read."""
        self._said.append(data)
        asyncio.get_running_loop().call_soon(self._hand_over)

    @property
    def unread(self) -> int:
        """How much of what the test said was not taken from the socket yet."""
        return len(self._said)

    def stall(self, held: int = 1) -> None:
        """Take nothing more until `move`; `held` bytes lie in the socket's buffer."""
        self.held = held
        if self._protocol is not None:
            self._protocol.pause_writing()

    def move(self) -> None:
        """Take everything again."""
        self.held = 0
        if self._protocol is not None:
            self._protocol.resume_writing()

    def lose(self) -> None:
        """The client is gone."""
        if not self.gone.is_set():
            self.gone.set()
            self.ends.set()
            if self._protocol is not None:
                self._protocol.connection_lost(None)

    # What the relay does to it.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.ended
        self.writes += 1
        for opcode, payload in frames(bytes(data)):
            assert self.closed is None, "something was said after the goodbye"
            match opcode:
                case 1:
                    self.payloads.put_nowait(payload)
                case 8:
                    self.closed = (int.from_bytes(payload[:2], "big"), payload[2:])
                    self.ends.set()
                case 9:
                    self.pings += 1
                case 10:
                    self.pongs.append(payload)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def get_write_buffer_size(self) -> int:
        return self.held

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._hand_over()

    def is_closing(self) -> bool:
        return self.aborted or self.gone.is_set()

    def close(self) -> None:
        asyncio.get_running_loop().call_soon(self.lose)

    def abort(self) -> None:
        self.aborted = True
        self.close()

    def _hand_over(self) -> None:
        while self._said and self._reading and self._protocol is not None and not self.is_closing():
            self._protocol.data_received(self._said.popleft())


class Client:
    """One connection, from the client's side."""

    def __init__(self, house: "House", address: str, url: str, deflates: bool = False) -> None:
        self.wire = Wire()
        socket = WebSocket(self.wire, house.config.limits.max_message_bytes, house.backlog, deflates=deflates)
        self.wire.set_protocol(socket)
        self.connection = Connection(
            1,
            socket,
            house.relay,
            house.config,
            Origin(address=address, url=url),
            house.board,
            house.board.slot(address),
            house.spawn,
            frozenset(map(PubKey, house.config.trust_bridge_keys)),
            house.forget,
            house.turns,
            house.deflater.frames if deflates else PLAIN,
            house.slow,
        )
        house.clients.append(self)
        self.challenge = ""
        self._url = url
        self._aside: deque[list[Any]] = deque()

    def send(self, *message: object) -> None:
        """Say one message, given as its JSON values."""
        self.send_text(orjson.dumps(message))

    def send_text(self, text: bytes) -> None:
        """Say these bytes in a text frame."""
        self.wire.say(masked(1, text))

    def send_at_once(self, *messages: Sequence[object]) -> None:
        """Say several messages that the relay gets in one read."""
        self.wire.say(b"".join(masked(1, orjson.dumps(message)) for message in messages))

    def send_event(self, published: Event) -> None:
        self.send("EVENT", values(published))

    async def receive(self) -> list[Any]:
        """Return the relay's next message."""
        return self._aside.popleft() if self._aside else await self._next()

    async def heard(self) -> list[list[Any]]:
        """Return all that the relay has said until now: the answer to a question asked now ends it."""
        self.send("BARRIER")
        heard = list(self._aside)
        self._aside.clear()
        while (message := await self._next())[0] != "NOTICE" or "'BARRIER'" not in message[1]:
            heard.append(message)
        return heard

    async def publish(self, published: Event) -> tuple[bool, str]:
        """Publish; return what the OK says."""
        self.send_event(published)
        return await self._ok(published.id)

    async def authenticate(self, key: SecretKey, created_at: int, **changed: str) -> tuple[bool, str]:
        """Prove a key; `changed` are tags to say otherwise. Return what the OK says."""
        tags = {"relay": self._url, "challenge": self.challenge, **changed}
        return await self.authenticate_with(event(key, 22242, created_at=created_at, tags=list(tags.items())))

    async def authenticate_with(self, proof: Event) -> tuple[bool, str]:
        """Send any event as AUTH; return what the OK says."""
        self.send("AUTH", values(proof))
        return await self._ok(proof.id)

    async def subscribe(self, name: str, *filters: Filter) -> list[str]:
        """Open a subscription; return the contents of the stored events."""
        answers = await self.request("REQ", name, *filters)
        assert answers[-1][:2] == ["EOSE", name], answers[-1]
        return [answer[2]["content"] for answer in answers[:-1]]

    async def find(self, *filters: Filter) -> list[str]:
        """Return the contents of the stored events that match."""
        found = await self.subscribe("find", *filters)
        self.send("CLOSE", "find")
        return found

    async def count(self, *filters: Filter) -> int:
        """Return what COUNT says."""
        (answer,) = await self.request("COUNT", "count", *filters)
        assert answer[0] == "COUNT", answer
        count = answer[2]["count"]
        assert type(count) is int
        return count

    async def refusal(self, verb: str, *filters: Filter) -> str:
        """Return why this REQ or COUNT is refused."""
        (answer,) = await self.request(verb, "refused", *filters)
        assert answer[:2] == ["CLOSED", "refused"], answer
        return str(answer[2])

    async def live(self) -> list[tuple[str, str]]:
        """Return the live events that have come, as (subscription, content); nothing else may have."""
        heard = await self.heard()
        assert all(message[0] == "EVENT" for message in heard), heard
        return [(message[1], message[2]["content"]) for message in heard]

    async def request(self, verb: str, name: str, *filters: Filter) -> list[list[Any]]:
        """Ask; return the answers, the one that ends them included."""
        self.send(verb, name, *filters)
        answers: list[list[Any]] = []
        while not answers or answers[-1][0] not in ("EOSE", "CLOSED", "COUNT"):
            message = await self._next()
            if len(message) > 1 and message[1] == name:
                answers.append(message)
            else:
                self._aside.append(message)
        return answers

    async def leave(self) -> None:
        """Close the connection from the client's side."""
        self.wire.say(masked(8, b""))
        await self.ended()

    async def ended(self) -> None:
        """Wait until the connection has ended, answering the relay's goodbye if it says one."""
        async with asyncio.timeout(ANSWER_SECONDS):
            await self.wire.ends.wait()
            if self.wire.ended:
                self.wire.lose()
            else:
                self.wire.say(masked(8, b""))
            await self.wire.gone.wait()

    async def _ok(self, id_: str) -> tuple[bool, str]:
        while (message := await self._next())[:2] != ["OK", id_]:
            self._aside.append(message)
        return message[2], message[3]

    async def _next(self) -> list[Any]:
        async with asyncio.timeout(ANSWER_SECONDS):
            message = orjson.loads(await self.wire.payloads.get())
        assert type(message) is list
        return message


class House:
    """One relay and its clients."""

    def __init__(
        self,
        clock: Clock,
        config: RelayConfig | None = None,
        *,
        store: Store | None = None,
        extra: Sequence[Feature] = (),
        alone: bool = True,
        search: Search | None = None,
    ) -> None:
        """`extra` features stand behind the operator's policies; `alone`: there is no other process."""
        self.clock = clock
        self.config = config or RelayConfig()
        self.board = Board.create(1)
        self.desk = Desk()
        context = Context(
            key=RELAY_KEY,
            spend=self.board.spend,
            drain=self.board.drain,
            desk=self.desk,
            search=search,
            is_member=membership(self.desk) if self.config.members.enabled else nobody,
        )
        first = (*policies.enabled(self.config, context), *extra)
        enabled = features.enabled(self.config, context, first)
        self.store = store or MemoryStore((table for one in enabled for table in one.tables), now=clock)
        self.desk.open(self.store)
        self.relay = Relay(
            self.store,
            enabled,
            max_limit=self.config.limits.max_limit,
            buffer_bytes=self.config.limits.max_outbox_bytes,
            now=clock,
            alone=alone,
        )
        self.clients: list[Client] = []
        self.turns = Turns()
        self.deflater = Deflater()
        self.backlog = Backlog()
        self.slow = SlowQuestions()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []

    async def __aenter__(self) -> "House":
        ready = asyncio.Event()
        self.spawn(self.relay.run(ready))
        await ready.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            client.wire.lose()
        await close(self.relay.features)
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(tuple(self._tasks))
        os.close(self.board.fd)
        # A task that failed is a bug, whatever the test looked at.
        assert self._failures == []

    async def connect(self, address: str = ADDRESS, *, url: str = URL, deflates: bool = False) -> Client:
        """Return a client that has heard its challenge; `deflates`: both sides may compress messages."""
        client = Client(self, address, url, deflates)
        name, client.challenge = await client.receive()
        assert name == "AUTH"
        return client

    def forget(self, connection: Connection) -> None:
        """Nothing: the clients are the tests' own."""

    def spawn(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Start a task that this house owns."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self._failures.append(failure)


def values(shown: Event) -> dict[str, Any]:
    """Return the event as JSON values."""
    return {name: getattr(shown, name) for name in Event._fields}


def payloads(data: bytes) -> list[bytes]:
    """Split bytes into the payloads of the text frames that they must be."""
    found = frames(data)
    assert all(opcode == 1 for opcode, _ in found), "not a text frame"
    return [payload for _, payload in found]


def frames(data: bytes) -> list[tuple[int, bytes]]:
    """Split bytes into the (opcode, payload) of the whole, unmasked frames that they must be; inflated."""
    found = []
    while data:
        assert data[0] & 0xB0 == 0x80, "not a whole frame"
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
        assert len(data) >= start + length, "a frame is cut"
        payload = data[start : start + length]
        if data[0] & DEFLATED:
            said = inflate(payload, 2**24)
            assert said is not None
            payload = said
        found.append((data[0] & 0x0F, payload))
        data = data[start + length :]
    return found


def masked(opcode: int, payload: bytes, *, ends: bool = True) -> bytes:
    """Return one frame as a client sends it; without `ends`, more of its message follows."""
    frame = Frame(Opcode(opcode), payload, fin=ends)
    return frame.serialize(mask=True)


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[House]:
    """A relay with default settings, alone on a memory store."""
    async with House(clock) as running:
        yield running


@pytest.fixture
async def client(house: House) -> Client:
    """A connection to the house."""
    return await house.connect()
