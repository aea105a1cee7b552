"""What one process knows of the table: kept current as a follower."""

from collections.abc import Sequence
from typing import TypeVar

import orjson

from relay.engine.limits import counted_as
from relay.features.management import book
from relay.nostr.event import Event
from relay.store.api import Change

One = TypeVar("One", str, int)


class Memory:
    """Who and what is welcome, and who the members are."""

    def __init__(self) -> None:
        self.members: dict[str, frozenset[str]] = {}
        """Key → roles."""
        self.banned: set[str] = set()
        self.banned_events: set[str] = set()
        self.allowed_kinds: set[int] = set()
        """Empty: all that are not refused."""
        self.refused_kinds: set[int] = set()
        self.blocked: set[str] = set()
        """As `counted_as` says."""
        self.texts: dict[str, str] = {}
        """Fields of NIP-11's document."""
        self.to_purge: set[str] = set()
        """Banned keys of whom events may still be stored."""
        self.is_list_stale = False
        self.welcomes_all = True
        """Whether nothing is banned, blocked or refused, as on most relays: asked for every event."""

    def changed(self, changes: Sequence[Change]) -> None:
        """See `Follower.changed`."""
        for key, value, _ in changes:
            prefix, _, name = key.partition("/")
            self._change(prefix + "/", name, value)
        self.welcomes_all = not (
            self.banned or self.banned_events or self.allowed_kinds or self.refused_kinds or self.blocked
        )

    def _change(self, prefix: str, name: str, value: bytes | None) -> None:
        match prefix:
            case book.MEMBER if value is not None:
                self.members[name] = frozenset(orjson.loads(value)["roles"])
            case book.MEMBER:
                self.members.pop(name, None)
            case book.BANNED:
                _keep(self.banned, name, value is not None)
            case book.BANNED_EVENT:
                _keep(self.banned_events, name, value is not None)
            case book.ALLOWED_KIND:
                _keep(self.allowed_kinds, int(name), value is not None)
            case book.REFUSED_KIND:
                _keep(self.refused_kinds, int(name), value is not None)
            case book.BLOCKED:
                _keep(self.blocked, name, value is not None)
            case book.TEXT if value is not None:
                self.texts[name] = value.decode()
            case book.PURGE:
                _keep(self.to_purge, name, value is not None)
            case book.STALE:
                self.is_list_stale = value is not None

    def blocks(self, address: str) -> bool:
        """Say whether clients of this address are not served."""
        return bool(self.blocked) and counted_as(address) in self.blocked

    def takes_kind(self, kind: int) -> bool:
        """Say whether events of this kind are taken."""
        return kind not in self.refused_kinds and (not self.allowed_kinds or kind in self.allowed_kinds)

    def bans(self, event: Event) -> bool:
        """Say whether this event or its author was banned."""
        return event.pubkey in self.banned or event.id in self.banned_events


def _keep(known: set[One], one: One, is_in: bool) -> None:
    (known.add if is_in else known.discard)(one)
