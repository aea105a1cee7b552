"""Signed events for tests: fixed authors, a short way to write an event, and a clock that tests turn."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from relay.nostr import kinds
from relay.nostr.event import Event, PubKey, encode, sign
from relay.nostr.keys import SecretKey
from relay.store.api import Write

NOW = 1_700_000_000
"""Unix seconds: the time at which tests happen, unless they say otherwise."""


def author(name: str) -> SecretKey:
    """Return the key of this name: always the same one."""
    return SecretKey(sha256(name.encode()).digest())


ALICE, BOB, CAROL, DAVE = map(author, ("alice", "bob", "carol", "dave"))


def pubkey(key: SecretKey) -> PubKey:
    """Return the key's public half, typed as events have it."""
    return PubKey(key.public)


def event(
    key: SecretKey,
    kind: int,
    content: str = "",
    *,
    created_at: int = NOW,
    tags: Sequence[Sequence[str]] = (),
) -> Event:
    """Return an event of any kind, signed. Equal arguments give the same event."""
    return sign(key, created_at=created_at, kind=kind, tags=tags, content=content)


def note(
    key: SecretKey, content: str = "", *, created_at: int = NOW, tags: Sequence[Sequence[str]] = ()
) -> Event:
    """Return a signed text note (kind 1)."""
    return event(key, kinds.NOTE, content, created_at=created_at, tags=tags)


def notes(key: SecretKey, count: int, *, created_at: int = NOW, step: int = 0) -> list[Event]:
    """Return `count` different notes, each `step` seconds later than the one before."""
    return [note(key, f"note {n}", created_at=created_at + n * step) for n in range(count)]


def write(kept: Event, **more: Any) -> Write:
    """Return the Write that keeps an event under the address NIP-01 gives it; `more` are Write's fields."""
    return Write(kept, encode(kept), **{"address": kept.address, **more})


class Clock:
    """A clock for code that takes `Callable[[], int]`; stands still until it is turned."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now
        """Unix seconds."""

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: int) -> None:
        self.now += seconds
