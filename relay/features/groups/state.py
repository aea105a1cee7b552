"""The state of groups, as records of the table `groups`.

Keys: `g` group, `m` member, `f` former member, `i` open invite, `c` how many groups a key has created, `v`
until when a key has vanished, `w` one whose groups do not know yet, `u` somebody in a group whose standing no
event tells any more.
Their parts are joined by line feeds, which no group id, key or code holds.
"""

from dataclasses import dataclass, field, replace

import orjson

from relay.features.groups.vocabulary import Rank, rank_of
from relay.nostr.event import PubKey
from relay.nostr.tags import Tags
from relay.store.api import Records

TABLE = "groups"
GROUP = "g\n"
MEMBER = "m\n"
VANISHING = "w\n"

MAX_ID_CHARS = 128
MAX_CODE_CHARS = 128
_PAGE = 1_000


@dataclass(frozen=True, slots=True)
class Group:
    """One group. Times are unix seconds."""

    id: str
    exists: bool = True
    """False for what an import knows of a group whose creation it has not come to."""
    is_deleted: bool = False
    is_restored: bool = False
    """Whether its state comes from imports alone: further ones may add to it."""
    is_stale: bool = False
    """Whether the relay's notices are behind its state; a job catches up."""
    creator: str = ""
    metadata: Tags = ()
    """The tags of kind 39000, but for `d`, `parent` and `child`."""
    parent: str | None = None
    children: tuple[str, ...] = ()
    pins: Tags = ()
    admins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Roles of those whose roles give them a rank, by key."""
    members: int = 0
    invites: int = 0
    """How many are open."""
    edited_at: int = 0
    """created_at of the last change of the metadata; 0: none."""
    pinned_at: int = 0
    noticed_at: int = 0
    """created_at of the latest notice."""
    notices: dict[str, str] = field(default_factory=dict)
    """Ids of the notices in place, by kind."""
    untold: tuple[int, ...] = ()
    """Kinds of moderation events that were removed, and whose say the relay has to repeat."""

    def has(self, flag: str) -> bool:
        """Say whether a flag such as `private` is set."""
        return any(tag[0] == flag for tag in self.metadata)

    @property
    def supported_kinds(self) -> frozenset[int] | None:
        """The kinds that may be said in the group; None: all."""
        for tag in self.metadata:
            if tag[0] == "supported_kinds":
                return frozenset(map(int, tag[1:]))
        return None

    def rank(self, key: str) -> Rank:
        """Return what a key's roles in this group allow."""
        return rank_of(self.admins.get(key, ()))


@dataclass(frozen=True, slots=True)
class Membership:
    """What is known of a key in a group."""

    changed_at: int
    """created_at of the last 9000 or 9001 about it."""
    roles: tuple[str, ...] = ()
    was_removed: bool = False
    """Of a former member: by somebody else."""


def encode_group(group: Group) -> bytes:
    """Return the record of a group."""
    return orjson.dumps(group)


def decode_group(record: bytes) -> Group:
    """Read the record of a group."""
    values = orjson.loads(record)
    return Group(
        **values
        | {
            "metadata": tuple(map(tuple, values["metadata"])),
            "children": tuple(values["children"]),
            "pins": tuple(map(tuple, values["pins"])),
            "untold": tuple(values.get("untold", ())),
            "admins": {key: tuple(roles) for key, roles in values["admins"].items()},
        }
    )


def member_key(group: str, key: str) -> str:
    """Return under which key a member's record is."""
    return f"{MEMBER}{group}\n{key}"


def former_key(group: str, key: str) -> str:
    """Return under which key the record is of somebody who was a member."""
    return f"f\n{group}\n{key}"


def is_good_id(group: str) -> bool:
    """Say whether a group may be called this: 1 to 128 characters, none of them a control character."""
    return 0 < len(group) <= MAX_ID_CHARS and group.isprintable()


def _decode_membership(record: bytes | None) -> Membership | None:
    if record is None:
        return None
    changed_at, roles, was_removed = orjson.loads(record)
    return Membership(changed_at, tuple(roles), was_removed)


def _encode_membership(known: Membership) -> bytes:
    return orjson.dumps((known.changed_at, known.roles, known.was_removed))


class GroupRecords:
    """The records of all groups, inside a transaction."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def group(self, id_: str) -> Group | None:
        """Return a group, also one that was deleted or is not created yet."""
        record = self._records.get(GROUP + id_)
        return None if record is None else decode_group(record)

    def put(self, group: Group) -> Group:
        """Keep a group's new state, and return it."""
        self._records.put(GROUP + group.id, encode_group(group))
        return group

    def member(self, group: str, key: str) -> Membership | None:
        """Return a member; None where the key is none, or has vanished since it was made one."""
        known = _decode_membership(self._records.get(member_key(group, key)))
        return None if known is None or known.changed_at <= self.vanished(key) else known

    def former(self, group: str, key: str) -> Membership | None:
        """Return what is known of somebody who was a member, or was never let in."""
        return _decode_membership(self._records.get(former_key(group, key)))

    def put_member(self, group: Group, key: str, known: Membership) -> Group:
        """Make somebody a member with these roles, or give a member these; return the group's new state."""
        if self._records.get(member_key(group.id, key)) is None:
            group = replace(group, members=group.members + 1)
        self._records.delete(former_key(group.id, key))
        self._records.put(member_key(group.id, key), _encode_membership(known))
        admins = {admin: roles for admin, roles in group.admins.items() if admin != key}
        if rank_of(known.roles):
            admins[key] = known.roles
        return self.put(replace(group, admins=admins))

    def remove_member(self, group: Group, key: str, known: Membership) -> Group:
        """Make somebody a former member; return the group's new state."""
        self._records.put(former_key(group.id, key), _encode_membership(known))
        return self._without(group, key)

    def _without(self, group: Group, key: str) -> Group:
        if self._records.get(member_key(group.id, key)) is not None:
            group = replace(group, members=group.members - 1)
        self._records.delete(member_key(group.id, key))
        admins = {admin: roles for admin, roles in group.admins.items() if admin != key}
        return self.put(replace(group, admins=admins))

    def drop(self, group: Group, key: str) -> Group:
        """Keep nothing of what somebody was in a group before they vanished, but that others removed them;
        return the group's new state."""
        former = self.former(group.id, key)
        if former is not None and not former.was_removed and former.changed_at <= self.vanished(key):
            self._records.delete(former_key(group.id, key))
        return self._without(group, key) if self.member(group.id, key) is None else group

    # Who vanished

    def vanished(self, key: str) -> int:
        """Return the second up to which a key has vanished; -1: it never has."""
        return int(self._records.get(f"v\n{key}") or -1)

    def vanish(self, key: str, until: int) -> None:
        """Note that a key vanishes, and that its groups are to be told."""
        self._records.put(f"v\n{key}", b"%d" % max(until, self.vanished(key)))
        self._records.put(VANISHING + key, b"")

    def note_vanished(self, key: str) -> None:
        """Note that all groups know that a key has vanished."""
        self._records.delete(VANISHING + key)
        self._records.delete(f"c\n{key}")

    def note_untold(self, group: str, key: str) -> None:
        """Note that no event tells any more what somebody is in a group."""
        self._records.put(f"u\n{group}\n{key}", b"")

    def untold(self, group: str, limit: int) -> list[str]:
        """Return some of those of whom no event tells what they are in a group."""
        prefix = f"u\n{group}\n"
        return [key.removeprefix(prefix) for key, _ in self._records.within(prefix, limit=limit)]

    def note_told(self, group: str, key: str) -> None:
        """Note that an event tells what somebody is."""
        self._records.delete(f"u\n{group}\n{key}")

    def members(self, group: str, limit: int) -> list[PubKey]:
        """Return the members' keys in order, `limit` at most."""
        prefix = member_key(group, "")
        found: list[PubKey] = []
        after = ""
        while len(found) < limit:
            page = self._records.within(prefix, after=after, limit=min(_PAGE, limit - len(found)))
            found += [PubKey(key.removeprefix(prefix)) for key, _ in page]
            if len(page) < _PAGE:
                break
            after = page[-1][0]
        return found

    def has_invite(self, group: str, code: str) -> bool:
        """Say whether an invite is open."""
        return self._records.get(f"i\n{group}\n{code}") is not None

    def put_invite(self, group: Group, code: str, event: str) -> Group:
        """Open an invite, made by an event; return the group's new state."""
        self._records.put(f"i\n{group.id}\n{code}", event.encode())
        return self.put(replace(group, invites=group.invites + 1))

    def take_invite(self, group: Group, code: str, event: str | None = None) -> Group:
        """Close an invite, if it is open and, where one is named, made by this event."""
        key = f"i\n{group.id}\n{code}"
        made_by = self._records.get(key)
        if made_by is None or (event is not None and made_by != event.encode()):
            return group
        self._records.delete(key)
        return self.put(replace(group, invites=group.invites - 1))

    def created(self, key: str) -> int:
        """Return how many groups that exist a key has created."""
        return int(self._records.get(f"c\n{key}") or 0)

    def count_created(self, key: str, more: int) -> None:
        """Count `more` groups, or fewer, as created by a key."""
        self._records.put(f"c\n{key}", b"%d" % max(0, self.created(key) + more))

    def clear(self, group: str) -> bool:
        """Delete some of the records of a group's people and invites; return whether none is left."""
        left = _PAGE
        for letter in "mfiu":
            found = self._records.within(f"{letter}\n{group}\n", limit=left)
            for key, _ in found:
                self._records.delete(key)
            left -= len(found)
            if left <= 0:
                return False
        return True
