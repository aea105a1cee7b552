"""Calling the management API (NIP-86) of a relay in this process, each call with a signature of its own."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from itertools import count
from typing import Any

import orjson

from relay.engine.feature import HttpRequest, HttpResponse
from relay.features.nip86 import MEDIA_TYPE
from relay.nostr.event import Event, encode
from relay.nostr.keys import SecretKey
from tests.events import event
from tests.net.house import UNVEILED, URL, House

_serial = count()


def authorization(
    key: SecretKey,
    body: bytes,
    created_at: int,
    *,
    url: str = "http://relay.test/",
    tags: Sequence[Sequence[str]] | None = None,
) -> Event:
    """Return an event that authorises a call, unlike all others."""
    if tags is None:
        tags = [["u", url], ["method", "POST"], ["payload", sha256(body).hexdigest()]]
    return event(key, 27_235, created_at=created_at, tags=[*tags, ["nonce", str(next(_serial))]])


def header(proof: Event) -> str:
    """Return the Authorization header that carries an event."""
    return f"Nostr {b64encode(encode(proof)).decode()}"


class Office:
    """Where a relay is managed."""

    def __init__(self, house: House) -> None:
        self.house = house
        routes = [route for feature in house.relay.features for route in feature.routes]
        (self.route,) = (route for route in routes if route.accept == MEDIA_TYPE)

    async def post(self, body: bytes, authorization_: str) -> HttpResponse:
        """Send a body; return the answer."""
        self.house.relay.catch_up()
        request = HttpRequest(
            "/", "relay.test", URL, UNVEILED, authorization=authorization_, body=body, now=self.house.clock()
        )
        answer = self.route.handler(request)
        assert not isinstance(answer, HttpResponse)
        return await answer

    async def call(self, key: SecretKey, method: str, *params: object) -> Any:
        """Call a method that succeeds; return its result."""
        answer = await self.answer(key, method, *params)
        assert list(answer) == ["result"], answer
        return answer["result"]

    async def refusal(self, key: SecretKey, method: str, *params: object) -> str:
        """Call a method that fails; return its error."""
        answer = await self.answer(key, method, *params)
        assert list(answer) == ["error"], answer
        return str(answer["error"])

    async def answer(self, key: SecretKey, method: str, *params: object) -> Any:
        body = orjson.dumps({"method": method, "params": params})
        response = await self.post(body, header(authorization(key, body, self.house.clock())))
        return orjson.loads(response.body)

    async def work(self) -> None:
        """Let the relay do what it does every few seconds."""
        self.house.relay.catch_up()
        for feature in self.house.relay.features:
            if feature.nip in (43, 86):
                for job in feature.jobs:
                    await job.run(self.house.clock())
        self.house.relay.catch_up()
