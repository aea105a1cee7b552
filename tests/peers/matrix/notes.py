"""Somebody on Nostr, with a connection that hears everything in the order of its arrival."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import orjson
from websockets.sync.client import ClientConnection, connect

from relay.nostr import nip19
from relay.nostr.event import Event, PubKey, check_event, encode, parse_event, sign
from relay.nostr.keys import SecretKey

WAIT_SECONDS = 30


class Account:
    """A key, and a relay."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._secret = SecretKey.generate()
        self.pubkey = self._secret.public
        self.npub = nip19.encode(nip19.Npub(PubKey(self.pubkey)))
        self.heard: list[Event] = []
        """Notes, reactions, profiles and deletions of everybody, in the order of their arrival."""
        connection.send(orjson.dumps(["REQ", "all", {"kinds": [0, 1, 5, 7], "limit": 0}]).decode())

    def publish(
        self, kind: int, content: str, *, at: int | None = None, tags: Sequence[Sequence[str]] = ()
    ) -> Event:
        """Publish an event, and return it when the relay has it."""
        at = int(time.time()) if at is None else at
        event = sign(self._secret, created_at=at, kind=kind, tags=tags, content=content)
        self._connection.send(b'["EVENT",' + encode(event) + b"]", text=True)
        while (answer := self._receive())[:2] != ["OK", event.id]:
            pass
        assert answer[2], answer
        return event

    def note(self, text: str, **more: Any) -> Event:
        """Publish a note."""
        return self.publish(1, text, **more)

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        """Wait for an event, also among those heard before; return it."""
        deadline = time.monotonic() + WAIT_SECONDS
        start = 0
        while time.monotonic() < deadline:
            for event in self.heard[start:]:
                if wanted(event):
                    return event
            start = len(self.heard)
            self._receive()
        raise AssertionError(f"not within {WAIT_SECONDS} s; heard: {self.heard}")

    def until_note(self, text: str) -> Event:
        """Wait for a note with this text."""
        return self.until(lambda event: event.kind == 1 and event.content == text)

    def notes_by(self, pubkey: str) -> list[str]:
        """Return the texts of somebody's notes, in the order in which they arrived."""
        return [event.content for event in self.heard if event.kind == 1 and event.pubkey == pubkey]

    def stored(self, **wanted: Any) -> list[Event]:
        """Return the stored events that match a filter."""
        self._connection.send(orjson.dumps(["REQ", "stored", wanted]).decode())
        found = []
        while (message := self._receive())[:2] != ["EOSE", "stored"]:
            if message[:2] == ["EVENT", "stored"]:
                found.append(parse_event(message[2]))
        self._connection.send('["CLOSE","stored"]')
        return found

    def _receive(self) -> list[Any]:
        message: list[Any] = orjson.loads(self._connection.recv(WAIT_SECONDS))
        assert message[0] != "CLOSED", message
        if message[:2] == ["EVENT", "all"]:
            event = parse_event(message[2])
            check_event(event)
            self.heard.append(event)
        return message


@contextmanager
def connected(url: str) -> Iterator[Account]:
    """Yield a new account at the relay."""
    with connect(url) as connection:
        yield Account(connection)
