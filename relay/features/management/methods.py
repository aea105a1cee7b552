"""The methods of NIP-86 that change something, as the table carries them out.

Each takes the parameters of a call as they came, and raises Unfit where they make no sense.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit

from relay.engine.limits import counted_as
from relay.features.management import book as records
from relay.features.management.book import Book, Role, Unfit
from relay.features.management.callers import Staff, Standing
from relay.features.management.notices import added, defined, listed, removed
from relay.nostr.event import EventId
from relay.nostr.keys import SecretKey
from relay.nostr.kinds import MAX_KIND
from relay.nostr.reasons import Prefix
from relay.nostr.tags import HEX_64
from relay.store.api import Ruling, Write

MAX_REASON_CHARS = 1_000
MAX_ROLE_ID_CHARS = 64
MAX_ROLES_OF_ONE = 20
_MAX_CHARS = {"name": 30, "description": 2_000, "icon": 2_000}
"""Of the relay's texts; its name as NIP-11 wants it."""
KEEP_EVENTS = "keep"
"""The third parameter of banpubkey that leaves what the key has published."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call, inside the write transaction."""

    book: Book
    params: Sequence[object]
    caller: str
    staff: Staff
    signer: SecretKey
    """The relay's own key."""
    max_members: int
    now: int
    """Unix seconds."""

    def text(self, place: int, what: str, *, most: int, default: str | None = None) -> str:
        """Return a parameter that is a text. Raises Unfit."""
        value = self.params[place] if place < len(self.params) else None
        if value is None and default is not None:
            return default
        if type(value) is not str or len(value) > most:
            raise Unfit(f"expected {what} of at most {most} characters as parameter {place + 1}")
        return value

    def hex(self, what: str) -> str:
        """Return the first parameter, 32 bytes as lowercase hex. Raises Unfit."""
        value = self.params[0] if self.params else None
        if type(value) is not str or not HEX_64(value):
            raise Unfit(f"expected {what} of 64 lowercase hex digits as parameter 1")
        return value

    def reason(self) -> str:
        """Return the second parameter, which may be left out. Raises Unfit."""
        return self.text(1, "a reason", most=MAX_REASON_CHARS, default="")

    def kind(self) -> int:
        """Return the first parameter, a kind. Raises Unfit."""
        value = self.params[0] if self.params else None
        if type(value) is not int or not 0 <= value <= MAX_KIND:
            raise Unfit(f"expected a kind from 0 to {MAX_KIND} as parameter 1")
        return value


Method = Callable[[Call], Ruling]
_DONE = Ruling()


def ban_pubkey(call: Call) -> Ruling:
    """Take nothing more of a key, which is no member any more, and remove what it has published."""
    key = call.hex("a public key")
    reason = call.reason()
    mode = call.text(2, f'"{KEEP_EVENTS}"', most=len(KEEP_EVENTS), default="")
    if mode not in ("", KEEP_EVENTS):
        raise Unfit(f'expected "{KEEP_EVENTS}" or nothing as parameter 3')
    if key == call.staff.relay:
        raise Unfit("this is the relay's own key")
    if call.staff.standing(key, ()) is not Standing.NOBODY:
        raise Unfit("this key administers or moderates the relay by its settings; take it out of them first")
    standing = call.staff.standing(call.caller, call.book.roles_of(call.caller) or ())
    roles = call.book.roles_of(key) or ()
    if standing is not Standing.ADMINISTRATOR and call.staff.standing(key, roles) is not Standing.NOBODY:
        raise Unfit("only an administrator bans a moderator", Prefix.RESTRICTED)
    call.book.add(records.BANNED, key, reason)
    if mode != KEEP_EVENTS:
        call.book.records.put(records.PURGE + key, b"")
    return _remove_member(call, key)


def unban_pubkey(call: Call) -> Ruling:
    key = call.hex("a public key")
    if not call.book.drop(records.BANNED, key):
        raise Unfit("this key is not banned")
    call.book.records.delete(records.PURGE + key)
    return _DONE


def allow_pubkey(call: Call) -> Ruling:
    """Make a key a member. "Should automatically remove the pubkey from the ban list" (NIP-86)."""
    key = call.hex("a public key")
    reason = call.reason()
    if call.book.drop(records.BANNED, key):
        call.book.records.delete(records.PURGE + key)
    if call.book.roles_of(key) is not None:
        return _DONE
    return add_member(call.book, key, call.signer, call.now, reason=reason, most=call.max_members)


def add_member(book: Book, key: str, signer: SecretKey, now: int, *, reason: str, most: int) -> Ruling:
    """Make somebody a member who is none, and say so. Raises Unfit where there are `most`."""
    book.add_member(key, reason, now, most=most)
    return Ruling(also=(added(key, signer, now), *listed(book, signer, now)))


def unallow_pubkey(call: Call) -> Ruling:
    """Make a member none any more, roles and all."""
    key = call.hex("a public key")
    call.reason()
    if call.book.roles_of(key) is None:
        raise Unfit("this key is not a member's")
    return _remove_member(call, key)


def _remove_member(call: Call, key: str) -> Ruling:
    return Ruling(also=remove_member(call.book, key, call.signer, call.now))


def remove_member(book: Book, key: str, signer: SecretKey, now: int) -> tuple[Write, ...]:
    """Make somebody no member, and return what says so; nothing where it was none."""
    if not book.drop(records.MEMBER, key):
        return ()
    return (removed(key, signer, now), *listed(book, signer, now))


# Roles


def create_role(call: Call) -> Ruling:
    id_ = _role_id(call, 0)
    if call.book.role(id_) is not None:
        raise Unfit("there is a role with this id")
    return Ruling(also=(defined(call.book, id_, _role(call), call.signer, call.now),))


def edit_role(call: Call) -> Ruling:
    id_ = _known_role(call, 0)
    return Ruling(also=(defined(call.book, id_, _role(call), call.signer, call.now),))


def delete_role(call: Call) -> Ruling:
    """Delete a role, and take it from all who have it."""
    id_ = _known_role(call, 0)
    role = call.book.role(id_)
    call.book.drop(records.ROLE, id_)
    changed = False
    for key, roles in call.book.members().items():
        if id_ in roles:
            call.book.put_roles(key, tuple(one for one in roles if one != id_))
            changed = True
    also = listed(call.book, call.signer, call.now) if changed else ()
    return Ruling(also=also, removals=() if role is None else (EventId(role.event),))


def assign_role(call: Call) -> Ruling:
    key, roles = _member(call)
    id_ = _known_role(call, 1)
    if id_ in roles:
        return _DONE
    if len(roles) >= MAX_ROLES_OF_ONE:
        raise Unfit(f"a member has at most {MAX_ROLES_OF_ONE} roles")
    call.book.put_roles(key, (*roles, id_))
    return Ruling(also=listed(call.book, call.signer, call.now))


def unassign_role(call: Call) -> Ruling:
    key, roles = _member(call)
    id_ = _known_role(call, 1)
    if id_ not in roles:
        raise Unfit("this member does not have this role")
    call.book.put_roles(key, tuple(one for one in roles if one != id_))
    return Ruling(also=listed(call.book, call.signer, call.now))


def _member(call: Call) -> tuple[str, tuple[str, ...]]:
    key = call.hex("a public key")
    roles = call.book.roles_of(key)
    if roles is None:
        raise Unfit("this key is not a member's; allow it first")
    return key, roles


def _role_id(call: Call, place: int) -> str:
    id_ = call.text(place, "the id of a role", most=MAX_ROLE_ID_CHARS)
    if not id_ or not id_.isprintable():
        raise Unfit("the id of a role is not empty and printable")
    return id_


def _known_role(call: Call, place: int) -> str:
    id_ = _role_id(call, place)
    if call.book.role(id_) is None:
        raise Unfit("there is no role with this id")
    return id_


def _role(call: Call) -> Role:
    color = _number(call, 3, "a hue from 0 to 360")
    if color and not 0 <= int(color) <= 360:
        raise Unfit("expected a hue from 0 to 360 as parameter 4")
    return Role(
        label=call.text(1, "a label", most=100, default=""),
        description=call.text(2, "a description", most=MAX_REASON_CHARS, default=""),
        color=color,
        order=_number(call, 4, "an order"),
        event="",
        made_at=0,
    )


def _number(call: Call, place: int, what: str) -> str:
    """Return a whole number, written as one or as a text; empty where it is left out."""
    value = call.params[place] if place < len(call.params) else None
    if value is None or value == "":
        return ""
    if type(value) is int and abs(value) < 10**9:
        return str(value)
    if type(value) is str and value.isascii() and value.removeprefix("-").isdigit() and len(value) < 10:
        return str(int(value))
    raise Unfit(f"expected {what} as parameter {place + 1}")


# Events and kinds


def allow_event(call: Call) -> Ruling:
    """Let an event be: it is not banned any more, and no report of it needs anybody."""
    id_ = call.hex("an event's id")
    reason = call.reason()
    call.book.drop(records.BANNED_EVENT, id_)
    drop_reports(call.book, id_)
    call.book.add(records.ALLOWED_EVENT, id_, reason)
    return _DONE


def ban_event(call: Call) -> Ruling:
    """Remove an event, and never take it again."""
    id_ = call.hex("an event's id")
    reason = call.reason()
    call.book.drop(records.ALLOWED_EVENT, id_)
    drop_reports(call.book, id_)
    call.book.add(records.BANNED_EVENT, id_, reason)
    return Ruling(removals=(EventId(id_),))


def unallow_event(call: Call) -> Ruling:
    """Forget that an event was let be: reports of it are looked at again."""
    id_ = call.hex("an event's id")
    call.reason()
    if not call.book.drop(records.ALLOWED_EVENT, id_):
        raise Unfit("this event is not on the list of allowed ones")
    return _DONE


def unban_event(call: Call) -> Ruling:
    """Take an event again, should somebody send it; nothing brings it back by itself."""
    id_ = call.hex("an event's id")
    call.reason()
    if not call.book.drop(records.BANNED_EVENT, id_):
        raise Unfit("this event is not banned")
    return _DONE


def drop_reports(book: Book, id_: str) -> None:
    """Take an event from the queue."""
    for report in book.all(f"{records.REPORT}{id_} "):
        book.drop(records.REPORT, f"{id_} {report}")


def allow_kind(call: Call) -> Ruling:
    """Take back that a kind is refused; one that is not joins the list, and only its kinds are taken."""
    kind = str(call.kind())
    if not call.book.drop(records.REFUSED_KIND, kind):
        call.book.add(records.ALLOWED_KIND, kind, "")
    return _DONE


def disallow_kind(call: Call) -> Ruling:
    kind = str(call.kind())
    call.book.drop(records.ALLOWED_KIND, kind)
    call.book.add(records.REFUSED_KIND, kind, "")
    return _DONE


# Addresses


def block_ip(call: Call) -> Ruling:
    call.book.add(records.BLOCKED, _address(call), call.reason())
    return _DONE


def unblock_ip(call: Call) -> Ruling:
    if not call.book.drop(records.BLOCKED, _address(call)):
        raise Unfit("this address is not blocked")
    return _DONE


def _address(call: Call) -> str:
    """Return what the address is counted as; an IPv6 network may also be named as the list shows it."""
    text = call.text(0, "an IP address", most=60)
    try:
        network = ip_network(text, strict=False)
        if "/" in text and network.version == 6 and network.prefixlen == 64:
            return str(network)
        return counted_as(str(ip_address(text)))
    except ValueError:
        raise Unfit("expected an IP address as parameter 1") from None


# The relay's texts


def change_name(call: Call) -> Ruling:
    return _change_text(call, "name")


def change_description(call: Call) -> Ruling:
    return _change_text(call, "description")


def change_icon(call: Call) -> Ruling:
    text = call.text(0, "a URL", most=_MAX_CHARS["icon"])
    try:
        where = urlsplit(text)
    except ValueError:
        raise Unfit("expected a URL as parameter 1") from None
    if text and (where.scheme not in ("http", "https") or not where.netloc):
        raise Unfit("expected a URL that begins with https:// as parameter 1")
    return _change_text(call, "icon")


def _change_text(call: Call, field: str) -> Ruling:
    text = call.text(0, f"a {field}", most=_MAX_CHARS[field])
    call.book.records.put(records.TEXT + field, text.encode())
    return _DONE


MODERATION: Mapping[str, Method] = {
    "banpubkey": ban_pubkey,
    "unbanpubkey": unban_pubkey,
    "allowevent": allow_event,
    "unallowevent": unallow_event,
    "banevent": ban_event,
    "unbanevent": unban_event,
}
MEMBERSHIP: Mapping[str, Method] = {
    "allowpubkey": allow_pubkey,
    "unallowpubkey": unallow_pubkey,
    "createrole": create_role,
    "editrole": edit_role,
    "deleterole": delete_role,
    "assignrole": assign_role,
    "unassignrole": unassign_role,
}
ADMINISTRATION: Mapping[str, Method] = {
    "changerelayname": change_name,
    "changerelaydescription": change_description,
    "changerelayicon": change_icon,
    "allowkind": allow_kind,
    "disallowkind": disallow_kind,
    "blockip": block_ip,
    "unblockip": unblock_ip,
}
CHANGES: Mapping[str, Method] = {**MODERATION, **MEMBERSHIP, **ADMINISTRATION}

MODERATORS_LISTS = frozenset(
    {"listbannedpubkeys", "listeventsneedingmoderation", "listbannedevents", "listallowedevents"}
)
MEMBERSHIP_LISTS = frozenset({"listallowedpubkeys"})
LISTS = MODERATORS_LISTS | MEMBERSHIP_LISTS | {"listallowedkinds", "listdisallowedkinds", "listblockedips"}


SUPPORTED_METHODS = "supportedmethods"
"""What whoever may call anything may call."""


def methods_for(standing: Standing, *, has_members: bool) -> frozenset[str]:
    """Return the methods that somebody may call, other than `supportedmethods`."""
    if standing is Standing.NOBODY:
        return frozenset()
    allowed = frozenset(MODERATION) | MODERATORS_LISTS
    if standing is Standing.ADMINISTRATOR:
        allowed = frozenset(CHANGES) | LISTS
    return allowed if has_members else allowed - frozenset(MEMBERSHIP) - MEMBERSHIP_LISTS
