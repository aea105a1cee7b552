"""Who may do what in a group: judges each event of a group, one at a time, in the order of the log.

What an event changes takes effect in the order of arrival. Everybody else goes by created_at; so where an
event is not later than what it changes, the relay repeats it with a later time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from relay.features.groups import metadata
from relay.features.groups.notices import Notices, metadata_tags
from relay.features.groups.state import MAX_CODE_CHARS, Group, GroupRecords, Membership, is_good_id
from relay.features.groups.vocabulary import (
    ADMINS,
    CREATE_GROUP,
    CREATE_INVITE,
    DELETE_EVENT,
    DELETE_GROUP,
    EDIT_METADATA,
    JOIN,
    LEAVE,
    MANAGEMENT,
    MEMBERS,
    METADATA,
    NOTICES,
    PINS,
    PUT_USER,
    REMOVE_USER,
    ROLES,
    UPDATE_PINS,
    Rank,
    rank_of,
)
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.nostr.tags import HEX_64, first_value, parse_address, values
from relay.store.api import KEEP, Records, Ruling

MAX_GROUPS_OF_EVENT = 8
MAX_USERS_AT_ONCE = 100
MAX_ROLES = 10
MAX_ROLE_CHARS = 64
MAX_ADMINS = 200
MAX_INVITES = 1_000
MAX_PINS = 100

_OURS = Refusal(Prefix.BLOCKED, "only the relay itself publishes what it knows of its groups")
_ONE_GROUP = invalid("an event is sent to one group only")
_NO_GROUP = Refusal(Prefix.BLOCKED, "there is no such group on this relay")
DELETED = Refusal(Prefix.BLOCKED, "this group was deleted; its id is not used again")
_RANK = Refusal(Prefix.RESTRICTED, "your role in this group does not allow this")
_NOT_BELOW = Refusal(Prefix.RESTRICTED, "your role in this group is not above theirs")
_NOT_MEMBER = Refusal(Prefix.RESTRICTED, "only members may write in this group")
_FULL = Refusal(Prefix.RESTRICTED, "the group is full")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator decides about groups."""

    key: SecretKey
    """The relay's own."""
    operators: frozenset[str] = frozenset()
    """Keys that administer the relay: they may do in every group what the relay may."""
    anybody_creates: bool = True
    max_created: int = 20
    """Groups that exist and that one key has created."""
    max_members: int = 10_000


class Judge:
    """Judges events of groups by their records."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules

    def judge(self, event: Event, records: Records, now: int) -> Ruling | Refusal:
        """Rule on a live event, as `Table.judge` does."""
        if event.kind in NOTICES:
            return _OURS
        ids = list(dict.fromkeys(values(event.tags, "h")))
        if len(ids) > MAX_GROUPS_OF_EVENT:
            return _ONE_GROUP
        state = GroupRecords(records)
        if event.kind in MANAGEMENT:
            if len(ids) != 1 or not is_good_id(ids[0]):
                return invalid("an h tag names the group, by 1 to 128 printable characters")
            return _Case(self._rules, event, state, now).manage(ids[0])
        known = [group for id_ in ids if (group := state.group(id_)) is not None and group.exists]
        if not known:
            # Of a group on another relay, perhaps: this one may be its replica, and has no say in it.
            return KEEP
        if len(ids) > 1:
            return _ONE_GROUP
        return _Case(self._rules, event, state, now).speak(known[0])


class _Case:
    """One event, and what becomes of the records because of it."""

    def __init__(self, rules: Rules, event: Event, state: GroupRecords, now: int) -> None:
        self._rules = rules
        self._event = event
        self._author = event.pubkey
        self._state = state
        self._now = now
        self._notices = Notices(rules.key, state, now)

    def speak(self, group: Group) -> Ruling | Refusal:
        """Say whether what somebody says in a group is kept."""
        if group.is_deleted:
            return DELETED
        kind = self._event.kind
        # Everybody may take back what they said.
        if kind == kinds.DELETION:
            return KEEP
        if group.has("restricted") and not self._is_member(group):
            return _NOT_MEMBER
        supported = group.supported_kinds
        if supported is not None and kind not in supported:
            return Refusal(Prefix.BLOCKED, f"this group does not take kind {kind}")
        return KEEP

    def manage(self, id_: str) -> Ruling | Refusal:
        """Rule on an event that concerns the group itself."""
        kind = self._event.kind
        group = self._state.group(id_)
        if group is not None and group.is_deleted:
            return DELETED
        if kind == CREATE_GROUP:
            return self._create(id_, group)
        if group is None or not group.exists:
            return _NO_GROUP
        if group.is_restored:
            # From now on imports do not change it: it lives here.
            group = replace(group, is_restored=False)
        needed = {
            PUT_USER: (Rank.ADMIN, self._put_users),
            REMOVE_USER: (Rank.MODERATOR, self._remove_users),
            EDIT_METADATA: (Rank.ADMIN, self._edit),
            DELETE_EVENT: (Rank.MODERATOR, self._unpin),
            DELETE_GROUP: (Rank.OWNER, self._delete),
            CREATE_INVITE: (Rank.ADMIN, self._invite),
            UPDATE_PINS: (Rank.MODERATOR, self._pin),
            JOIN: (Rank.NONE, self._join),
            LEAVE: (Rank.NONE, self._leave),
        }.get(kind)
        if needed is None:
            return Refusal(Prefix.UNSUPPORTED, f"this relay knows no moderation event of kind {kind}")
        rank, decide = needed
        if self._rank(group) < rank:
            return _RANK
        refusal = decide(group)
        return self._notices.ruling() if refusal is None else refusal

    def _rank(self, group: Group) -> Rank:
        if self._author == self._rules.key.public or self._author in self._rules.operators:
            return Rank.RELAY
        return self._rank_of(group, self._author)

    def _rank_of(self, group: Group, key: str) -> Rank:
        rank = group.rank(key)
        # Whoever has vanished is no member any more, though the group's record may not know it yet.
        return rank if rank is Rank.NONE or self._state.member(group.id, key) is not None else Rank.NONE

    def _is_member(self, group: Group) -> bool:
        return self._rank(group) > Rank.NONE or self._state.member(group.id, self._author) is not None

    def _create(self, id_: str, group: Group | None) -> Ruling | Refusal:
        if group is not None and group.exists:
            return Refusal(Prefix.DUPLICATE, "there is a group with this id")
        rules, author = self._rules, self._author
        if author not in rules.operators and author != rules.key.public:
            if not rules.anybody_creates:
                return Refusal(Prefix.RESTRICTED, "only the relay's administrators create groups here")
            if self._state.created(author) >= rules.max_created:
                return Refusal(Prefix.RESTRICTED, f"one key may have {rules.max_created} groups here")
        self._state.count_created(author, 1)
        at = max(self._now, self._event.created_at)
        group = self._state.put_member(Group(id_, creator=author), author, Membership(at, ("owner",)))
        self._notices.put_user(group, author, ["owner"], at)
        self._notices.publish(group, METADATA, ADMINS, MEMBERS, ROLES)
        return self._notices.ruling()

    def _put_users(self, group: Group) -> Refusal | None:
        asked = _users(self._event)
        if isinstance(asked, Refusal):
            return asked
        ours = self._rank(group)
        had_admins = group.admins
        at = self._time_of_change(group, asked)
        for key, roles in asked.items():
            theirs = self._rank_of(group, key)
            if ours < Rank.OWNER:
                # Nobody lifts themselves, nor others to their own height.
                if key == self._author and rank_of(roles) > theirs:
                    return Refusal(Prefix.RESTRICTED, "nobody may give themselves a higher role")
                if key != self._author and (theirs >= ours or rank_of(roles) >= ours):
                    return _NOT_BELOW
            if self._state.member(group.id, key) is None and group.members >= self._rules.max_members:
                return _FULL
            group = self._state.put_member(group, key, Membership(at, roles))
        if len(group.admins) > MAX_ADMINS:
            return Refusal(Prefix.BLOCKED, f"a group has at most {MAX_ADMINS} members with a rank")
        self._publish_members(group, had_admins)
        return None

    def _remove_users(self, group: Group) -> Refusal | None:
        asked = _users(self._event)
        if isinstance(asked, Refusal):
            return asked
        had_admins = group.admins
        members = [key for key in asked if self._state.member(group.id, key) is not None]
        if not members:
            return invalid("nobody of these is a member of the group")
        for key in members:
            if (
                self._rank(group) < Rank.OWNER
                and key != self._author
                and self._rank_of(group, key) >= self._rank(group)
            ):
                return _NOT_BELOW
        # Also those who are none: whoever reads the history takes it for a removal.
        at = self._time_of_change(group, dict.fromkeys(asked, ()))
        for key in asked:
            known = Membership(at, was_removed=key != self._author)
            group = self._state.remove_member(group, key, known)
        self._publish_members(group, had_admins)
        return None

    def _time_of_change(self, group: Group, asked: Mapping[str, tuple[str, ...]]) -> int:
        """Return from when on this event counts; the relay repeats it where it is not later than before."""
        latest = max(self._last_change(group, key) for key in asked)
        at = self._event.created_at
        if at > latest:
            return at
        for key, roles in asked.items():
            if self._event.kind == PUT_USER:
                self._notices.put_user(group, key, roles, latest + 1)
            else:
                self._notices.remove_user(group, key, latest + 1)
        return latest + 1

    def _publish_members(self, group: Group, had_admins: Mapping[str, tuple[str, ...]]) -> None:
        self._notices.publish(group, MEMBERS, *([ADMINS] if group.admins != had_admins else []))

    def _edit(self, group: Group) -> Refusal | None:
        edit = metadata.parse(self._event.tags)
        if isinstance(edit, Refusal):
            return edit
        # "kind:9002 metadata edits that do not include all the children as child tags MUST be rejected."
        if len(edit.children) != len(group.children) or set(edit.children) != set(group.children):
            return invalid("the child tags must be those of all children of this group, and no others")
        parent = None
        if edit.parent is not None:
            found = self._parent(group, edit.parent)
            if isinstance(found, Refusal):
                return found
            parent = found
        at = self._event.created_at
        is_late = at <= group.edited_at
        at = group.edited_at + 1 if is_late else at
        before = group.parent
        group = self._state.put(
            replace(group, metadata=edit.tags, parent=edit.parent, children=edit.children, edited_at=at)
        )
        if is_late:
            self._notices.repeat(group, EDIT_METADATA, metadata_tags(group), at)
        self._notices.publish(group, METADATA)
        if before != edit.parent:
            if before is not None:
                self._drop_child(before, group.id)
            if parent is not None:
                parent = self._state.put(replace(parent, children=(*parent.children, group.id)))
                self._notices.publish(parent, METADATA)
        return None

    def _parent(self, group: Group, id_: str) -> Group | Refusal:
        parent = self._state.group(id_)
        if parent is None or not parent.exists or parent.is_deleted:
            return invalid("the parent group does not exist on this relay")
        above: Group | None = parent
        for _ in range(metadata.MAX_DEPTH):
            if above is None:
                break
            if above.id == group.id:
                return invalid("a group cannot be below itself")
            above = None if above.parent is None else self._state.group(above.parent)
        else:
            return Refusal(Prefix.BLOCKED, f"groups are nested {metadata.MAX_DEPTH} deep at most")
        # "… unless the event author is also an admin of X", also where X is the parent already.
        if self._rank(parent) < Rank.ADMIN:
            return Refusal(Prefix.RESTRICTED, "only an admin of the parent group may put a group below it")
        if group.id not in parent.children and len(parent.children) >= metadata.MAX_CHILDREN:
            return Refusal(Prefix.BLOCKED, f"a group has at most {metadata.MAX_CHILDREN} children")
        return parent

    def _drop_child(self, parent_id: str, child: str) -> None:
        parent = self._state.group(parent_id)
        if parent is not None and not parent.is_deleted:
            children = tuple(one for one in parent.children if one != child)
            self._notices.publish(self._state.put(replace(parent, children=children)), METADATA)

    def _unpin(self, group: Group) -> Refusal | None:
        """Take what a kind 9005 deletes from the pins; the timeline deletes it."""
        deleted = set(values(self._event.tags, "e"))
        pins = tuple(tag for tag in group.pins if tag[0] != "e" or tag[1] not in deleted)
        if pins != group.pins:
            self._notices.publish(self._state.put(replace(group, pins=pins)), PINS)
        return None

    def _delete(self, group: Group) -> Refusal | None:
        for child_id in group.children:
            child = self._state.group(child_id)
            if child is not None and child.parent == group.id:
                self._notices.publish(self._state.put(replace(child, parent=None)), METADATA)
        if group.parent is not None:
            self._drop_child(group.parent, group.id)
        if group.creator:
            self._state.count_created(group.creator, -1)
        self._notices.withdraw(deleted(group))
        return None

    def _invite(self, group: Group) -> Refusal | None:
        code = first_value(self._event.tags, "code")
        if not is_good_code(code):
            return invalid(f"a code tag holds 1 to {MAX_CODE_CHARS} printable characters")
        if self._state.has_invite(group.id, code or ""):
            return Refusal(Prefix.DUPLICATE, "there is an invite with this code")
        if group.invites >= MAX_INVITES:
            return Refusal(Prefix.BLOCKED, f"a group has at most {MAX_INVITES} open invites")
        self._state.put_invite(group, code or "", self._event.id)
        return None

    def _pin(self, group: Group) -> Refusal | None:
        pins = tuple(tag[:2] for tag in self._event.tags if tag and tag[0] in ("e", "a"))
        if len(pins) > MAX_PINS:
            return Refusal(Prefix.BLOCKED, f"a group has at most {MAX_PINS} pinned events")
        for tag in pins:
            is_good = len(tag) == 2 and (HEX_64(tag[1]) if tag[0] == "e" else parse_address(tag[1]))
            if not is_good:
                return invalid(
                    "pinned events are named by e tags with their ids or a tags with their addresses"
                )
        at = self._event.created_at
        is_late = at <= group.pinned_at
        at = group.pinned_at + 1 if is_late else at
        group = self._state.put(replace(group, pins=pins, pinned_at=at))
        if is_late:
            self._notices.repeat(group, UPDATE_PINS, pins, at)
        self._notices.publish(group, PINS)
        return None

    def _join(self, group: Group) -> Refusal | None:
        if self._state.member(group.id, self._author) is not None:
            return Refusal(Prefix.DUPLICATE, "you are a member of this group")
        former = self._state.former(group.id, self._author)
        code = first_value(self._event.tags, "code")
        if code:
            if not self._state.has_invite(group.id, code):
                return Refusal(Prefix.RESTRICTED, "this invite is not known, or was used")
        elif group.has("closed"):
            return Refusal(Prefix.RESTRICTED, "this group is closed; ask one of its admins for an invite")
        elif former is not None and former.was_removed:
            return Refusal(Prefix.RESTRICTED, "you were removed; ask one of the group's admins for an invite")
        if group.members >= self._rules.max_members:
            return _FULL
        if code:
            group = self._state.take_invite(group, code)
        at = self._next_change(group)
        group = self._state.put_member(group, self._author, Membership(at))
        self._notices.put_user(group, self._author, [], at)
        self._publish_members(group, group.admins)
        return None

    def _leave(self, group: Group) -> Refusal | None:
        known = self._state.member(group.id, self._author)
        if known is None:
            return Refusal(Prefix.DUPLICATE, "you are not a member of this group")
        had_admins = group.admins
        at = self._next_change(group)
        group = self._state.remove_member(group, self._author, Membership(at))
        self._notices.remove_user(group, self._author, at)
        self._publish_members(group, had_admins)
        return None

    def _next_change(self, group: Group) -> int:
        return max(self._now, self._last_change(group, self._author) + 1)

    def _last_change(self, group: Group, key: str) -> int:
        """Return when somebody's standing changed last; -1: never."""
        known = self._state.member(group.id, key) or self._state.former(group.id, key)
        return max(-1 if known is None else known.changed_at, self._state.vanished(key))


def deleted(group: Group) -> Group:
    """Return what stays of a group that is deleted: its id, and the notices that are in place."""
    return Group(group.id, is_deleted=True, is_stale=True, notices=group.notices, noticed_at=group.noticed_at)


def is_good_code(code: str | None) -> bool:
    """Say whether an invite may have this code."""
    return code is not None and 0 < len(code) <= MAX_CODE_CHARS and code.isprintable()


def _users(event: Event) -> dict[str, tuple[str, ...]] | Refusal:
    """Return the roles by key that the `p` tags name."""
    found: dict[str, tuple[str, ...]] = {}
    for tag in event.tags:
        if not tag or tag[0] != "p":
            continue
        if len(tag) < 2 or not HEX_64(tag[1]):
            return invalid("a p tag holds a key of 64 hex digits")
        roles = tuple(dict.fromkeys(tag[2:]))
        if len(roles) > MAX_ROLES or not all(0 < len(role) <= MAX_ROLE_CHARS for role in roles):
            return invalid(f"a p tag holds at most {MAX_ROLES} roles of 1 to {MAX_ROLE_CHARS} characters")
        found[tag[1]] = roles
    if not 0 < len(found) <= MAX_USERS_AT_ONCE:
        return invalid(f"p tags name 1 to {MAX_USERS_AT_ONCE} users")
    return found
