"""What is said to a plugin and what it answers, a line of JSON each; the words are strfry's. Pure.

An event that comes in is `{"type":"new","event":…,"receivedAt":…,"sourceType":…,"sourceInfo":…,"authed":…}`,
answered by `{"id":…,"action":"accept"|"reject"|"shadowReject","msg":…}` with the event's id. Whether
somebody may see an event is asked by `{"type":"read","id":…,"event":…,"authed":[…]}`, and answered with
that id.
"""

from enum import StrEnum
from typing import NamedTuple

import orjson

from relay.engine.feature import Origin
from relay.nostr.reasons import Prefix, Refusal, prefix_of

MAX_ID_CHARS = 128
MAX_REASON_CHARS = 500

_NO_REASON = "the relay's policy refuses this"


class Action(StrEnum):
    """What a plugin decides."""

    ACCEPT = "accept"
    REJECT = "reject"
    SHADOW_REJECT = "shadowReject"


class Answer(NamedTuple):
    """One line of a plugin."""

    id: str
    action: Action
    message: str


class Nonsense(Exception):
    """A line that answers nothing; the text is for the operator."""


def new_line(event_json: bytes, author: str, origin: Origin, received_at: int) -> bytes:
    """Return the line that asks about an event of `author` that has come in."""
    return b'{"type":"new","event":%b,"receivedAt":%d,%b}\n' % (
        event_json,
        received_at,
        source_of(origin, author),
    )


def read_line(id_: str, event_json: bytes, origin: Origin) -> bytes:
    """Return the line that asks whether a reader may see an event; the answer names `id_`.

    A reader is the keys that a connection has proved: without any, nobody in particular.
    """
    return b'{"type":"read","id":"%b","event":%b,"authed":%b}\n' % (
        id_.encode(),
        event_json,
        orjson.dumps(sorted(origin.authenticated)),
    )


def source_of(origin: Origin, first: str = "") -> bytes:
    """Return the members that say who it is; of several proved keys `authed` names `first`, if it is one."""
    if origin.partner:
        kind = b"Sync" if origin.is_sync else b"Stream"
        return b'"sourceType":"%b","sourceInfo":%b' % (kind, orjson.dumps(origin.partner))
    address = origin.address
    kind = b"Import" if not address else b"IP6" if ":" in address else b"IP4"
    source = b'"sourceType":"%b","sourceInfo":%b' % (kind, orjson.dumps(address))
    if not origin.authenticated:
        return source
    key = first if first in origin.authenticated else min(origin.authenticated)
    source += b',"authed":"%b"' % key.encode()
    if len(origin.authenticated) > 1:
        source += b',"allAuthed":%b' % orjson.dumps(sorted(origin.authenticated))
    return source


def parse_answer(line: bytes) -> Answer:
    """Read an answer. Raises Nonsense."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise Nonsense("not JSON") from None
    match value:
        case {"id": str(id_), "action": str(action)} if len(id_) <= MAX_ID_CHARS:
            message = value.get("msg")
            try:
                return Answer(id_, Action(action), message if isinstance(message, str) else "")
            except ValueError:
                raise Nonsense(f"no action: {action[:40]!r}") from None
    raise Nonsense("expected an object with id and action")


def refusal_of(message: str) -> Refusal:
    """Return what a client is told: a plugin may choose the prefix (NIP-01), else it is `blocked:`."""
    text = " ".join("".join(c if c.isprintable() else " " for c in message[:MAX_REASON_CHARS]).split())
    prefix = prefix_of(text)
    if prefix is None:
        return Refusal(Prefix.BLOCKED, text or _NO_REASON)
    return Refusal(prefix, text.partition(":")[2].strip() or _NO_REASON)
