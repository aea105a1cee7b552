"""One connection to the relay that is examined: says anything, right or wrong, and misses nothing that comes.

`relay.client` protects its user from a relay's mistakes; here they are what is looked for.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from relay.client import Unreachable
from relay.doctor.outcome import Failed, expect
from relay.nostr import kinds
from relay.nostr.event import Event, InvalidEvent, check_event, encode, sign
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.messages import (
    Auth,
    Challenge,
    ClientMessage,
    Close,
    Closed,
    Count,
    Counted,
    Delivered,
    Eose,
    InvalidMessage,
    NegErr,
    NegMsg,
    Notice,
    Ok,
    RelayMessage,
    Req,
    encode_client_message,
    parse_relay_message,
)
from relay.nostr.reasons import Prefix, prefix_of

M = TypeVar("M", bound=RelayMessage)

_CONNECT_SECONDS = 10.0
_CLOSE_SECONDS = 1.0
_MAX_MESSAGE_BYTES = 16 * 2**20
_MAX_REMEMBERED = 10_000
"""Messages kept of one connection; a relay that sends more than a probe can want is cut off."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came for a REQ until its EOSE, or instead of it."""

    events: tuple[Event, ...] = ()
    """In the order in which they came."""
    hints: tuple[str, ...] = ()
    """NIP-67."""
    refusal: str | None = None
    """The reason of a CLOSED; None after an EOSE."""

    @property
    def ids(self) -> list[str]:
        """The ids in order."""
        return [event.id for event in self.events]


@dataclass(slots=True)
class Wire:
    """One connection, for one probe at a time: what is asked is awaited."""

    connection: ClientConnection
    url: str
    answer_seconds: float
    now: Callable[[], int]
    proofs: tuple[SecretKey, ...] = ()
    """The keys by which `auth-required:` is answered; without any, it is the answer."""
    challenge: str | None = None
    notices: list[str] = field(default_factory=list)
    live: list[Delivered] = field(default_factory=list)
    """Events that came while something else was awaited, of whichever subscription."""
    ended: list[Closed] = field(default_factory=list)
    """Subscriptions that the relay ended by itself."""
    _names: Callable[[], str] = field(default_factory=lambda: map("probe{}".format, count(1)).__next__)

    async def say(self, message: ClientMessage) -> None:
        """Send a message. Raises Failed where the relay has hung up."""
        await self.say_raw(encode_client_message(message))

    async def say_raw(self, text: bytes) -> None:
        """Send any text."""
        try:
            async with asyncio.timeout(self.answer_seconds):
                await self.connection.send(text, text=True)
        except ConnectionClosed as error:
            raise Failed(sent=_cut(text), expected="an open connection", came=f"it was {error}") from None
        except TimeoutError:
            raise Failed(sent=_cut(text), expected="the relay to read it", came="it does not") from None

    async def hear(self, sent: str, expected: str) -> RelayMessage:
        """Return the next message; challenges and notices are only taken note of. Raises Failed."""
        try:
            async with asyncio.timeout(self.answer_seconds):
                while True:
                    text = await self.connection.recv(decode=False)
                    try:
                        message = parse_relay_message(text)
                    except InvalidMessage as error:
                        raise Failed(
                            sent=sent, expected="a message of NIP-01", came=f"{error}: {_cut(text)}"
                        ) from None
                    match message:
                        case Challenge(challenge):
                            self.challenge = challenge
                        case Notice(notice):
                            self.notices.append(notice)
                            expect(
                                len(self.notices) < _MAX_REMEMBERED,
                                sent=sent,
                                expected=expected,
                                came="notices without end",
                            )
                        case _:
                            return message
        except TimeoutError:
            said = f"; the relay noticed {self.notices[-1]!r}" if self.notices else ""
            came = f"nothing came within {self.answer_seconds:g} s{said}"
            raise Failed(sent=sent, expected=expected, came=came) from None
        except ConnectionClosed as error:
            raise Failed(sent=sent, expected=expected, came=f"the connection was closed: {error}") from None

    async def until(self, kind: type[M], fits: Callable[[M], bool], *, sent: str, expected: str) -> M:
        """Return the next message of this type that fits; what comes before it for subscriptions is kept."""
        while True:
            message = await self.hear(sent, expected)
            if isinstance(message, kind) and fits(message):
                return message
            if isinstance(message, Delivered):
                self.live.append(message)
            elif isinstance(message, Closed):
                self.ended.append(message)
            too_much = len(self.live) + len(self.ended) > _MAX_REMEMBERED
            expect(not too_much, sent=sent, expected=expected, came="events without end")

    # Writing.

    async def publish(self, event: Event) -> Ok:
        """Send an event; return the OK. `auth-required:` is answered by the connection's `proofs`."""
        ok = await self.offer(event)
        if not ok.accepted and self._can_prove(ok.reason):
            await self._prove_all()
            ok = await self.offer(event)
        return ok

    async def offer(self, event: Event) -> Ok:
        """Send an event once; return the OK, whatever it says."""
        text = b'["EVENT",' + encode(event) + b"]"
        await self.say_raw(text)
        ok = await self.until(
            Ok, lambda ok: ok.event_id == event.id, sent=_cut(text), expected="an OK with the event's id"
        )
        if not ok.accepted:
            expect(
                ok.reason.partition(":")[0].replace("-", "").isalnum() and ":" in ok.reason,
                sent=_cut(text),
                expected="an OK whose reason begins with one word and a colon (NIP-01)",
                came=f"the reason {ok.reason!r} came",
            )
        return ok

    def _can_prove(self, reason: str) -> bool:
        return bool(self.proofs) and prefix_of(reason) is Prefix.AUTH_REQUIRED

    async def _prove_all(self) -> None:
        for key in self.proofs:
            await self.prove(key)

    # Reading.

    async def ask(self, *filters: Filter) -> Answer:
        """Return what is stored, and close the subscription. `auth-required:` is answered by `proofs`."""
        answer = await self._ask_once(filters)
        if answer.refusal is not None and self._can_prove(answer.refusal):
            await self._prove_all()
            answer = await self._ask_once(filters)
        return answer

    async def _ask_once(self, filters: Sequence[Filter]) -> Answer:
        name, answer = await self.subscribe(*filters)
        if answer.refusal is None:
            await self.say(Close(name))
        return answer

    async def subscribe(self, *filters: Filter, name: str | None = None) -> tuple[str, Answer]:
        """Open a subscription that stays; return its name and what is stored."""
        name = name or self._names()
        request = Req(name, filters)
        sent, expected = _cut(encode_client_message(request)), "EVENTs, then an EOSE"
        await self.say(request)
        events: list[Event] = []
        while True:
            match await self.hear(sent, expected):
                case Delivered(of, event) as delivered:
                    if of != name:
                        self.live.append(delivered)
                        continue
                    events.append(_checked(event, filters, sent))
                    expect(len(events) <= _MAX_REMEMBERED, sent=sent, expected=expected, came="no end")
                case Eose(of, hints) if of == name:
                    return name, Answer(tuple(events), hints)
                case Closed(of, reason) if of == name:
                    return name, Answer(tuple(events), refusal=reason)

    async def count(self, *filters: Filter) -> Counted | Closed:
        """Return the relay's answer to a COUNT (NIP-45). `auth-required:` is answered by `proofs`."""
        counted = await self._count_once(filters)
        if isinstance(counted, Closed) and self._can_prove(counted.reason):
            await self._prove_all()
            counted = await self._count_once(filters)
        return counted

    async def _count_once(self, filters: Sequence[Filter]) -> Counted | Closed:
        name = self._names()
        request = Count(name, tuple(filters))
        await self.say(request)
        sent, expected = _cut(encode_client_message(request)), "a COUNT"
        while True:
            match await self.hear(sent, expected):
                case Counted(of) | Closed(of) as answer if of == name:
                    return answer
                case Delivered() as delivered:
                    self.live.append(delivered)

    async def until_live(self, name: str, event: Event) -> None:
        """Wait until an event arrives at an open subscription; what else arrives is kept in `live`."""
        if any(one.subscription == name and one.event.id == event.id for one in self.live):
            return
        sent = f"{shown(event)} while a subscription to it was open"
        await self.until(
            Delivered,
            lambda one: one.subscription == name and one.event.id == event.id,
            sent=sent,
            expected="it at the subscription",
        )

    # Reconciling (NIP-77).

    async def negotiate(self, message: ClientMessage, name: str) -> NegMsg | NegErr:
        """Send a message of a reconciliation; return the relay's."""
        await self.say(message)
        sent, expected = _cut(encode_client_message(message)), "a NEG-MSG"
        while True:
            match await self.hear(sent, expected):
                case NegMsg(of) | NegErr(of) as answer if of == name:
                    return answer

    # Proving keys (NIP-42).

    async def challenged(self) -> str:
        """Return the relay's challenge, which may come with an answer only. Raises Failed."""
        if self.challenge is None:
            # What was sent by now comes before the answer to this.
            await self._ask_once((Filter(ids=frozenset({"0" * 64}), limit=1),))
        expect(
            self.challenge is not None,
            sent="a connection, and a question",
            expected='["AUTH", challenge]',
            came="none came",
        )
        assert self.challenge is not None
        return self.challenge

    async def prove(self, key: SecretKey, **wrong: object) -> Ok:
        """Answer the challenge by this key; return the OK. `wrong` replaces parts of the event."""
        challenge = await self.challenged()
        parts: dict[str, object] = {
            "created_at": self.now(),
            "kind": kinds.CLIENT_AUTH,
            "tags": (("relay", self.url), ("challenge", challenge)),
        }
        event = sign(key, **(parts | wrong))  # type: ignore[arg-type]  # `wrong` names parts of events only
        return await self.present(event)

    async def present(self, event: Event) -> Ok:
        """Send an AUTH; return its OK."""
        await self.say(Auth(event))
        return await self.until(
            Ok,
            lambda ok: ok.event_id == event.id,
            sent=f"AUTH with {shown(event)}",
            expected="an OK with its id",
        )


def _checked(event: Event, filters: Sequence[Filter], sent: str) -> Event:
    try:
        check_event(event)
    except InvalidEvent as error:
        raise Failed(sent=sent, expected="events with a right id and signature", came=str(error)) from None
    expect(
        any(wanted.matches(event) for wanted in filters),
        sent=sent,
        expected="only events that meet the filter",
        came=f"{shown(event)} came",
    )
    return event


@asynccontextmanager
async def dial(
    url: str, *, now: Callable[[], int], answer_seconds: float, proofs: tuple[SecretKey, ...] = ()
) -> AsyncIterator[Wire]:
    """Connect. Raises Unreachable."""
    try:
        connection = await connect(
            url,
            proxy=None,
            compression=None,
            open_timeout=_CONNECT_SECONDS,
            close_timeout=_CLOSE_SECONDS,
            max_size=_MAX_MESSAGE_BYTES,
        )
    except (OSError, WebSocketException, UnicodeError) as error:
        raise Unreachable(url, str(error) or type(error).__name__) from error
    try:
        yield Wire(connection, url, answer_seconds, now, proofs)
    finally:
        await _hang_up(connection)


async def _hang_up(connection: ClientConnection) -> None:
    try:
        async with asyncio.timeout(2 * _CLOSE_SECONDS):
            await connection.close()
    except TimeoutError:
        connection.transport.abort()


def shown(event: Event) -> str:
    """Return a few words that tell an event."""
    return f"kind {event.kind} {event.id[:8]}"


def shown_all(events: Sequence[Event]) -> str:
    """Return a few words that tell which events came."""
    return (", ".join(map(shown, events)) or "nothing") + " came"


def _cut(text: bytes, most: int = 300) -> str:
    said = text.decode(errors="replace")
    return said if len(said) <= most else said[:most] + "…"
