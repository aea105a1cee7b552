"""Who vanishes (NIP-62), and events that go: memberships end, and the group stays what it was for all others.

"It's expected that the group state can be fully reconstructed from the canonical sequence of these events":
where some of them go, with who vanishes or is banned, the relay says anew what nobody says any more.
"""

from dataclasses import replace

from relay.features.groups.notices import Notices, metadata_tags
from relay.features.groups.state import Group, GroupRecords
from relay.features.groups.vocabulary import (
    ADMINS,
    CREATE_GROUP,
    CREATE_INVITE,
    EDIT_METADATA,
    MEMBERS,
    PUT_USER,
    REMOVE_USER,
    UPDATE_PINS,
)
from relay.nostr.event import Event
from relay.nostr.tags import first_value, values
from relay.store.api import KEEP, Records, Ruling

TABLE = "groups-vanishing"
TOLD_AT_ONCE = 100
"""People whose standing is told anew in one transaction: a signature and some postings each, 10 ms in all."""
MORE = b"more"
"""The answer where another call is due."""


def judge(event: Event, records: Records, now: int) -> Ruling:
    """Note who vanishes: from now on what they were counts for nothing. A job tells the groups."""
    GroupRecords(records).vanish(event.pubkey, event.created_at)
    return KEEP


def forget(event: Event, records: Records) -> None:
    """Note what a removed event has said of its group, for `retell`; close the invite that it made."""
    state = GroupRecords(records)
    group = state.group(first_value(event.tags, "h") or "")
    if group is None or not group.exists or group.is_deleted:
        return
    match event.kind:
        case kind if kind == CREATE_INVITE:
            for code in values(event.tags, "code"):
                group = state.take_invite(group, code, event.id)
            return
        case kind if kind in (PUT_USER, REMOVE_USER):
            # Of who has vanished since nothing is to be said.
            named = [key for key in values(event.tags, "p") if state.vanished(key) < event.created_at]
            for key in named:
                state.note_untold(group.id, key)
            is_anything = bool(named)
        case kind if kind in (CREATE_GROUP, EDIT_METADATA, UPDATE_PINS):
            group = replace(group, untold=tuple(dict.fromkeys((*group.untold, kind))))
            is_anything = True
        case _:
            return
    if is_anything:
        state.put(replace(group, is_stale=True))


def leave(group_id: str, key: str, state: GroupRecords, notices: Notices) -> Ruling:
    """End what somebody who vanishes was in a group. Only the new lists tell of it."""
    group = state.group(group_id)
    if group is None:
        return KEEP
    had_admins, had_members = group.admins, group.members
    group = state.drop(group, key)
    if group.creator == key:
        group = state.put(replace(group, creator=""))
    if group.members != had_members and not group.is_deleted:
        notices.publish(group, MEMBERS, *([ADMINS] if group.admins != had_admins else []))
    return notices.ruling()


def retell(group: Group, state: GroupRecords, notices: Notices, now: int) -> tuple[Group, bool]:
    """Say some of what removed events said, as it is now; return the group, and whether that was all."""
    if CREATE_GROUP in group.untold:
        notices.repeat(group, CREATE_GROUP, (), now)
    if EDIT_METADATA in group.untold:
        group = replace(group, edited_at=max(now, group.edited_at + 1))
        notices.repeat(group, EDIT_METADATA, metadata_tags(group), group.edited_at)
    if UPDATE_PINS in group.untold:
        group = replace(group, pinned_at=max(now, group.pinned_at + 1))
        notices.repeat(group, UPDATE_PINS, group.pins, group.pinned_at)
    group = state.put(replace(group, untold=()))
    keys = state.untold(group.id, TOLD_AT_ONCE)
    for key in keys:
        group = _retell_standing(group, key, state, notices, now)
        state.note_told(group.id, key)
    return group, len(keys) < TOLD_AT_ONCE


def _retell_standing(group: Group, key: str, state: GroupRecords, notices: Notices, now: int) -> Group:
    # With a time of its own: whoever reads the history goes by that, here and where it is restored.
    if (member := state.member(group.id, key)) is not None:
        at = max(now, member.changed_at + 1)
        notices.put_user(group, key, member.roles, at)
        return state.put_member(group, key, replace(member, changed_at=at))
    if (former := state.former(group.id, key)) is not None:
        at = max(now, former.changed_at + 1)
        notices.remove_user(group, key, at)
        return state.remove_member(group, key, replace(former, changed_at=at))
    return group
