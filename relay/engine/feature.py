"""The shape of an extension: everything a NIP or a policy can change about the relay, as one value.

A file in `relay/features/` or `relay/policies/` exports `feature(config, context) -> Feature`, closed
over its settings; there is no module state, so several relays fit in one process.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from relay.engine.limits import Spend, unlimited
from relay.nostr.event import Event, PubKey
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.messages import ClientMessage, RelayMessage
from relay.nostr.reasons import Refusal
from relay.store.api import Write


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an event or a question comes from, as rules and veils see it."""

    address: str
    """The client's IP address; empty for the relay's own work."""
    url: str
    """The relay's URL as this client knows it: the configured one, or made of the Host header."""
    authenticated: frozenset[PubKey] = frozenset()
    """Every key that this connection proved (NIP-42)."""
    exempt: bool = False
    """Whether per-address limits and age windows pass it by: our own bridge."""


class Conversation(Protocol):
    """One client's connection, as a message handler sees it."""

    challenge: str
    origin: Origin

    def authenticate(self, key: PubKey) -> None:
        """Count `key` as proved on this connection from now on."""


Rule = Callable[[Event, Origin, int], Refusal | None]
"""(event, origin, now in unix seconds) → why it is refused, or None."""

Gate = Callable[[Filter, Origin], Filter | Refusal]
"""May narrow or refuse a question."""

Effect = Callable[[Write], Write]
"""Adds address, expiry, owners or removals to a Write."""

Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class OfKinds(Generic[Part]):
    """A rule or an effect that events of other kinds never meet: most kinds then meet few."""

    concerns: Callable[[int], bool]
    """Whether it is for events of this kind; always the same answer."""
    part: Part


Handler = Callable[[ClientMessage, Conversation, int], Iterable[RelayMessage]]
"""(message, conversation, now) → answers. For messages that are not the core's own."""


@dataclass(frozen=True, slots=True)
class VeilRule:
    """May this reader see this event? One door for REQ, live, COUNT and all that comes later."""

    kinds: frozenset[int]
    """The kinds that it can hide; others are never asked about."""
    visible: Callable[[Event, Origin], bool]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A plain HTTP request, as a route sees it."""

    path: str
    host: str
    """The Host header."""
    url: str
    """The relay's URL as this client knows it."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What a route answers."""

    body: bytes
    content_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """A GET that the relay answers."""

    path: str
    accept: str | None
    """Only requests whose Accept header names this media type; None: all."""
    handler: Callable[[HttpRequest], HttpResponse]


@dataclass(frozen=True, slots=True)
class Context:
    """What features are built with, beside their settings."""

    key: SecretKey
    """The relay's own key, `self` in NIP-11."""
    spend: Spend = unlimited
    """Takes from a named bucket that all workers share."""


@dataclass(frozen=True, slots=True)
class Feature:
    """What one NIP or policy adds. The order in `relay.features.ALL` is the order of its parts."""

    title: str
    nip: int | None = None
    """None for a policy without a NIP number."""
    before_signature: tuple[Rule | OfKinds[Rule], ...] = ()
    """Cheap rules; may trust only the event's shape and the origin, for anybody can name a pubkey."""
    after_signature: tuple[Rule | OfKinds[Rule], ...] = ()
    """Rules that may trust event.pubkey."""
    gates: tuple[Gate, ...] = ()
    veils: tuple[VeilRule, ...] = ()
    effects: tuple[Effect | OfKinds[Effect], ...] = ()
    lapses: tuple[Callable[[Event, int], bool], ...] = ()
    """(event, now in unix seconds) → whether it may no longer be shown, though it was admitted."""
    handlers: Mapping[type[ClientMessage], Handler] = field(default_factory=dict)
    limitation: Mapping[str, int | bool] = field(default_factory=dict)
    """Fields of NIP-11's `limitation`."""
    routes: tuple[Route, ...] = ()
