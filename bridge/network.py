"""What the bridge asks of every network; `bridge.router` knows nothing else of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bridge.model import Capabilities, Identity, Link, Op, Profile, Ref, Room
from bridge.plan import Act


class Unreachable(Exception):
    """The far side gave no answer, or asked for patience: try again later."""


class Rejected(Exception):
    """The far side said no, and will say it again: never try again."""


class CannotRun(Exception):
    """A network cannot do its work on this machine, as it is configured; the text says why."""


class Unreadable(ValueError):
    """A native event makes no sense; the text says why."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Something that a network has sent us, as it came."""

    id: str
    """Its id on the network; an arrival with a known id is dropped."""
    raw: bytes


@dataclass(frozen=True, slots=True)
class Rendered:
    """An act in a network's own words, ready to be stored and then sent."""

    payload: bytes
    native_id: str | None
    """The id it will have there, where that is known beforehand."""


@dataclass(frozen=True, slots=True)
class Task:
    """One entry of the outbox, at the moment it is due."""

    key: str
    """The same whenever the task is tried again."""
    payload: bytes
    native_id: str | None
    """The id of the copy it is about, as far as it is known."""
    known: Mapping[Ref, str] = field(default_factory=dict)
    """The ids that the copies got which this needed; one that was never made is missing."""


class Inbox(Protocol):
    """Where a network puts what arrives."""

    def receive(
        self,
        arrivals: Sequence[Arrival],
        cursors: Mapping[str, int] | None = None,
        bookmarks: Mapping[str, str] | None = None,
    ) -> int:
        """Store arrivals, cursors and bookmarks in one durable transaction; return how many were new.

        Only after it has returned may the far side be told that they have arrived.
        """

    def cursor(self, scope: str) -> int | None:
        """Return the stored cursor; None when there is none."""

    def bookmark(self, scope: str) -> str | None:
        """Return a stored bookmark, a position that only the far side understands; None without one."""


class Network(Protocol):
    """A network that posts come from and go to."""

    name: str
    can: Capabilities

    async def run(self, inbox: Inbox) -> None:
        """Receive for ever; lost connections are made again with backoff. Raises CannotRun."""

    def watch(self, links: Sequence[Link]) -> None:
        """Receive what is posted in these rooms and by these people, besides what arrives unasked.

        What belongs to another network is passed over.
        """

    def parse(self, raw: bytes) -> Op | None:
        """Read an arrival; None when nothing follows from it. Pure. Raises Unreadable."""

    def render(self, act: Act) -> Rendered:
        """Put an act in this network's words. Pure: equal acts give equal bytes."""

    def ghost(self, identity: Identity) -> str:
        """Return the id under which this network shows somebody from another one. Pure."""

    async def deliver(self, task: Task) -> str | None:
        """Make it happen and return the id it got, if it got one. Raises Unreachable or Rejected.

        May be called again with the same task, even after it happened; it must not happen twice.
        """

    async def profile(self, person: Ref) -> Profile | None:
        """Look up how somebody shows themselves. Raises Unreachable."""

    async def room(self, room: Ref, asked_by: Ref) -> Room | None:
        """Look up a room; None when we cannot see it. Raises Unreachable."""
