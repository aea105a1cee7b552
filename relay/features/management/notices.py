"""What the relay says of its members and roles, signed by its own key (NIP-43)."""

from relay.features.management.book import LIST, MEMBER, STALE, Book, Role
from relay.features.statements import owned_by_named
from relay.nostr import kinds
from relay.nostr.event import Event, encode, sign
from relay.nostr.keys import SecretKey
from relay.nostr.tags import Tag
from relay.store.api import Write

MEMBER_ADDED = 8_000
MEMBER_REMOVED = 8_001
MEMBERS = 13_534
JOIN = kinds.JOIN_REQUEST
INVITE = 28_935
LEAVE = kinds.LEAVE_REQUEST
ROLE_DEFINITION = 33_534
NAMING = frozenset({MEMBER_ADDED, MEMBER_REMOVED})
"""Of which each is about one member."""

PROTECTED: Tag = ("-",)
LISTED_AT_ONCE = 1_000
"""With more members than these the list follows within seconds: making it takes milliseconds."""
MAX_LEAD_SECONDS = 30
"""How far the list's created_at may run ahead of the clock when members come and go every second."""


def added(key: str, signer: SecretKey, now: int) -> Write:
    """Return the event that says that a member was added."""
    return _said_of(key, MEMBER_ADDED, signer, now)


def removed(key: str, signer: SecretKey, now: int) -> Write:
    """Return the event that says that a member was removed."""
    return _said_of(key, MEMBER_REMOVED, signer, now)


def _said_of(key: str, kind: int, signer: SecretKey, now: int) -> Write:
    return owned_by_named(_kept(sign(signer, created_at=now, kind=kind, tags=(PROTECTED, ("p", key)))))


def listed(book: Book, signer: SecretKey, now: int, *, at_once: bool = False) -> tuple[Write, ...]:
    """Return the list of members as it is now; nothing, where it is to follow later.

    `at_once` says that this is later.
    """
    created_at = max(now, int(book.records.get(LIST) or 0) + 1)
    if not at_once and (created_at > now + MAX_LEAD_SECONDS or book.size(MEMBER) > LISTED_AT_ONCE):
        book.records.put(STALE, b"")
        return ()
    book.records.put(LIST, b"%d" % created_at)
    book.records.delete(STALE)
    tags = (PROTECTED, *(("member", key, *roles) for key, roles in book.members().items()))
    return (_kept(sign(signer, created_at=created_at, kind=MEMBERS, tags=tags)),)


def defined(book: Book, id_: str, role: Role, signer: SecretKey, now: int) -> Write:
    """Put a role, and return the event that defines it."""
    earlier = book.role(id_)
    created_at = now if earlier is None else max(now, earlier.made_at + 1)
    shown = zip(("label", "description", "color", "order"), role[:4], strict=True)
    tags = (PROTECTED, ("d", id_), *((name, text) for name, text in shown if text))
    event = sign(signer, created_at=created_at, kind=ROLE_DEFINITION, tags=tags)
    book.put_role(id_, role._replace(event=event.id, made_at=created_at))
    return _kept(event)


def invitation(code: str, signer: SecretKey, now: int) -> Event:
    """Return the event that gives an invite to who asked for one."""
    return sign(signer, created_at=now, kind=INVITE, tags=(PROTECTED, ("claim", code)))


def _kept(event: Event) -> Write:
    return Write(event, encode(event), address=event.address)
