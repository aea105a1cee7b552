"""Messages between client and relay, both ways (NIP-01, 42, 45, 67, 77).

Parsing is strict and total: any bytes give a message or an `InvalidMessage` that holds the answer
the protocol wants for it (OK, CLOSED, NEG-ERR or NOTICE).
"""

import json
import re
from binascii import unhexlify
from dataclasses import dataclass
from typing import NamedTuple, assert_never

import orjson

from relay.nostr.event import Event, InvalidEvent, encode, parse_event
from relay.nostr.filter import Filter, InvalidFilter, encode_filter, parse_filter
from relay.nostr.reasons import Prefix, Refusal, invalid

MAX_SUBSCRIPTION_ID_CHARS = 64
"""NIP-01: a subscription id is a non-empty string of at most 64 characters."""

_REGISTERS = re.compile(r"[0-9a-f]{512}").fullmatch

# What stands around a compact event beside the message's name.
_FRAME_CHARS = len('["",]')


# A named tuple, as `Event` is: one is made for every event.
class Publish(NamedTuple):
    """`["EVENT", event]` from a client."""

    event: Event
    json: bytes
    """The event's canonical JSON."""


@dataclass(frozen=True, slots=True)
class Req:
    """`["REQ", subscription, filter, …]`: stored events, then live ones."""

    subscription: str
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """`["COUNT", query, filter, …]` (NIP-45)."""

    subscription: str
    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Close:
    """`["CLOSE", subscription]`."""

    subscription: str


@dataclass(frozen=True, slots=True)
class Auth:
    """`["AUTH", event]` from a client (NIP-42)."""

    event: Event


@dataclass(frozen=True, slots=True)
class NegOpen:
    """`["NEG-OPEN", name, filter, frame]`: compare what matches with what I have (NIP-77)."""

    name: str
    """In a namespace of its own: a REQ may bear the same one."""
    wanted: Filter
    frame: bytes
    """A Negentropy message; hex on the wire."""


@dataclass(frozen=True, slots=True)
class NegMsg:
    """`["NEG-MSG", name, frame]`, both ways in turns (NIP-77)."""

    name: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class NegClose:
    """`["NEG-CLOSE", name]` from a client (NIP-77)."""

    name: str


ClientMessage = Publish | Req | Count | Close | Auth | NegOpen | NegMsg | NegClose


@dataclass(frozen=True, slots=True)
class Ok:
    """`["OK", event id, accepted, reason]`: the answer to EVENT and to AUTH."""

    event_id: str
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Eose:
    """`["EOSE", subscription, hints]`: all stored events that are to come were sent."""

    subscription: str
    hints: tuple[str, ...] = ()
    """NIP-67: `finish` (that was everything) or `more`; where there are none, nothing is said."""


@dataclass(frozen=True, slots=True)
class Closed:
    """`["CLOSED", subscription, reason]`: the relay refused or ended a subscription."""

    subscription: str
    reason: str


@dataclass(frozen=True, slots=True)
class Notice:
    """`["NOTICE", text]`: for people; only where no other answer fits."""

    text: str


@dataclass(frozen=True, slots=True)
class Challenge:
    """`["AUTH", challenge]` from the relay (NIP-42)."""

    challenge: str


@dataclass(frozen=True, slots=True)
class Counted:
    """`["COUNT", query, {"count": n}]` (NIP-45)."""

    subscription: str
    count: int
    registers: bytes | None = None
    """NIP-45's HyperLogLog of the authors, 256 bytes; hex on the wire."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """`["EVENT", subscription, event]` from the relay."""

    subscription: str
    event: Event


@dataclass(frozen=True, slots=True)
class NegErr:
    """`["NEG-ERR", name, reason, most]`: the relay refused or ended a reconciliation (NIP-77)."""

    name: str
    reason: str
    most: int | None = None
    """How many records the relay takes at most, where the query is too big."""


RelayMessage = Ok | Eose | Closed | Notice | Challenge | Counted | Delivered | NegMsg | NegErr


class InvalidMessage(ValueError):
    """The peer's message is malformed; `answer` is what to send back."""

    def __init__(self, answer: Ok | Closed | NegErr | Notice) -> None:
        super().__init__(answer.text if isinstance(answer, Notice) else answer.reason)
        self.answer = answer


def parse_client_message(text: bytes) -> ClientMessage:
    """Read one message of a client. Raises InvalidMessage.

    `text` is UTF-8 JSON, already bounded in size by the caller.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _notice(f"not JSON: {error.msg}") from None
    if type(value) is not list or not value or type(value[0]) is not str:
        raise _notice('a message is a JSON array that starts with "EVENT", "REQ", "CLOSE", "COUNT" or "AUTH"')
    match value[0]:
        case "EVENT":
            return Publish(*_event(text, "EVENT", value))
        case "REQ":
            return Req(_subscription(value), _filters(value))
        case "COUNT":
            return Count(_subscription(value), _filters(value))
        case "CLOSE":
            return Close(_subscription(value))
        case "AUTH":
            return Auth(_event(text, "AUTH", value)[0])
        case "NEG-OPEN":
            return NegOpen(_subscription(value), *_wanted_and_frame(value))
        case "NEG-MSG":
            return NegMsg(_subscription(value), _frame(value, 2))
        case "NEG-CLOSE":
            return NegClose(_subscription(value))
    raise InvalidMessage(Notice(str(Refusal(Prefix.UNSUPPORTED, f"unknown message type {value[0][:32]!r}"))))


def _notice(text: str) -> InvalidMessage:
    return InvalidMessage(Notice(str(invalid(text))))


def _event(text: bytes, name: str, value: list[object]) -> tuple[Event, bytes]:
    body = value[1] if len(value) > 1 else None
    try:
        if len(value) != 2:
            raise InvalidEvent(invalid(f"{name} takes one event"))
        event = parse_event(body)
        canonical = encode(event)
        # No shorter text than the canonical one can hold these values: it has no whitespace, numbers
        # are plain, only what JSON forbids to write verbatim is escaped, and in the shortest way. So
        # an equal length proves that there is nothing more in it; only a longer one can hide a
        # second "id".
        if len(text) != len(canonical) + len(name) + _FRAME_CHARS and has_duplicate_keys(text):
            raise InvalidEvent(invalid("the event names a field twice"))
    except InvalidEvent as error:
        id_ = body.get("id") if type(body) is dict else None
        # OK is the answer clients wait for; it needs a string to name the event by.
        if type(id_) is str and len(id_) <= 128:
            raise InvalidMessage(Ok(id_, False, str(error))) from None
        raise InvalidMessage(Notice(str(error))) from None
    return event, canonical


def has_duplicate_keys(text: bytes) -> bool:
    """Say whether any object in the JSON text names a key twice; parsers disagree on those.

    Raises InvalidEvent where it cannot look: what is nested too deeply.
    """
    found = False

    def check(pairs: list[tuple[str, object]]) -> None:
        nonlocal found
        found = found or len({key for key, _ in pairs}) != len(pairs)

    try:
        json.loads(text, object_pairs_hook=check)
    except RecursionError:
        # orjson goes 1024 levels deep, this parser only as far as Python's stack has room.
        raise InvalidEvent(invalid("the event is nested too deeply")) from None
    return found


def _subscription(value: list[object]) -> str:
    name = value[1] if len(value) > 1 else None
    if type(name) is not str:
        raise _notice(f"{value[0]} takes a subscription id, a string")
    if not 1 <= len(name) <= MAX_SUBSCRIPTION_ID_CHARS:
        # Too long to be echoed in a CLOSED that other clients could read.
        raise _notice(f"a subscription id has 1 to {MAX_SUBSCRIPTION_ID_CHARS} characters")
    return name


def _filters(value: list[object]) -> tuple[Filter, ...]:
    name = str(value[1])
    if len(value) < 3:
        raise InvalidMessage(Closed(name, str(invalid(f"{value[0]} takes at least one filter"))))
    try:
        return tuple(map(parse_filter, value[2:]))
    except InvalidFilter as error:
        raise InvalidMessage(Closed(name, str(error))) from None


def _wanted_and_frame(value: list[object]) -> tuple[Filter, bytes]:
    try:
        return parse_filter(value[2] if len(value) > 2 else None), _frame(value, 3)
    except InvalidFilter as error:
        raise InvalidMessage(NegErr(str(value[1]), str(error))) from None


def _frame(value: list[object], place: int) -> bytes:
    text = value[place] if len(value) == place + 1 else None
    try:
        if type(text) is str and text:
            return unhexlify(text)
    except ValueError:
        pass  # refused below, as what is no string
    reason = invalid(f"{value[0]} takes a Negentropy message in hex as its last element")
    raise InvalidMessage(NegErr(str(value[1]), str(reason)))


def encode_relay_message(message: RelayMessage) -> bytes:
    """Return the message as a relay sends it."""
    match message:
        case Ok(event_id, accepted, reason):
            return orjson.dumps(["OK", event_id, accepted, reason])
        case Eose(name, hints):
            return orjson.dumps(["EOSE", name, hints] if hints else ["EOSE", name])
        case Closed(name, reason):
            return orjson.dumps(["CLOSED", name, reason])
        case Notice(text):
            return orjson.dumps(["NOTICE", text])
        case Challenge(challenge):
            return orjson.dumps(["AUTH", challenge])
        case Counted(name, count, registers):
            counted = {"count": count} if registers is None else {"count": count, "hll": registers.hex()}
            return orjson.dumps(["COUNT", name, counted])
        case Delivered(name, event):
            return delivered_prefix(name) + encode(event) + b"]"
        case NegMsg(name, frame):
            return orjson.dumps(["NEG-MSG", name, frame.hex()])
        case NegErr(name, reason, most):
            return orjson.dumps(["NEG-ERR", name, reason, *([] if most is None else [most])])
        case _:
            assert_never(message)


def delivered_prefix(subscription: str) -> bytes:
    """Return what stands before the event's JSON in `["EVENT", subscription, event]`."""
    return b'["EVENT",' + orjson.dumps(subscription) + b","


def encode_client_message(message: ClientMessage) -> bytes:
    """Return the message as a client sends it."""
    match message:
        case Publish(_, canonical):
            return b'["EVENT",' + canonical + b"]"
        case Req(name, filters):
            return orjson.dumps(["REQ", name, *map(encode_filter, filters)])
        case Count(name, filters):
            return orjson.dumps(["COUNT", name, *map(encode_filter, filters)])
        case Close(name):
            return orjson.dumps(["CLOSE", name])
        case Auth(event):
            return b'["AUTH",' + encode(event) + b"]"
        case NegOpen(name, wanted, frame):
            return orjson.dumps(["NEG-OPEN", name, encode_filter(wanted), frame.hex()])
        case NegMsg(name, frame):
            return orjson.dumps(["NEG-MSG", name, frame.hex()])
        case NegClose(name):
            return orjson.dumps(["NEG-CLOSE", name])
        case _:
            assert_never(message)


def parse_relay_message(text: bytes) -> RelayMessage:
    """Read one message of a relay. Raises InvalidMessage (its `answer` has no one to go to)."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _notice(f"not JSON: {error.msg}") from None
    match value:
        case ["OK", str(id_), bool(accepted), *rest]:
            return Ok(id_, accepted, rest[0] if rest and type(rest[0]) is str else "")
        case ["EOSE", str(name), [*hints], *_]:
            return Eose(name, tuple(hint for hint in hints if type(hint) is str))
        case ["EOSE", str(name), *_]:
            return Eose(name)
        case ["CLOSED", str(name), *rest]:
            return Closed(name, rest[0] if rest and type(rest[0]) is str else "")
        case ["NOTICE", str(notice)]:
            return Notice(notice)
        case ["AUTH", str(challenge)]:
            return Challenge(challenge)
        case ["COUNT", str(name), {"count": int(count), **more}] if type(count) is int:
            return Counted(name, count, _registers(more.get("hll")))
        case ["NEG-MSG", str(name), str()]:
            return NegMsg(name, _frame(value, 2))
        case ["NEG-ERR", str(name), str(reason), *rest]:
            return NegErr(name, reason, rest[0] if rest and type(rest[0]) is int else None)
        case ["EVENT", str(name), dict(event)]:
            try:
                return Delivered(name, parse_event(event))
            except InvalidEvent as error:
                raise _notice(str(error)) from None
    raise _notice("not a message that a relay sends")


def _registers(text: object) -> bytes | None:
    """Read HyperLogLog registers; what is none is left out, the count beside it is of use by itself."""
    return bytes.fromhex(text) if type(text) is str and _REGISTERS(text) else None
