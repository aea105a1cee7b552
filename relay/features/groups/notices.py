"""What the relay itself says of a group: kinds 39000-39003 and 39005, and changes that it makes."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from relay.features.groups.state import Group, GroupRecords
from relay.features.groups.timeline import TABLE as TIMELINE
from relay.features.groups.vocabulary import (
    ADMINS,
    MEMBERS,
    METADATA,
    PINS,
    PUT_USER,
    REMOVE_USER,
    ROLE_TEXTS,
    ROLES,
)
from relay.features.statements import owned_by_named
from relay.nostr.event import EventId, encode, sign
from relay.nostr.keys import SecretKey
from relay.nostr.tags import Tags
from relay.store.api import Ruling, Write

LISTED_MEMBERS = 1_000
"""Of a larger group, kind 39002 lists those with a rank only."""
LISTED_AT_ONCE = 50
"""Of a larger group, kind 39002 follows some seconds later: each tag of it is a posting in the index."""

_MOST_AHEAD_SECONDS = 60
"""Each version is later than the one before, but not so much ahead of the clock."""


class Notices:
    """What the relay says because of one event or command, and which of its older notices go."""

    def __init__(self, key: SecretKey, records: GroupRecords, now: int) -> None:
        self._key = key
        self._records = records
        self._now = now
        self._said: list[Write] = []
        self._gone: list[EventId] = []

    def ruling(self, answer: bytes = b"") -> Ruling:
        """Return all that was said."""
        return Ruling(also=tuple(self._said), removals=tuple(self._gone), answer=answer)

    def put_user(self, group: Group, key: str, roles: Sequence[str], at: int) -> None:
        """Say that somebody is a member, with these roles."""
        self._say_in(group, PUT_USER, ["p", key, *roles], at)

    def remove_user(self, group: Group, key: str, at: int) -> None:
        """Say that somebody is a member no more."""
        self._say_in(group, REMOVE_USER, ["p", key], at)

    def repeat(self, group: Group, kind: int, tags: Tags, at: int) -> None:
        """Say again what an event said that is not later than what it changes."""
        self._say(kind, [["h", group.id], *tags], at)

    def _say_in(self, group: Group, kind: int, tag: Sequence[str], at: int) -> None:
        self._say(kind, [["h", group.id], tag], at)

    def _say(self, kind: int, tags: Iterable[Sequence[str]], at: int) -> EventId:
        said = sign(self._key, created_at=at, kind=kind, tags=list(tags))
        tables = (TIMELINE,) if said.address is None else ()
        write = Write(said, encode(said), address=said.address, tables=tables)
        self._said.append(owned_by_named(write) if kind in (PUT_USER, REMOVE_USER) else write)
        return said.id

    def publish(self, group: Group, *kinds: int) -> Group:
        """Replace notices about a group by ones that tell its state; return it as it is kept then.

        Each must have been put before. Of a large group the members are told later, by a job.
        """
        # Never the same time twice, for clients keep the lower id then; removing the old one makes the
        # store keep the new one where a flood of changes has outrun the clock.
        later = min(group.noticed_at + 1, self._now + _MOST_AHEAD_SECONDS)
        at = max(self._now, group.noticed_at, later)
        notices = dict(group.notices)
        is_stale = group.is_stale
        for kind in kinds:
            if kind == MEMBERS and group.members > LISTED_AT_ONCE:
                is_stale = True
                continue
            notices[str(kind)] = self._replace(group, kind, at)
        return self._records.put(replace(group, notices=notices, noticed_at=at, is_stale=is_stale))

    def publish_all(self, group: Group) -> Group:
        """Say everything about a group anew, also about a large one."""
        at = max(self._now, group.noticed_at + 1)
        kinds = [
            METADATA,
            ADMINS,
            MEMBERS,
            ROLES,
            *([PINS] if group.pins or str(PINS) in group.notices else []),
        ]
        notices: dict[str, str] = {str(kind): self._replace(group, kind, at) for kind in kinds}
        return self._records.put(replace(group, notices=notices, noticed_at=at, is_stale=False))

    def withdraw(self, group: Group) -> Group:
        """Remove all notices about a group."""
        self._gone += map(EventId, group.notices.values())
        return self._records.put(replace(group, notices={}))

    def _replace(self, group: Group, kind: int, at: int) -> EventId:
        if (before := group.notices.get(str(kind))) is not None:
            self._gone.append(EventId(before))
        return self._say(kind, [["d", group.id], *self._tags(group, kind)], at)

    def _tags(self, group: Group, kind: int) -> Iterable[Sequence[str]]:
        if kind == METADATA:
            return metadata_tags(group)
        if kind == ADMINS:
            return [["p", key, *roles] for key, roles in sorted(group.admins.items())]
        if kind == MEMBERS:
            is_listed = group.members <= LISTED_MEMBERS
            listed = self._records.members(group.id, LISTED_MEMBERS) if is_listed else sorted(group.admins)
            return [["p", key] for key in listed]
        if kind == ROLES:
            return [["role", name, text] for name, text in ROLE_TEXTS.items()]
        return group.pins


def metadata_tags(group: Group) -> Tags:
    """Return the tags of kind 39000, but for `d`."""
    parent = (("parent", group.parent),) if group.parent is not None else ()
    return (*group.metadata, *parent, *(("child", child) for child in group.children))
