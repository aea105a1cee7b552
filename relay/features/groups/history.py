"""Groups that are imported: restored from a backup, moved here from another relay, or forked.

An operator who imports a file vouches for it: what it holds was accepted by the relay that kept the
group, so nobody's role is asked for. Its order does not matter either; of what contradicts itself the
latest counts. A group that lives here already is not changed by imports, and one that was deleted here
stays so: nothing of it comes back.
"""

from dataclasses import dataclass, replace

from relay.features.groups import metadata, vanishing, vocabulary
from relay.features.groups.notices import Notices
from relay.features.groups.rulings import DELETED, deleted, is_good_code
from relay.features.groups.state import Group, GroupRecords, Membership, is_good_id
from relay.features.groups.vocabulary import DELETE_GROUP, MANAGEMENT, NOTICES, PUT_USER
from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from relay.nostr.reasons import Prefix, Refusal
from relay.nostr.tags import HEX_64, first_value, parse_address, values
from relay.store.api import KEEP, Records, Ruling

_LIVES = Refusal(Prefix.BLOCKED, "the group lives here: imports do not change it")
_ANOTHERS = Refusal(Prefix.BLOCKED, "what another relay knows of its groups")


@dataclass(frozen=True, slots=True)
class Restoring:
    """Takes what is imported."""

    key: SecretKey
    """The relay's own."""

    def judge(self, event: Event, records: Records, now: int) -> Ruling | Refusal:
        """Keep the event, and what it says about a group that does not live here yet."""
        state = GroupRecords(records)
        if event.kind in NOTICES:
            return self._take_notice(event, state)
        for named in values(event.tags, "h"):
            known = state.group(named)
            if known is not None and known.is_deleted and event.kind != DELETE_GROUP:
                return DELETED
        id_ = first_value(event.tags, "h")
        if id_ is None or not is_good_id(id_) or event.kind not in MANAGEMENT:
            return KEEP
        group = state.group(id_)
        if group is None:
            group = Group(id_, exists=False, is_restored=True)
        if group.is_deleted:
            return KEEP
        if not group.is_restored:
            return _LIVES
        changed = _apply(event, state, group, by_relay=event.pubkey == self.key.public)
        if changed != group:
            # A job tells what became of it, when the import has gone on.
            state.put(replace(changed, is_stale=changed.exists))
        return KEEP

    def _take_notice(self, event: Event, state: GroupRecords) -> Ruling | Refusal:
        if event.pubkey != self.key.public:
            return _ANOTHERS
        id_ = first_value(event.tags, "d") or ""
        group = state.group(id_)
        if not is_good_id(id_) or (group is not None and not group.is_restored):
            return Refusal(Prefix.DUPLICATE, "the relay has newer ones of these")
        group = group or Group(id_, exists=False, is_restored=True)
        latest = max(group.noticed_at, event.created_at)
        state.put(replace(group, notices={**group.notices, str(event.kind): event.id}, noticed_at=latest))
        return KEEP


def catch_up(payload: bytes, key: SecretKey, state: GroupRecords, now: int) -> Ruling | Refusal:
    """Publish what the relay knows of a group whose notices are behind; the command of the table.

    It is a group's id; or, a line each, a group's id and a key that has vanished: the group lets go of it; or
    a key alone behind an empty line: all of its groups did. Answers `MORE` where another call is due.
    """
    id_, *rest = payload.decode().split("\n")
    notices = Notices(key, state, now)
    if rest and id_:
        return vanishing.leave(id_, rest[0], state, notices)
    if rest:
        state.note_vanished(rest[0])
        return KEEP
    group = state.group(id_)
    if group is None or not group.is_stale:
        return KEEP
    if group.is_deleted:
        if state.clear(group.id):
            state.put(replace(group, is_stale=False))
    elif group.exists:
        group, is_all = vanishing.retell(group, state, notices, now)
        if not is_all:
            return notices.ruling(vanishing.MORE)
        above = None if group.parent is None else state.group(group.parent)
        # Its creation was not imported.
        is_orphan = above is None or not above.exists
        notices.publish_all(replace(group, parent=None) if is_orphan else group)
    return notices.ruling()


def _apply(event: Event, state: GroupRecords, group: Group, *, by_relay: bool) -> Group:
    at = event.created_at
    match event.kind:
        case vocabulary.CREATE_GROUP if by_relay:
            # It repeats what somebody said who has vanished.
            return replace(group, exists=True)
        case vocabulary.CREATE_GROUP:
            state.count_created(event.pubkey, 0 if group.exists else 1)
            group = replace(group, exists=True, creator=event.pubkey)
            if state.member(group.id, event.pubkey) or state.former(group.id, event.pubkey):
                return group
            return state.put_member(group, event.pubkey, Membership(at, ("owner",)))
        case vocabulary.PUT_USER | vocabulary.REMOVE_USER:
            for tag in event.tags:
                if tag[:1] == ("p",) and len(tag) > 1 and HEX_64(tag[1]):
                    group = _change_member(state, group, event, tag[1], tuple(dict.fromkeys(tag[2:])))
            return group
        case vocabulary.EDIT_METADATA:
            edit = metadata.parse(event.tags)
            if isinstance(edit, Refusal) or at < group.edited_at:
                return group
            group = replace(group, metadata=edit.tags, edited_at=at)
            # Children came by their own edits; the parent's say in which order.
            place = {child: number for number, child in enumerate(edit.children)}
            children = sorted(group.children, key=lambda child: place.get(child, len(place)))
            return _move(state, replace(group, children=tuple(children)), edit.parent)
        case vocabulary.DELETE_GROUP:
            if group.creator:
                state.count_created(group.creator, -1)
            for child in group.children:
                if (below := state.group(child)) is not None:
                    state.put(replace(below, parent=None, is_stale=True))
            return deleted(_move(state, group, None))
        case vocabulary.CREATE_INVITE:
            code = first_value(event.tags, "code")
            if code is not None and is_good_code(code) and not state.has_invite(group.id, code):
                return state.put_invite(group, code, event.id)
        case vocabulary.UPDATE_PINS if at >= group.pinned_at:
            pins = [tag[:2] for tag in event.tags if _is_pin(tag)]
            return replace(group, pins=tuple(pins), pinned_at=at)
        case vocabulary.JOIN:
            return state.take_invite(group, first_value(event.tags, "code") or "")
    return group


def _move(state: GroupRecords, group: Group, parent_id: str | None) -> Group:
    """Put a group below another one that is imported too, or below none; return it."""
    if group.parent is not None and (before := state.group(group.parent)) is not None:
        left = tuple(child for child in before.children if child != group.id)
        state.put(replace(before, children=left, is_stale=True))
    if parent_id is None or parent_id == group.id or not is_good_id(parent_id):
        return state.put(replace(group, parent=None))
    after = state.group(parent_id) or Group(parent_id, exists=False, is_restored=True)
    if not after.is_restored or after.is_deleted or after.parent == group.id:
        return state.put(replace(group, parent=None))
    state.put(replace(after, children=(*after.children, group.id), is_stale=True))
    return state.put(replace(group, parent=after.id))


def _change_member(
    state: GroupRecords, group: Group, event: Event, key: str, roles: tuple[str, ...]
) -> Group:
    before = state.member(group.id, key) or state.former(group.id, key)
    if before is not None and event.created_at < before.changed_at:
        return group
    known = Membership(event.created_at, roles)
    if event.kind == PUT_USER:
        if event.created_at <= state.vanished(key):
            return group
        return state.put_member(group, key, known)
    return state.remove_member(group, key, replace(known, roles=(), was_removed=event.pubkey != key))


def _is_pin(tag: tuple[str, ...]) -> bool:
    if len(tag) < 2:
        return False
    return bool(HEX_64(tag[1])) if tag[0] == "e" else tag[0] == "a" and parse_address(tag[1]) is not None
