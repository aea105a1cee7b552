"""NIP-29: groups that the relay keeps, with members, roles, invites, private reading and subgroups.

What is decided is decided in the write transaction, by two tables: `groups` says who may do what,
`timeline` knows the events of each group. What may be shown is decided by each process, from memory.
"""

import asyncio
from dataclasses import replace
from functools import partial

from relay.config import RelayConfig
from relay.engine.feature import (
    Context,
    Feature,
    Follower,
    Job,
    OfKinds,
    Origin,
    Rule,
    VeilRule,
)
from relay.engine.limits import Rate, Spend, counted_as
from relay.features.groups import state, timeline, vanishing
from relay.features.groups.history import Restoring, catch_up
from relay.features.groups.memory import Memory
from relay.features.groups.rulings import Judge, Rules
from relay.features.groups.state import GroupRecords
from relay.features.groups.vocabulary import (
    CREATE_GROUP,
    CREATE_INVITE,
    DELETE_GROUP,
    MANAGEMENT,
    NOTICES,
    PUT_USER,
    REMOVE_USER,
)
from relay.features.statements import owned_by_named
from relay.nostr import kinds
from relay.nostr.event import Event, decode
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.kinds import Retention, retention
from relay.nostr.reasons import Prefix, Refusal
from relay.nostr.tags import values
from relay.store.api import Records, Ruling, Table, Write

CATCH_UP_SECONDS = 5.0
"""How late the list of a large group's members may be, and what an import says of a group."""
_REMOVED_AT_ONCE = 500
_CALLS_AT_ONCE = 20
_LOOKED_AT_ONCE = 200
"""Groups in which one key is looked for in one turn: about 2 ms."""
_STANDINGS = (state.member_key, state.former_key)
_SAID_OF_PEOPLE = frozenset({PUT_USER, REMOVE_USER})
_OF_GROUPS = MANAGEMENT | NOTICES


def feature(config: RelayConfig, context: Context) -> Feature:
    groups = config.groups
    if not groups.enabled:
        return Feature(title="Groups")
    rules = Rules(
        key=context.key,
        operators=frozenset(config.admins),
        anybody_creates=groups.anybody_creates,
        max_created=groups.max_created,
        max_members=groups.max_members,
    )
    rate = Rate(groups.created_per_minute)
    memory = Memory(lambda key: context.desk.record(state.TABLE, key))

    def publish(payload: bytes, records: Records, now: int) -> Ruling | Refusal:
        return catch_up(payload, context.key, GroupRecords(records), now)

    return Feature(
        title="Groups",
        nip=29,
        before_signature=(refuse_late(memory, groups.max_age_seconds),),
        after_signature=(
            *((limit_creation(rate, context.spend),) if rate.most else ()),
            OfKinds(_is_ephemeral, refuse_unwanted(memory)),
        ),
        effects=(
            OfKinds(_OF_GROUPS.__contains__, name_tables),
            OfKinds(_SAID_OF_PEOPLE.__contains__, partial(name_owners, signer=context.key)),
            OfKinds(kinds.VANISH.__eq__, name_table_of_vanishing),
            OfKinds(_is_spoken, name_tables_of_spoken),
        ),
        tables=(
            Table(state.TABLE, Judge(rules).judge, forget=vanishing.forget, command=publish, followed=True),
            Table("groups-restored", Restoring(context.key).judge, forget=vanishing.forget, of=state.TABLE),
            Table(vanishing.TABLE, vanishing.judge, of=state.TABLE),
            *timeline.TABLES,
        ),
        followers=(Follower(state.TABLE, memory.changed),),
        veils=(
            VeilRule(
                frozenset(),
                lambda event, origin: memory.shows(event, origin.authenticated),
                is_personal=False,
                tags=lambda: {"h": memory.secret},
            ),
            VeilRule(
                lambda: memory.hidden_notices,
                lambda event, origin: memory.shows_notice(event, origin.authenticated),
                is_personal=False,
            ),
            VeilRule(
                frozenset({CREATE_INVITE}),
                lambda event, origin: memory.shows_invite(event, origin.authenticated),
            ),
        ),
        jobs=(Job("catch up with groups", CATCH_UP_SECONDS, CatchingUp(memory, context).run),),
        information={"nip29": {"subgroups": True}},
    )


def _is_spoken(kind: int) -> bool:
    # A request to vanish is for the relay, whatever it names besides: no group refuses it.
    return kind not in _OF_GROUPS and kind != kinds.VANISH


def _is_ephemeral(kind: int) -> bool:
    return retention(kind) is Retention.EPHEMERAL


def name_tables(write: Write) -> Write:
    """Let the tables of groups judge what concerns a group itself."""
    names = ("groups", "timeline") if write.live else ("groups-restored", "timeline-restored")
    return replace(write, tables=(*write.tables, *names))


def name_owners(write: Write, *, signer: SecretKey) -> Write:
    """Let what the relay said of people, and an import brings back, go when they vanish."""
    return owned_by_named(write) if write.event.pubkey == signer.public else write


def name_table_of_vanishing(write: Write) -> Write:
    """Let the groups hear of a request to vanish."""
    return replace(write, tables=(*write.tables, vanishing.TABLE))


def name_tables_of_spoken(write: Write) -> Write:
    """Let the tables of groups judge what is sent to a group."""
    # Every event comes by here: 0.1 µs for each of its tags.
    for tag in write.event.tags:
        if len(tag) > 1 and tag[0] == "h":
            return name_tables(write)
    return write


def refuse_late(memory: Memory, max_age_seconds: int) -> Rule:
    """Return the rule that refuses events sent to a group long after they were made."""

    def refuse_late_publication(event: Event, origin: Origin, now: int) -> Refusal | None:
        if event.created_at >= now - max_age_seconds or origin.exempt:
            return None
        if any(memory.lives(id_) for id_ in values(event.tags, "h")):
            text = f"events for a group are taken for {max_age_seconds} seconds after they were made"
            return Refusal(Prefix.INVALID, text)
        return None

    return refuse_late_publication


def limit_creation(rate: Rate, spend: Spend) -> OfKinds[Rule]:
    """Return the rule that bounds how many groups one address creates in a minute."""

    def refuse_too_many_groups(event: Event, origin: Origin, now: int) -> Refusal | None:
        if origin.exempt or spend(f"groups {counted_as(origin.address)}", rate):
            return None
        return Refusal(Prefix.RATE_LIMITED, f"at most {rate.most} new groups a minute from one address")

    return OfKinds(CREATE_GROUP.__eq__, refuse_too_many_groups)


def refuse_unwanted(memory: Memory) -> Rule:
    """Return the rule for ephemeral events, which no table judges: groups take what they take of others."""

    def refuse_ephemeral(event: Event, origin: Origin, now: int) -> Refusal | None:
        if memory.takes(event):
            return None
        return Refusal(Prefix.RESTRICTED, "this group does not take this event from you")

    return refuse_ephemeral


class CatchingUp:
    """Publishes what imports and large groups have left to say, removes what deleted groups have left, and
    ends the memberships of who vanishes."""

    def __init__(self, memory: Memory, context: Context) -> None:
        self._memory = memory
        self._desk = context.desk

    async def run(self, now: int) -> None:
        """Do what is due; some of it remains for the next time where it is much."""
        for key in sorted(self._memory.vanishing):
            await self._end_memberships(key)
        for id_, is_deleted in self._memory.stale:
            if is_deleted and not await self._remove_some(id_, now):
                continue
            for _ in range(_CALLS_AT_ONCE):
                if await self._desk.command(state.TABLE, id_.encode()) != vanishing.MORE:
                    break

    async def _end_memberships(self, key: str) -> None:
        for number, id_ in enumerate(self._memory.ids):
            if any(self._desk.record(state.TABLE, record(id_, key)) for record in _STANDINGS):
                await self._desk.command(state.TABLE, f"{id_}\n{key}".encode())
            elif number % _LOOKED_AT_ONCE == 0:
                await asyncio.sleep(0)
        await self._desk.command(state.TABLE, f"\n{key}".encode())

    async def _remove_some(self, id_: str, now: int) -> bool:
        """Remove events of a deleted group; return whether none is left but the one that deleted it."""
        wanted = Filter(tags={"h": frozenset({id_})}, limit=_REMOVED_AT_ONCE)
        store = self._desk.store
        ids = [
            row.id
            async for page in store.scan(wanted, upto=await store.head(), now=now)
            for row in page
            if decode(row.json).kind != DELETE_GROUP
        ]
        if not ids:
            return True
        await self._desk.command(timeline.TABLE, " ".join(ids).encode())
        return False
