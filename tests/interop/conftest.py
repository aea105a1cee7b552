"""Three clients that nobody here wrote, each behind the same line protocol (driver.mjs)."""

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Served

HERE = Path(__file__).parent
CLIENTS = {
    "nostr-tools": ["node", "nostr_tools.mjs"],
    "ndk": ["node", "ndk.mjs"],
    "nostr-sdk": [sys.executable, "nostr_sdk_client.py"],
}
ANSWER_SECONDS = 30
"""The scripts give up after half of that, and say at what."""


class Driver:
    """One process that runs a client library; many sessions (clients with their own keys) live in it."""

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._buffer = b""

    def call(self, verb: str, session: str, **arguments: Any) -> Any:
        """Have the session do it; return the result. Raises RuntimeError with what the script says."""
        assert self._process.stdin is not None
        line = json.dumps({"call": verb, "as": session, **arguments})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()
        reply = json.loads(self._line())
        if "error" in reply:
            raise RuntimeError(reply["error"])
        return reply["result"]

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(ANSWER_SECONDS):
                    raise TimeoutError(f"no answer in {ANSWER_SECONDS} s")
                chunk = os.read(self._process.stdout.fileno(), 65_536)
                if not chunk:
                    raise RuntimeError(f"the client ended with status {self._process.wait()}")
                self._buffer += chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line

    def end(self) -> None:
        """Let the process leave by itself: its standard input ends."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            assert self._process.wait(ANSWER_SECONDS) == 0
        finally:
            self._process.stdout.close()


class Client:
    """A person's client: one key, one connection to one relay."""

    def __init__(self, driver: Driver, name: str, url: str, *, authenticate: bool) -> None:
        self._driver = driver
        self._name = name
        secret = sha256(name.encode()).hexdigest()
        self._driver.call("connect", name, url=url, secret=secret, authenticate=authenticate)
        self.pubkey: str = self.sign(1, created_at=1)["pubkey"]

    def sign(
        self, kind: int, content: str = "", *, created_at: int, tags: Sequence[Sequence[str]] = ()
    ) -> Any:
        """Return an event that the library serialised, hashed and signed."""
        template = {"kind": kind, "content": content, "created_at": created_at, "tags": tags}
        return self._driver.call("sign", self._name, event=template)

    def publish(self, event: Any) -> Any:
        """Send it; return {"accepted": bool, "reason": str}."""
        return self._driver.call("publish", self._name, event=event)

    def fetch(self, **wanted: Any) -> Any:
        """Return the stored events as they came. Raises RuntimeError with the reason of a CLOSED."""
        return self._driver.call("fetch", self._name, filter=wanted)

    def count(self, **wanted: Any) -> Any:
        return self._driver.call("count", self._name, filter=wanted)

    def subscribe(self, subscription: str, **wanted: Any) -> Any:
        """Open a subscription that stays; return its stored events."""
        return self._driver.call("subscribe", self._name, name=subscription, filter=wanted)

    def next(self, subscription: str) -> Any:
        """Return the next live event of the subscription."""
        return self._driver.call("next", self._name, name=subscription)

    def disconnect(self) -> None:
        self._driver.call("disconnect", self._name)


@pytest.fixture(scope="module", params=CLIENTS)
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    """The process of one client library; every test runs once with each."""
    driver = Driver(CLIENTS[request.param])
    yield driver
    driver.end()


_serial = count()


class People:
    """Makes clients with new keys, all of one library; disconnects them at the end."""

    def __init__(self, driver: Driver, url: str) -> None:
        self._driver = driver
        self._url = url
        self._clients: list[Client] = []

    def __call__(self, name: str, *, authenticate: bool = False) -> Client:
        client = Client(self._driver, f"{name} {next(_serial)}", self._url, authenticate=authenticate)
        self._clients.append(client)
        return client

    def leave(self) -> None:
        for client in self._clients:
            client.disconnect()


@pytest.fixture
def people(driver: Driver, relay: Served) -> Iterator[People]:
    """`people("alice", authenticate=True)`: clients of the shared relay, each with a new key."""
    people = People(driver, relay.url)
    yield people
    people.leave()
