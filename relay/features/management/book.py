"""The records of the table, as a transaction reads and changes them.

member/KEY          {"roles": [...], "reason": ..., "since": unix seconds}
role/ID             {"label", "description", "color", "order", "event", "made_at"}
banned/KEY          the reason, as all that follow
banned-event/ID
allowed-event/ID    reports of it need nobody any more
report/ID REPORT    what a trusted report says of an event
allowed-kind/KIND   refused-kind/KIND
blocked/ADDRESS     as `counted_as` says
text/FIELD          a field of NIP-11's document
vanished/KEY        created_at of the key's latest request to vanish (NIP-62)
purge/KEY           a banned key of whom events may still be stored
claimed/NUMBER      {"times": ..., "ends_at": ...}: how often an invite was used
used/               [[id, until], ...]: the authorisations of calls (NIP-98) of the last minutes
list/               created_at of the latest list of members
stale/              there if the list of members is not the latest
size/PREFIX         how many records there are with this prefix
"""

from collections.abc import Callable
from typing import NamedTuple

import orjson

from relay.engine.desk import Desk
from relay.nostr.event import EventId
from relay.nostr.nip98 import WINDOW_SECONDS
from relay.nostr.reasons import Prefix, Refusal, Refused
from relay.store.api import Records

TABLE = "management"

MEMBER = "member/"
ROLE = "role/"
BANNED = "banned/"
BANNED_EVENT = "banned-event/"
ALLOWED_EVENT = "allowed-event/"
REPORT = "report/"
ALLOWED_KIND = "allowed-kind/"
REFUSED_KIND = "refused-kind/"
BLOCKED = "blocked/"
TEXT = "text/"
PURGE = "purge/"
VANISHED = "vanished/"
CLAIMED = "claimed/"
USED = "used/"
LIST = "list/"
STALE = "stale/"
_SIZE = "size/"

MAX_ENTRIES = 100_000
"""Of one sort: keys, events or addresses that are banned or blocked."""
MAX_ROLES = 100
MAX_REPORTS = 10_000
"""In the queue; those beyond are kept as events only."""
MAX_USED = 1_000
"""Calls within two minutes, of all administrators."""
_PAGE = 1_000


def membership(desk: Desk) -> Callable[[str], bool]:
    """Return what says whether a key is a member, by the records as they are; nobody, without a store."""

    def is_member(key: str) -> bool:
        return desk.is_open and desk.record(TABLE, MEMBER + key) is not None

    return is_member


class Unfit(Refused):
    """What was asked for cannot be done; the text is for who asked."""

    def __init__(self, text: str, prefix: Prefix = Prefix.INVALID) -> None:
        super().__init__(Refusal(prefix, text))


class Role(NamedTuple):
    """A role, as its event shows it; empty texts are not shown."""

    label: str
    description: str
    color: str
    """A hue of 0 to 360."""
    order: str
    event: str
    """The id of the event that defines it."""
    made_at: int
    """When that event was made, in unix seconds."""


class Book:
    """The records, typed."""

    def __init__(self, records: Records) -> None:
        self.records = records

    def has(self, prefix: str, name: str) -> bool:
        return self.records.get(prefix + name) is not None

    def add(self, prefix: str, name: str, value: str, *, most: int = MAX_ENTRIES) -> None:
        """Put a record that is counted. Raises Unfit where there are `most` already."""
        if not self.has(prefix, name):
            size = self.size(prefix)
            if size >= most:
                raise Unfit(f"there are {most} already", Prefix.RESTRICTED)
            self.records.put(_SIZE + prefix, b"%d" % (size + 1))
        self.records.put(prefix + name, value.encode())

    def drop(self, prefix: str, name: str) -> bool:
        """Delete a record that is counted; return whether it was there."""
        if not self.has(prefix, name):
            return False
        self.records.put(_SIZE + prefix, b"%d" % (self.size(prefix) - 1))
        self.records.delete(prefix + name)
        return True

    def size(self, prefix: str) -> int:
        """Return how many counted records there are."""
        return int(self.records.get(_SIZE + prefix) or 0)

    def all(self, prefix: str) -> dict[str, bytes]:
        """Return all records with this prefix by the rest of their keys, in order."""
        found: dict[str, bytes] = {}
        after = ""
        while page := self.records.within(prefix, after=after, limit=_PAGE):
            found.update((key[len(prefix) :], value) for key, value in page)
            after = page[-1][0]
        return found

    # Members and roles

    def roles_of(self, key: str) -> tuple[str, ...] | None:
        """Return a member's roles; None for who is no member."""
        value = self.records.get(MEMBER + key)
        return None if value is None else tuple(orjson.loads(value)["roles"])

    def members(self) -> dict[str, tuple[str, ...]]:
        """Return the roles of all members, by key in order."""
        return {key: tuple(orjson.loads(value)["roles"]) for key, value in self.all(MEMBER).items()}

    def put_roles(self, key: str, roles: tuple[str, ...]) -> None:
        """Change a member's roles."""
        member = orjson.loads(self.records.get(MEMBER + key) or b"{}")
        self.records.put(MEMBER + key, orjson.dumps({**member, "roles": roles}))

    def add_member(self, key: str, reason: str, now: int, *, most: int) -> None:
        """Add a member without roles. Raises Unfit where there are `most`."""
        member = {"roles": [], "reason": reason, "since": now}
        self.add(MEMBER, key, orjson.dumps(member).decode(), most=most)

    def vanished(self, key: str) -> int:
        """Return the second up to which a key has vanished; -1: it never has."""
        return int(self.records.get(VANISHED + key) or -1)

    def vanish(self, key: str, until: int) -> bool:
        """Note that a key vanishes; return whether it was a member, by what was decided before."""
        self.records.put(VANISHED + key, b"%d" % max(until, self.vanished(key)))
        value = self.records.get(MEMBER + key)
        if value is None or orjson.loads(value).get("since", 0) > until:
            return False
        return self.drop(MEMBER, key)

    def role(self, id_: str) -> Role | None:
        value = self.records.get(ROLE + id_)
        return None if value is None else Role(*orjson.loads(value))

    def put_role(self, id_: str, role: Role) -> None:
        self.add(ROLE, id_, orjson.dumps(tuple(role)).decode(), most=MAX_ROLES)

    # Invites and authorisations

    def claim(self, number: str, *, uses: int, ends_at: int) -> None:
        """Use an invite once. Raises Unfit where it was used as often as it may be."""
        value = self.records.get(CLAIMED + number)
        times = 0 if value is None else orjson.loads(value)["times"]
        if times >= uses:
            raise Unfit("that invite code was used already.", Prefix.RESTRICTED)
        self.records.put(CLAIMED + number, orjson.dumps({"times": times + 1, "ends_at": ends_at}))

    def use(self, id_: EventId, now: int) -> None:
        """Remember the authorisation of a call. Raises Unfit where it was used, or there were too many."""
        known = [one for one in orjson.loads(self.records.get(USED) or b"[]") if one[1] >= now]
        if any(one[0] == id_ for one in known):
            raise Unfit("this authorization was used already; sign a new one")
        if len(known) >= MAX_USED:
            raise Unfit("too many calls; try again in a minute", Prefix.RATE_LIMITED)
        # It may have been made a whole window ahead of our clock.
        known.append([id_, now + 2 * WINDOW_SECONDS])
        self.records.put(USED, orjson.dumps(known))
