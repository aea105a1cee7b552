"""NIP-43: the relay's members, their roles, and how to join by an invite and to leave.

Whoever may invite is given a new code each time they ask for kind 28935. Members, roles and the use of
invites are records of the table of `relay.features.management`; the relay says what it decides by events
of its own key. Administrators add members and give roles by NIP-86.
"""

import secrets
from dataclasses import replace
from functools import partial

from relay.config import RelayConfig
from relay.engine.feature import (
    Context,
    Feature,
    Follower,
    Gate,
    Job,
    OfKinds,
    Origin,
    Request,
    Rule,
)
from relay.features.management import book, commands
from relay.features.management.book import Book
from relay.features.management.callers import Staff
from relay.features.management.invites import NUMBER_BYTES, Invite, encode_invite
from relay.features.management.memory import Memory
from relay.features.management.notices import INVITE, JOIN, LEAVE, NAMING, invitation, listed
from relay.features.statements import owned_by_named
from relay.nostr import kinds
from relay.nostr.event import Event, PubKey
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.nostr.tags import first_value
from relay.store.api import KEEP, Records, Ruling, Table, Write

MAX_CLOCK_SKEW_SECONDS = 600
""""The event's created_at MUST be now, plus or minus a few minutes"."""
LIST_SECONDS = 2.0
"""How late the list of many members may be."""
TIDY_SECONDS = 3_600.0
VANISHING = "members-vanishing"
_NOT_MEMBERS = frozenset({JOIN, LEAVE, kinds.VANISH})
"""Kinds that are taken from anybody."""


def feature(config: RelayConfig, context: Context) -> Feature:
    members = config.members
    if not members.enabled:
        return Feature(title="Members")
    memory = Memory()
    desk = context.desk
    staff = Staff.of(config, context.key.public)
    inviting = Inviting(staff, memory, context, uses=members.invite_uses, seconds=members.invite_seconds)

    async def publish_list(now: int) -> None:
        if memory.is_list_stale:
            await desk.command(book.TABLE, commands.publish())

    async def tidy(now: int) -> None:
        await desk.command(book.TABLE, commands.tidy())

    return Feature(
        title="Members",
        nip=43,
        after_signature=(
            OfKinds(frozenset({JOIN, LEAVE}).__contains__, refuse_old_request),
            *((for_members(staff, memory),) if members.write else ()),
        ),
        gates=(inviting.gate,),
        followers=(Follower(book.TABLE, memory.changed),),
        requests={JOIN: joining(context), LEAVE: leaving(context)},
        conjured={INVITE: inviting.invite},
        effects=(
            OfKinds(kinds.VANISH.__eq__, name_table),
            OfKinds(NAMING.__contains__, partial(name_owners, signer=context.key)),
        ),
        tables=(Table(VANISHING, partial(forget_who_vanishes, signer=context.key), of=book.TABLE),),
        jobs=(
            Job("list the members", LIST_SECONDS, publish_list),
            Job("forget invites that have ended", TIDY_SECONDS, tidy),
        ),
        limitation={"restricted_writes": True} if members.write else {},
    )


def name_table(write: Write) -> Write:
    """Let the table hear of a request to vanish."""
    return replace(write, tables=(*write.tables, VANISHING))


def name_owners(write: Write, *, signer: SecretKey) -> Write:
    """Let what the relay said of a member, and an import brings back, go when that member vanishes."""
    return owned_by_named(write) if write.event.pubkey == signer.public else write


def forget_who_vanishes(event: Event, records: Records, now: int, *, signer: SecretKey) -> Ruling:
    """End the membership of who vanishes (NIP-62), roles and all; its invites end too, see `Commands`.

    Only the new list tells of it: an event that says who has left would name them for ever.
    """
    known = Book(records)
    return Ruling(also=listed(known, signer, now)) if known.vanish(event.pubkey, event.created_at) else KEEP


def refuse_old_request(event: Event, origin: Origin, now: int) -> Refusal | None:
    """Refuse requests that are not protected (NIP-70) or not of now: others could send them again."""
    if abs(event.created_at - now) > MAX_CLOCK_SKEW_SECONDS:
        return invalid(f"created_at is more than {MAX_CLOCK_SKEW_SECONDS} seconds off")
    if not any(tag[:1] == ("-",) for tag in event.tags):
        return invalid('joining and leaving take a "-" tag')
    return None


def for_members(staff: Staff, memory: Memory) -> OfKinds[Rule]:
    """Return the rule that takes events of members and administrators only, or by them."""

    def refuse_others(event: Event, origin: Origin, now: int) -> Refusal | None:
        if origin.exempt:
            return None
        # Who wraps messages signs with a key of the moment: then it counts who sends.
        for key in (event.pubkey, *origin.authenticated):
            if key in memory.members or key in staff.admins or key == staff.relay:
                return None
        if not origin.authenticated:
            return Refusal(Prefix.AUTH_REQUIRED, "only members publish here")
        return Refusal(Prefix.RESTRICTED, "only members publish here")

    return OfKinds(lambda kind: kind not in _NOT_MEMBERS, refuse_others)


def joining(context: Context) -> Request:
    """Return what answers requests to join."""

    async def join(event: Event, origin: Origin, now: int) -> tuple[bool, str]:
        claim = first_value(event.tags, "claim")
        if claim is None:
            return False, str(invalid("a request to join takes a claim tag with an invite code"))
        return _said(await context.desk.command(book.TABLE, commands.join(event.pubkey, claim)))

    return join


def leaving(context: Context) -> Request:
    """Return what answers requests to leave."""

    async def leave(event: Event, origin: Origin, now: int) -> tuple[bool, str]:
        return _said(await context.desk.command(book.TABLE, commands.leave(event.pubkey)))

    return leave


def _said(answer: bytes | Refusal) -> tuple[bool, str]:
    return (False, str(answer)) if isinstance(answer, Refusal) else (True, answer.decode())


class Inviting:
    """Makes invites for who may have them."""

    def __init__(self, staff: Staff, memory: Memory, context: Context, *, uses: int, seconds: int) -> None:
        self._staff = staff
        self._memory = memory
        self._key = context.key
        self._uses = uses
        self._seconds = seconds

    @property
    def gate(self) -> Gate:
        """The gate that tells who asks for nothing but an invite, and gets none, why."""

        def refuse(wanted: Filter, origin: Origin) -> Filter | Refusal:
            if wanted.kinds != frozenset({INVITE}) or self._inviter(origin) is not None:
                return wanted
            prefix = Prefix.RESTRICTED if origin.authenticated else Prefix.AUTH_REQUIRED
            return Refusal(prefix, "only some may invite others here")

        return refuse

    async def invite(self, origin: Origin, now: int) -> list[Event]:
        """Return a new invite for one of the keys that the reader proved; nothing, where none may invite."""
        by = self._inviter(origin)
        if by is None:
            return []
        number = secrets.token_bytes(NUMBER_BYTES)
        code = encode_invite(Invite(now, now + self._seconds, self._uses, by, number), self._key)
        return [invitation(code, self._key, now)]

    def _inviter(self, origin: Origin) -> PubKey | None:
        keys = sorted(key for key in origin.authenticated if key not in self._memory.banned)
        return next((key for key in keys if self._staff.may_invite(key, self._memory.members.get)), None)
