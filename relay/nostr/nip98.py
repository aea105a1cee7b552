"""HTTP authorisation: a signed event in the `Authorization` header names one request (NIP-98).

Pure: the server says what was requested and what time it is.
"""

import binascii
from base64 import b64decode
from collections.abc import Collection
from hashlib import sha256
from heapq import heappop, heappush

import orjson

from relay.nostr import kinds
from relay.nostr.event import Event, EventId, InvalidEvent, check_event, parse_event
from relay.nostr.reasons import Prefix, Refusal, Refused, invalid
from relay.nostr.tags import first_value

WINDOW_SECONDS = 60
"""NIP-98: created_at "MUST be within a reasonable time window (suggestion 60 seconds)"; both ways."""
MAX_HEADER_CHARS = 16_384
MAX_REMEMBERED = 65_536

_SCHEME = "nostr "


class InvalidAuthorization(Refused):
    """The request's Authorization header does not allow it; the answer is 401."""


class UsedAuthorizations:
    """Remembers who has come in, so that nobody comes in twice on one signature.

    Bounded: what has left the window is forgotten, and when it is full of what has not, everything new
    is refused rather than something forgotten.
    """

    def __init__(self, capacity: int = MAX_REMEMBERED) -> None:
        self._capacity = capacity
        self._ids: set[EventId] = set()
        self._by_end: list[tuple[int, EventId]] = []

    def use(self, event: Event, now: int) -> None:
        """Remember a verified event. Raises InvalidAuthorization where it was used, or there is no room."""
        while self._by_end and self._by_end[0][0] < now:
            self._ids.remove(heappop(self._by_end)[1])
        if event.id in self._ids:
            raise InvalidAuthorization(invalid("this authorization was used already; sign a new one"))
        if len(self._ids) >= self._capacity:
            raise InvalidAuthorization(
                Refusal(Prefix.RATE_LIMITED, "too many authorized requests; try again in a minute")
            )
        self._ids.add(event.id)
        heappush(self._by_end, (event.created_at + WINDOW_SECONDS, event.id))


def authorize(
    header: str | None,
    *,
    method: str,
    urls: Collection[str],
    body: bytes,
    now: int,
    used: UsedAuthorizations,
    payload_required: bool = False,
) -> Event:
    """Return the event that authorises this request; its author is who makes it.

    `header` is the Authorization header's value, `urls` what the request's absolute URL, query included,
    may be called (a proxy in front changes the scheme). The `payload` tag is compared with `body` if it
    is there, or demanded. Raises InvalidAuthorization.
    """
    event = _read(header)
    if event.kind != kinds.HTTP_AUTH:
        raise _unfit(f"an authorization is an event of kind {kinds.HTTP_AUTH}")
    if abs(event.created_at - now) > WINDOW_SECONDS:
        raise _unfit(f"created_at is more than {WINDOW_SECONDS} seconds off")
    # "The u tag MUST be exactly the same as the absolute request URL".
    if first_value(event.tags, "u") not in urls:
        raise _unfit("the u tag names another URL than the one requested")
    if (first_value(event.tags, "method") or "").upper() != method.upper():
        raise _unfit(f"the method tag is not {method.upper()}")
    payload = first_value(event.tags, "payload")
    if payload is None and payload_required:
        raise _unfit("a payload tag with the body's sha256 is needed here")
    if payload is not None and payload.lower() != sha256(body).hexdigest():
        raise _unfit("the payload tag is not the body's sha256")
    try:
        check_event(event)
    except InvalidEvent as error:
        raise InvalidAuthorization(error.refusal) from None
    # Last of all: what anybody could make up must not take room.
    used.use(event, now)
    return event


def _read(header: str | None) -> Event:
    if header is None or header[: len(_SCHEME)].lower() != _SCHEME:
        raise InvalidAuthorization(
            Refusal(Prefix.AUTH_REQUIRED, "this needs an Authorization header of the scheme Nostr (NIP-98)")
        )
    if len(header) > MAX_HEADER_CHARS:
        raise _unfit(f"an authorization has at most {MAX_HEADER_CHARS} characters")
    try:
        text = b64decode(header[len(_SCHEME) :].strip(), validate=True)
        return parse_event(orjson.loads(text))
    except (binascii.Error, ValueError) as error:
        if isinstance(error, InvalidEvent):
            raise InvalidAuthorization(error.refusal) from None
        raise _unfit("the Authorization header does not hold a base64-encoded event") from None


def _unfit(text: str) -> InvalidAuthorization:
    return InvalidAuthorization(invalid(text))
