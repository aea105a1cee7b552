"""One client's conversation, sans-IO: text in; answers, or what the connection has to do, out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from websockets.frames import CloseCode

from relay.config import LimitsConfig
from relay.engine.feature import Handler, Origin
from relay.net.incoming import Broken
from relay.nostr.event import PubKey
from relay.nostr.filter import Filter
from relay.nostr.messages import (
    Auth,
    ClientMessage,
    Close,
    Closed,
    Count,
    InvalidMessage,
    NegClose,
    NegErr,
    NegMsg,
    NegOpen,
    Notice,
    Ok,
    Publish,
    RelayMessage,
    Req,
    parse_client_message,
)
from relay.nostr.reasons import Prefix, Refusal, invalid


@dataclass(frozen=True, slots=True)
class Answer:
    """Nothing to do but to say this."""

    messages: tuple[RelayMessage, ...]
    mistake: bool = False
    """Whether the client's message was malformed or refused."""


Action = Answer | Publish | Req | Count | Close | NegOpen | NegMsg | NegClose


class NotText(Exception):
    """The message is not UTF-8: RFC 6455 wants the connection closed with 1007."""


class Session:
    """What one connection has proved and holds open."""

    __slots__ = (
        "_allow_event",
        "_allow_other",
        "_allow_request",
        "_exempt",
        "_handlers",
        "_limits",
        "_open",
        "challenge",
        "origin",
    )

    def __init__(
        self,
        *,
        origin: Origin,
        challenge: str,
        limits: LimitsConfig,
        exempt: frozenset[PubKey],
        handlers: Mapping[type[ClientMessage], Handler],
        allow_event: Callable[[], bool],
        allow_request: Callable[[], bool],
        allow_other: Callable[[], bool],
    ) -> None:
        """`allow_…` take from the address's buckets and say whether there was something left.

        A connection that proves one of the `exempt` keys is not asked for either.
        """
        self.origin = origin
        self.challenge = challenge
        self._limits = limits
        self._exempt = exempt
        self._handlers = handlers
        self._allow_event = allow_event
        self._allow_request = allow_request
        self._allow_other = allow_other
        self._open: set[str] = set()

    def adopt(
        self,
        *,
        url: str,
        limits: LimitsConfig,
        exempt: frozenset[PubKey],
        handlers: Mapping[type[ClientMessage], Handler],
        allow_event: Callable[[], bool],
        allow_request: Callable[[], bool],
        allow_other: Callable[[], bool],
    ) -> None:
        """Go on by other settings. What was proved stays proved; who is exempt is found anew."""
        is_exempt = not exempt.isdisjoint(self.origin.authenticated)
        self.origin = replace(self.origin, url=url, exempt=is_exempt)
        self._limits = limits
        self._exempt = exempt
        self._handlers = handlers
        self._allow_event = allow_event
        self._allow_request = allow_request
        self._allow_other = allow_other

    def authenticate(self, key: PubKey) -> None:
        """Count `key` as proved; earlier keys stay (NIP-42)."""
        self.origin = replace(
            self.origin,
            authenticated=self.origin.authenticated | {key},
            exempt=self.origin.exempt or key in self._exempt,
        )

    def ended(self, name: str) -> None:
        """The relay ended this subscription."""
        self._open.discard(name)

    def receive(self, data: bytes, now: int) -> Action:
        """Take one text message. Raises NotText; Broken where the client has to go."""
        message = self.parse(data)
        return message if isinstance(message, Answer) else self.judge(message, now)

    def parse(self, data: bytes) -> ClientMessage | Answer:
        """Read one text message, for `judge`; or give the answer to what is none. Raises NotText."""
        try:
            return parse_client_message(data)
        except InvalidMessage as error:
            try:
                data.decode()
            except UnicodeDecodeError:
                raise NotText from None
            self.made_mistake()
            if isinstance(error.answer, Closed):
                self.ended(error.answer.subscription)
            return Answer((error.answer,), mistake=True)

    def judge(self, message: ClientMessage, now: int) -> Action:
        """Say what a message comes to."""
        match message:
            case Publish(event, _):
                if not self.origin.exempt and not self._allow_event():
                    most = self._limits.events_per_minute
                    reason = Refusal(Prefix.RATE_LIMITED, f"at most {most} events a minute from one address")
                    return Answer((Ok(event.id, False, str(reason)),), mistake=True)
                return message
            case Req(name, filters):
                refusal = self._refuse(filters)
                if refusal is None and name not in self._open:
                    most = self._limits.max_subscriptions
                    if len(self._open) >= most:
                        refusal = Refusal(Prefix.RATE_LIMITED, f"at most {most} subscriptions at a time")
                if refusal is not None:
                    return self._closed(name, refusal)
                self._open.add(name)
                return message
            case Count(name, filters):
                refusal = self._refuse(filters)
                return message if refusal is None else self._closed(name, refusal)
            case Close(name):
                self.ended(name)
                return message
            case NegOpen(name, wanted, _):
                refusal = self._refuse((wanted,))
                return message if refusal is None else Answer((NegErr(name, str(refusal)),), mistake=True)
            case NegMsg(name, _):
                refusal = self._refuse(())
                return message if refusal is None else Answer((NegErr(name, str(refusal)),), mistake=True)
            case NegClose():
                return message
        handler = self._handlers.get(type(message))
        if handler is None:
            text = Refusal(Prefix.UNSUPPORTED, f"{type(message).__name__.upper()} is switched off")
            return Answer((Notice(str(text)),), mistake=True)
        # There is a signature to check.
        if isinstance(message, Auth) and not self.origin.exempt and not self._allow_other():
            most = self._limits.others_per_minute
            reason = Refusal(Prefix.RATE_LIMITED, f"at most {most} AUTH messages a minute from one address")
            return Answer((Ok(message.event.id, False, str(reason)),), mistake=True)
        return Answer(tuple(handler(message, self, now)))

    def made_mistake(self) -> None:
        """Count something that made no sense. Raises Broken when there was too much of it."""
        if not self.origin.exempt and not self._allow_other():
            raise Broken(CloseCode.POLICY_VIOLATION, "rate-limited: too much that makes no sense")

    def _closed(self, name: str, refusal: Refusal) -> Answer:
        self.ended(name)
        return Answer((Closed(name, str(refusal)),), mistake=True)

    def _refuse(self, filters: tuple[Filter, ...]) -> Refusal | None:
        limits = self._limits
        if not self.origin.exempt and not self._allow_request():
            most = limits.requests_per_minute
            return Refusal(Prefix.RATE_LIMITED, f"at most {most} requests a minute from one address")
        return refuse_large(filters, limits)


def refuse_large(filters: Sequence[Filter], limits: LimitsConfig) -> Refusal | None:
    """Say why a question has too many filters, or one of them names too much; or None."""
    if len(filters) > limits.max_filters:
        return invalid(f"{len(filters)} filters, this relay takes {limits.max_filters}")
    for wanted in filters:
        size = wanted.size
        if size > limits.max_filter_values:
            return invalid(f"{size} values in one filter, this relay takes {limits.max_filter_values}")
    return None
