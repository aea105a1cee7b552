"""The shape of an extension: everything a NIP or a policy can change about the relay, as one value.

A file in `relay/features/` or `relay/policies/` exports `feature(config, context) -> Feature`, closed
over its settings; there is no module state, so several relays fit in one process.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, NamedTuple, Protocol, TypeVar

from relay.engine.desk import NOBODYS_DESK, Desk
from relay.engine.limits import Drain, Spend, bottomless, unlimited
from relay.nostr.event import Event, PubKey
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.messages import ClientMessage, RelayMessage
from relay.nostr.reasons import Refusal
from relay.store.api import Change, Seq, Store, Stored, Table, Veil, Write


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
    partner: str = ""
    """The URL of the relay that an event was fetched from; empty: a client brought it."""
    is_sync: bool = False
    """Whether it was fetched once, by the operator's command, and not by a stream."""


class Conversation(Protocol):
    """One client's connection, as a message handler sees it."""

    challenge: str
    origin: Origin

    def authenticate(self, key: PubKey) -> None:
        """Count `key` as proved on this connection from now on."""


Rule = Callable[[Event, Origin, int], Refusal | None]
"""(event, origin, now in unix seconds) → why it is refused, or None."""


class Published(Protocol):
    """An event on its way in."""

    @property
    def event(self) -> Event: ...

    @property
    def json(self) -> bytes:
        """Its canonical JSON."""

    @property
    def origin(self) -> Origin: ...


class Quietly(Enum):
    """A ruling that its author is not told of."""

    DROPPED = auto()
    """The event is answered as if it had been taken."""


Ruled = tuple[int, Refusal | Quietly | None]
"""(position among those that were asked about, what was decided): None is a yes."""

SlowRule = Callable[[Sequence[Published], int], AsyncGenerator[list[Ruled], None]]
"""(events whose signatures are right, now) → a ruling for each, once, some at a time and in any order.

It may wait for a database or another process, and is asked about others meanwhile; it has to end."""

Gate = Callable[[Filter, Origin], Filter | Refusal]
"""May narrow or refuse a question."""

Doorkeeper = Callable[[Sequence[Filter], Origin], Refusal | None]
"""Asked once for each REQ, COUNT and NEG-OPEN, with all its filters, before the gates."""

Effect = Callable[[Write], Write]
"""Adds address, expiry, owners or removals to a Write."""

Part = TypeVar("Part")


Charge = Callable[[float, int], Refusal | None]
"""(seconds of work, rows found) since the last call → why the question ends here, or None."""

Toll = Callable[[Origin], Charge | None]
"""Called when a question begins to be answered: what is told its cost; None where nobody wants to know."""


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

    kinds: frozenset[int] | Callable[[], frozenset[int]]
    """The kinds that it can hide; others are never asked about. A function where they change with the
    records of followed tables: it is called anew after each change."""
    visible: Callable[[Event, Origin], bool]
    is_personal: bool = True
    """Events of these kinds are for some people only: who proved no key and asks for nothing else is told
    to (`auth-required:`). Otherwise what may not be seen is left out silently."""
    tags: Callable[[], Mapping[str, frozenset[str]]] | None = None
    """What it can hide beside these kinds: events of any kind with a tag of one of these values, by letter;
    called anew after each change."""


class Sieve(Protocol):
    """May this reader see these events? A veil in another process, asked about many at once."""

    @property
    def max_rows(self) -> int:
        """How many rows one question may have it look at, beyond those that are sent."""

    def covers(self, kind: int) -> bool:
        """Say whether events of this kind have to be asked about; always the same answer."""

    async def passes(self, events: Sequence[bytes], origin: Origin) -> list[bool]:
        """Say of each event (canonical JSON) whether the reader may see it, within bounded time."""


@dataclass(frozen=True, slots=True)
class Follower:
    """Something in memory that keeps up with a followed table."""

    table: str
    changed: Callable[[Sequence[Change]], None]
    """Called with all records at first, then with changes, before the next question or batch of events."""


Request = Callable[[Event, Origin, int], Awaitable[tuple[bool, str]]]
"""(event, origin, now) → (accepted, reason), for the OK: an event that asks the relay for something and is
neither kept nor passed on. Its signature was checked and the rules were asked."""

Conjure = Callable[[Origin, int], Awaitable[Sequence[Event]]]
"""(origin, now) → events made for one reader who asks for their kind, sent before what is stored."""


@dataclass(frozen=True, slots=True)
class Job:
    """Work that one process of the relay does from time to time."""

    name: str
    every_seconds: float
    run: Callable[[int], Awaitable[None]]
    """Given the time in unix seconds. A failure is logged, and the job runs again at its next time."""
    everywhere: bool = False
    """Whether every process does it, for itself: it keeps something in memory. Tools do it once."""


async def unsifted(rows: Sequence[Stored]) -> Sequence[Stored]:
    """Return all rows: where there is no sieve."""
    return rows


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A plain HTTP request, as a route sees it."""

    path: str
    host: str
    """The Host header."""
    url: str
    """The relay's URL as this client knows it."""
    veil: Veil
    """What who asks may see of what is stored: somebody who proved no key."""
    query: Mapping[str, str] = field(default_factory=dict)
    """The first value of each parameter."""
    authorization: str = ""
    """The Authorization header."""
    body: bytes = b""
    """A POST's; at most as long as a client's message may be."""
    now: int = 0
    """When it came, in unix seconds."""
    sift: Callable[[Sequence[Stored]], Awaitable[Sequence[Stored]]] = unsifted
    """Returns those rows of what passed the veil that they may see: what is shown has to pass it too."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """What a route answers."""

    body: bytes
    content_type: str
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """A request that the relay answers."""

    path: str
    """One that ends with `*` stands for all that begin with what is before it."""
    accept: str | None
    """Only requests whose Accept header, or a POST's Content-Type, names this media type; None: all."""
    handler: Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]]
    method: str = "GET"


class Search(Protocol):
    """Finds events by words (NIP-50)."""

    @property
    def is_busy(self) -> bool:
        """Whether too many questions wait for their answers."""

    def stored(
        self, store: Store, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        """Yield in pages what the filter and its `search` find, the best first, each once.

        As `Store.scan` otherwise: `wanted.limit` visible rows at most. Raises StoreError.
        """

    def live(self, event: Event) -> Callable[[str], bool]:
        """Return what says whether a `search` finds this event."""

    async def progress(self) -> tuple[int, float]:
        """Return up to which seq events can be found, and how many seconds the latest had waited for it.

        Raises StoreError.
        """


class Gauge(NamedTuple):
    """A number that metrics show as it is now."""

    name: str
    """Such as `torv_search_lag_events`; what only grows ends in `_total`."""
    text: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    """(label, value); the same labels for all gauges of a name."""


def nobody(key: str) -> bool:
    """Say that a key is no member: where there is no list of members."""
    return False


@dataclass(frozen=True, slots=True)
class Context:
    """What features are built with, beside their settings."""

    key: SecretKey
    """The relay's own key, `self` in NIP-11."""
    spend: Spend = unlimited
    """Takes from a named bucket that all workers share."""
    drain: Drain = bottomless
    """Takes any amount from such a bucket."""
    desk: Desk = NOBODYS_DESK
    """Reads and changes the records of tables while the relay runs; of no use inside a table."""
    search: Search | None = None
    """Where this process can search."""
    is_member: Callable[[str], bool] = nobody
    """Whether a key is a member of the relay: on its list (NIP-43), or allowed by its people (NIP-86)."""


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
    slow_rules: tuple[SlowRule | OfKinds[SlowRule], ...] = ()
    """Asked last, about what all other rules let pass. No event is with one twice at a time."""
    doorkeepers: tuple[Doorkeeper, ...] = ()
    gates: tuple[Gate, ...] = ()
    toll: Toll | None = None
    """One feature's at most."""
    veils: tuple[VeilRule, ...] = ()
    sieve: Sieve | None = None
    """One feature's at most."""
    effects: tuple[Effect | OfKinds[Effect], ...] = ()
    lapses: tuple[Callable[[Event, int], bool], ...] = ()
    """(event, now in unix seconds) → whether it may no longer be shown, though it was admitted."""
    handlers: Mapping[type[ClientMessage], Handler] = field(default_factory=dict)
    limitation: Mapping[str, int | bool] = field(default_factory=dict)
    """Fields of NIP-11's `limitation`."""
    information: Mapping[str, object] = field(default_factory=dict)
    """Further fields of NIP-11's document."""
    describes: Callable[[], Mapping[str, str]] | None = None
    """Texts of NIP-11's document that change while the relay runs, instead of those of the settings."""
    turns_away: Callable[[str], bool] | None = None
    """(address) → whether its clients are not served: who comes is sent away, who is there is cut."""
    routes: tuple[Route, ...] = ()
    tables: tuple[Table, ...] = ()
    """Records kept in the write transaction; an effect names the table for the events that it judges."""
    followers: tuple[Follower, ...] = ()
    requests: Mapping[int, Request] = field(default_factory=dict)
    """By the kind of the event."""
    conjured: Mapping[int, Conjure] = field(default_factory=dict)
    """By the kind that is asked for."""
    jobs: tuple[Job, ...] = ()
    search: Search | None = None
    """Answers filters that search; one feature's at most."""
    gauges: Callable[[], Awaitable[Sequence[Gauge]]] | None = None
    """May raise StoreError."""
    close: Callable[[], Awaitable[None]] | None = None
    """Lets go of what it holds beside memory, such as a process, when it is asked no more."""
