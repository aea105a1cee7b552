"""Calls of the management API (NIP-86), each with a signature of its own (NIP-98), for probes."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from secrets import token_hex

import orjson

from relay.doctor.information import http_of, request
from relay.doctor.outcome import Failed, Skipped
from relay.doctor.visit import Visit
from relay.nostr import kinds
from relay.nostr.event import Event, encode, sign
from relay.nostr.keys import SecretKey

MEDIA_TYPE = "application/nostr+json+rpc"


@dataclass(frozen=True, slots=True)
class Called:
    """What a call was answered with."""

    status: int
    value: object
    """The whole JSON body; None where it is none."""

    @property
    def result(self) -> object:
        """The result; None where there is none."""
        return self.value.get("result") if self.status == 200 and isinstance(self.value, dict) else None

    @property
    def is_refused(self) -> bool:
        """Whether nothing was done."""
        return self.result is None or self.result is False

    def __str__(self) -> str:
        return f"status {self.status}, {self.value!r:.200}"


def body_of(method: str, *params: object) -> bytes:
    """Return the body of a call."""
    return orjson.dumps({"method": method, "params": params})


def authorization(
    visit: Visit,
    key: SecretKey,
    body: bytes,
    *,
    url: str | None = None,
    method: str = "POST",
    age: int = 0,
    kind: int = kinds.HTTP_AUTH,
) -> Event:
    """Return the event that authorises one call (NIP-98), right unless told otherwise."""
    tags: Sequence[Sequence[str]] = (
        ("u", url or http_of(visit.url)),
        ("method", method),
        ("payload", sha256(body).hexdigest()),
        ("nonce", token_hex(8)),
    )
    return sign(key, created_at=visit.now() - age, kind=kind, tags=tags)


async def send(visit: Visit, body: bytes, proof: Event | None) -> Called:
    """Send a call; return what came."""
    headers = {"Content-Type": MEDIA_TYPE}
    if proof is not None:
        headers["Authorization"] = f"Nostr {b64encode(encode(proof)).decode()}"
    answer = await request(
        http_of(visit.url), seconds=visit.answer_seconds, method="POST", headers=headers, body=body
    )
    try:
        return Called(answer.status, orjson.loads(answer.body))
    except orjson.JSONDecodeError:
        return Called(answer.status, None)


async def call(visit: Visit, method: str, *params: object) -> object:
    """Call a method with the allowed key; return its result. Raises Failed where there is none."""
    key = allowed_key(visit)
    body = body_of(method, *params)
    called = await send(visit, body, authorization(visit, key, body))
    if called.is_refused:
        raise Failed(sent=f"the call {body.decode()}", expected="a result", came=f"{called} came")
    return called.result


def allowed_key(visit: Visit) -> SecretKey:
    """Return the key that may manage the relay. Raises Skipped where there is none."""
    if visit.key is None:
        raise Skipped("only who manages the relay can prove it; name an admin's key with --key")
    return visit.key


async def methods(visit: Visit) -> frozenset[str]:
    """Return the methods that the allowed key may call. Raises Skipped where it may call none."""
    key = allowed_key(visit)
    body = body_of("supportedmethods")
    called = await send(visit, body, authorization(visit, key, body))
    if called.status in (401, 403):
        raise Skipped(f"the key of --key does not manage this relay: {called}")
    match called.result:
        case [*names] if names:
            return frozenset(map(str, names))
    raise Failed(sent="the call supportedmethods", expected="an array of names", came=f"{called} came")
