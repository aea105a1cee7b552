"""Which events are part of a group: for `previous` references, and to delete only the group's own.

Records of the table `timeline`: `e` the events whose ids begin with 8 digits, `x` those that were deleted.
"""

import re
from collections.abc import Iterator

from relay.features.groups.state import is_good_id
from relay.features.groups.vocabulary import DELETE_EVENT, MANAGEMENT
from relay.nostr.event import Event, EventId
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.nostr.tags import HEX_64, values
from relay.store.api import KEEP, Records, Ruling, Table

TABLE = "timeline"

_REFERENCE = re.compile(r"[0-9a-f]{8}").fullmatch
_MOST_REFERENCES = 100

_DELETED = Refusal(Prefix.BLOCKED, "this event was deleted from its group")


def judge(event: Event, records: Records, now: int) -> Ruling | Refusal:
    """Keep an event that refers to known events only; remove those that a kind 9005 names.

    Who may delete was decided before, by the table of groups.
    """
    for group in _groups(event):
        if records.get(f"x\n{group}\n{event.id}") is not None:
            return _DELETED
        refusal = _refuse_unknown_references(event, group, records)
        if refusal is not None:
            return refusal
    removals: tuple[EventId, ...] = ()
    if event.kind == DELETE_EVENT:
        struck = _strike(event, records)
        if isinstance(struck, Refusal):
            return struck
        removals = struck
    _note(event, records)
    return Ruling(removals=removals) if removals else KEEP


def restore(event: Event, records: Records, now: int) -> Ruling | Refusal:
    """Take an imported event as it is, but for what was deleted: here, or by another one that is imported.

    The table of groups has refused those that are to change a group that lives here.
    """
    for group in _groups(event):
        if records.get(f"x\n{group}\n{event.id}") is not None:
            return _DELETED
    removals: tuple[EventId, ...] = ()
    if event.kind == DELETE_EVENT and (named := next(_groups(event), None)) is not None:
        removals = _strike_restored(event, named, records)
    _note(event, records)
    return Ruling(removals=removals) if removals else KEEP


def forget(event: Event, records: Records) -> None:
    """Forget an event that was removed."""
    for group in _groups(event):
        key = _key(group, event.id[:8])
        left = [entry for entry in _entries(records, key) if entry[0] != event.id]
        if left:
            records.put(key, b"".join(_packed(id_, kind) for id_, kind in left))
        else:
            records.delete(key)


def clear(payload: bytes, records: Records, now: int) -> Ruling | Refusal:
    """Remove the events with these ids, joined by spaces: of a group that was deleted."""
    return Ruling(removals=tuple(map(EventId, payload.decode().split())))


TABLES = (
    Table(TABLE, judge, forget=forget, command=clear),
    Table("timeline-restored", restore, forget=forget, of=TABLE),
)


def _groups(event: Event) -> Iterator[str]:
    return filter(is_good_id, dict.fromkeys(values(event.tags, "h")))


def _key(group: str, digits: str) -> str:
    return f"e\n{group}\n{digits}"


def _packed(id_: str, kind: int) -> bytes:
    return bytes.fromhex(id_) + kind.to_bytes(2, "big")


def _entries(records: Records, key: str) -> list[tuple[EventId, int]]:
    """Return the (id, kind) of the events under a key: nearly always one."""
    record = records.get(key) or b""
    return [
        (EventId(record[at : at + 32].hex()), int.from_bytes(record[at + 32 : at + 34], "big"))
        for at in range(0, len(record), 34)
    ]


def _note(event: Event, records: Records) -> None:
    for group in _groups(event):
        key = _key(group, event.id[:8])
        records.put(key, (records.get(key) or b"") + _packed(event.id, event.kind))


def _refuse_unknown_references(event: Event, group: str, records: Records) -> Refusal | None:
    references = [value for tag in event.tags if tag and tag[0] == "previous" for value in tag[1:]]
    if len(references) > _MOST_REFERENCES:
        return invalid(f"at most {_MOST_REFERENCES} events may be referred to as previous ones")
    for reference in references:
        if not _REFERENCE(reference):
            return invalid("a previous tag holds the first 8 hex digits of events' ids")
        # "Relays are expected to reject any events that contain timeline references to events not found
        # in their own database."
        if records.get(_key(group, reference)) is None:
            return invalid(f"the previous event {reference} is not in this group")
    return None


def _strike(event: Event, records: Records) -> tuple[EventId, ...] | Refusal:
    """Return the events that a kind 9005 deletes, marked so that they do not come again."""
    group = next(_groups(event))
    struck: list[EventId] = []
    for id_ in dict.fromkeys(values(event.tags, "e")):
        if not HEX_64(id_):
            return invalid("an e tag holds an event id of 64 hex digits")
        kinds = [kind for known, kind in _entries(records, _key(group, id_[:8])) if known == id_]
        if not kinds:
            continue
        if kinds[0] in MANAGEMENT:
            return Refusal(Prefix.BLOCKED, "what changed the group stays in its history")
        records.put(f"x\n{group}\n{id_}", b"")
        struck.append(EventId(id_))
    if not struck:
        return invalid("none of these events is in this group")
    return tuple(struck)


def _strike_restored(event: Event, group: str, records: Records) -> tuple[EventId, ...]:
    """Mark what an imported kind 9005 deletes, also what comes after it; return what is there."""
    struck: list[EventId] = []
    for id_ in filter(HEX_64, dict.fromkeys(values(event.tags, "e"))):
        known = dict(_entries(records, _key(group, id_[:8])))
        kind = known.get(EventId(id_))
        if kind not in MANAGEMENT:
            records.put(f"x\n{group}\n{id_}", b"")
        if kind is not None and kind not in MANAGEMENT:
            struck.append(EventId(id_))
    return tuple(struck)
