"""What one process remembers of the groups, to say at once what may be shown to whom."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from relay.features.groups.state import GROUP, MEMBER, VANISHING, decode_group, member_key
from relay.features.groups.vocabulary import (
    DELETE_GROUP,
    MEMBERS,
    NOTICES,
    PINS,
    PUT_USER,
    REMOVE_USER,
    Rank,
    rank_of,
)
from relay.nostr.event import Event
from relay.nostr.tags import first_value, values
from relay.store.api import Change

_KNOWN_MEMBERS = 65_536
"""Answers about members that are kept, 300 bytes each."""


class _Known(NamedTuple):
    is_private: bool
    is_hidden: bool
    is_restricted: bool
    is_deleted: bool
    is_stale: bool
    supported_kinds: frozenset[int] | None
    admins: frozenset[str]
    """Who may see invites."""


class Memory:
    """The groups of a relay, kept current by `changed`."""

    def __init__(self, record: Callable[[str], bytes | None]) -> None:
        """`record` reads a record of the table of groups."""
        self._record = record
        self._groups: dict[str, _Known] = {}
        self._members: dict[str, bool] = {}
        """By the keys of their records."""
        self.vanishing: set[str] = set()
        """Keys that vanish, and whose groups do not know yet."""
        self._secret = frozenset[str]()
        self._hidden_notices = frozenset[int]()
        self._is_gathered = True
        """Whether these two are up to date."""

    def changed(self, changes: Sequence[Change]) -> None:
        """Take note of changed records."""
        for change in changes:
            if change.key.startswith(GROUP):
                self._note(change.key.removeprefix(GROUP), change.value)
            elif change.key.startswith(MEMBER):
                self._members.pop(change.key, None)
            elif change.key.startswith(VANISHING):
                key = change.key.removeprefix(VANISHING)
                (self.vanishing.discard if change.value is None else self.vanishing.add)(key)

    def _note(self, id_: str, record: bytes | None) -> None:
        before = self._groups.pop(id_, None)
        after = None
        if record is not None and (group := decode_group(record)).exists:
            self._groups[id_] = after = _Known(
                is_private=group.has("private"),
                is_hidden=group.has("hidden"),
                is_restricted=group.has("restricted"),
                is_deleted=group.is_deleted,
                is_stale=group.is_stale,
                supported_kinds=group.supported_kinds,
                admins=frozenset(k for k, roles in group.admins.items() if rank_of(roles) >= Rank.ADMIN),
            )
        if any(known is not None and (known.is_hidden or _is_secret(known)) for known in (before, after)):
            self._is_gathered = False

    @property
    def secret(self) -> frozenset[str]:
        """The groups whose events not everybody may read."""
        self._gather()
        return self._secret

    @property
    def hidden_notices(self) -> frozenset[int]:
        """The kinds of notices of which not everybody may read all."""
        self._gather()
        return self._hidden_notices

    def _gather(self) -> None:
        if self._is_gathered:
            return
        known = self._groups.items()
        self._secret = frozenset(id_ for id_, one in known if _is_secret(one))
        is_any_hidden = any(one.is_hidden or one.is_private for _, one in known)
        self._hidden_notices = NOTICES if is_any_hidden else frozenset()
        self._is_gathered = True

    @property
    def stale(self) -> list[tuple[str, bool]]:
        """The groups that have something left to do, and whether each was deleted."""
        return [(id_, known.is_deleted) for id_, known in self._groups.items() if known.is_stale]

    @property
    def ids(self) -> list[str]:
        """The ids of all groups."""
        return list(self._groups)

    def lives(self, id_: str) -> bool:
        """Say whether there is a group with this id."""
        return id_ in self._groups

    def is_member(self, id_: str, keys: frozenset[str]) -> bool:
        """Say whether one of the keys is a member's."""
        return any(self._is_member(member_key(id_, key)) for key in keys)

    def _is_member(self, key: str) -> bool:
        known = self._members.get(key)
        if known is None:
            if len(self._members) >= _KNOWN_MEMBERS:
                self._members.clear()
            known = self._members[key] = self._record(key) is not None
        return known

    def takes(self, event: Event) -> bool:
        """Say whether its groups take an event that is passed on only, and kept by nobody."""
        for id_ in values(event.tags, "h"):
            known = self._groups.get(id_)
            if known is None:
                continue
            if known.is_deleted or (
                known.supported_kinds is not None and event.kind not in known.supported_kinds
            ):
                return False
            if known.is_restricted and not self.is_member(id_, frozenset({event.pubkey})):
                return False
        return True

    def shows(self, event: Event, readers: frozenset[str]) -> bool:
        """Say whether somebody who proved these keys may see an event with an `h` tag."""
        return all(self._shows(event, id_, readers) for id_ in values(event.tags, "h") if id_ in self.secret)

    def _shows(self, event: Event, id_: str, readers: frozenset[str]) -> bool:
        if self._groups[id_].is_deleted:
            return event.kind == DELETE_GROUP
        if event.pubkey in readers or self.is_member(id_, readers):
            return True
        # Who was removed may know.
        return event.kind in (PUT_USER, REMOVE_USER) and not readers.isdisjoint(values(event.tags, "p"))

    def shows_notice(self, event: Event, readers: frozenset[str]) -> bool:
        """Say whether somebody may see what the relay says of a group."""
        id_ = first_value(event.tags, "d") or ""
        known = self._groups.get(id_)
        if known is None:
            return True
        # "… to restrict what pubkeys can fetch it": the members of a private group, and what it has pinned.
        is_for_members = known.is_hidden or (known.is_private and event.kind in (MEMBERS, PINS))
        return not is_for_members or self.is_member(id_, readers)

    def shows_invite(self, event: Event, readers: frozenset[str]) -> bool:
        """Say whether somebody may see a kind 9009: whoever reads its code can use it."""
        known = self._groups.get(first_value(event.tags, "h") or "")
        return event.pubkey in readers or (known is not None and not known.admins.isdisjoint(readers))


def _is_secret(known: _Known | None) -> bool:
    return known is not None and (known.is_private or (known.is_deleted and known.is_stale))
