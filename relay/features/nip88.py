"""NIP-88: polls are counted where their votes are stored, exactly, and the count is there at once.

`relay.features.polls.counting` keeps the tallies, in the write transaction. Here is what stands around it:
which polls and votes are taken, the page, what watchers are sent, and the tally that the relay signs when
a poll has ended. Who watches subscribes to kind 21068 with the poll's id as `#e`, and is sent the counts,
not the votes; the signed tally is of kind 31068, its `d` tag the poll's id.
"""

import time
from dataclasses import replace

from relay.config import RelayConfig
from relay.engine.desk import Desk
from relay.engine.feature import Context, Feature, Job, OfKinds, Origin, Route, Rule
from relay.features.polls.counting import DUE, NAME, TALLY, UNCOUNTED, Counting, due_of, read_tally
from relay.features.polls.page import PATH, Page
from relay.lists import parse_span
from relay.nostr import kinds, polls
from relay.nostr.event import Event, encode, sign
from relay.nostr.keys import SecretKey
from relay.nostr.reasons import Refusal, invalid
from relay.store.api import Write

TEND_SECONDS = 0.25
"""Between two rounds: how long after a vote its watchers may hear of it."""
TOLD_AT_ONCE = 200
"""Polls of which watchers hear in one round; a signature for each takes 40 µs."""
SIGNED_AT_ONCE = 100
COUNTED_AT_ONCE = 20
"""Slices of votes that came before their polls, in one round."""

_COUNTED = frozenset({kinds.POLL, kinds.VOTE})
_ASKED_FOR = frozenset({kinds.FOLLOWS, kinds.FOLLOW_SET, kinds.TALLY})
"""What the page shows or counts by, beside polls: behind the veil, but no plugin is asked."""


def refuse_malformed(event: Event, origin: Origin, now: int) -> Refusal | None:
    """Refuse a poll in which nobody could vote, and a vote that no poll could count."""
    try:
        if event.kind == kinds.POLL:
            polls.parse_poll(event)
        else:
            polls.parse_vote(event)
    except (polls.InvalidPoll, polls.InvalidVote) as refused:
        return refused.refusal
    return None


def backdated(late_seconds: int) -> Rule:
    """Return the rule that refuses votes that come too late: with it, what a poll's end was stays so.

    What the operator imports has been taken in time elsewhere, and what our own bridge brings too.
    """

    def refuse_backdated(event: Event, origin: Origin, now: int) -> Refusal | None:
        if event.created_at < now - late_seconds and not origin.exempt:
            return invalid(f"a vote is taken until it is {late_seconds} seconds old")
        return None

    return refuse_backdated


def count_in_table(write: Write) -> Write:
    """Let the table count the vote, or open the poll."""
    return replace(write, tables=(*write.tables, NAME))


def count_and_keep(write: Write) -> Write:
    """Let the table count a vote, and keep it though its author asks for its deletion.

    NIP-88: "It is advisable … to use relays that do not honor kind:5 (delete) requests for vote events".
    A request to vanish takes it.
    """
    return replace(write, tables=(*write.tables, NAME), is_final=True)


class Tending:
    """The job: counts what waits, signs what is due, and tells watchers what has changed."""

    def __init__(self, desk: Desk, key: SecretKey, *, is_public: bool = True) -> None:
        """`is_public` says whether everybody may see polls and votes."""
        self._desk = desk
        self._key = key
        self._is_public = is_public
        self._told: int | None = None
        """The version up to which watchers have heard of changes; None at the start."""

    async def run(self, now: int) -> None:
        """Do what there is to do, in bounded steps. Raises StoreError."""
        for key, _ in self._desk.records(NAME, UNCOUNTED, limit=1):
            for _ in range(COUNTED_AT_ONCE):
                if await self._desk.command(NAME, b"count " + key[1:].encode()) != b"more":
                    break
        for key, _ in self._desk.records(NAME, DUE, limit=SIGNED_AT_ONCE):
            due, poll = due_of(key)
            if due > now:
                break
            await self._desk.command(NAME, b"sign " + poll.encode())
        await self._tell(now)

    async def _tell(self, now: int) -> None:
        store = self._desk.store
        if self._told is None:
            self._told = store.version
        if store.version == self._told:
            return
        version = store.version
        changes = store.changes(NAME, after=self._told, limit=TOLD_AT_ONCE)
        self._told = changes[-1].version if len(changes) == TOLD_AT_ONCE else version
        told = []
        for change in changes:
            if not self._is_public or change.value is None:
                continue
            if (tally := read_tally(change.value)).is_public:
                tags = polls.tally_tags(change.key.removeprefix(TALLY), tally.options, tally.result())
                told.append(encode(sign(self._key, created_at=now, kind=kinds.RUNNING_TALLY, tags=tags)))
        if told:
            await store.announce(told)


def hides_by_plugin(config: RelayConfig, kinds_: frozenset[int]) -> bool:
    """Say whether the operator's program may hide events of one of these kinds."""
    plugin = config.plugins.read
    spans = tuple(map(parse_span, plugin.kinds))
    return bool(plugin.command) and (not spans or any(kind in span for kind in kinds_ for span in spans))


def feature(config: RelayConfig, context: Context) -> Feature:
    # What was counted cannot be hidden from some: then it is told to nobody.
    is_public = _COUNTED.isdisjoint(config.auth.read_kinds) and not hides_by_plugin(config, _COUNTED)
    # Where reading takes a key, there is no page for everybody.
    has_page = is_public and not config.auth.read and not hides_by_plugin(config, _ASKED_FOR)
    counting = Counting(context.key, config.polls.late_seconds, is_public=is_public)
    tending = Tending(context.desk, context.key, is_public=is_public)
    page = Page(context.desk, context.key.public, time.time)
    is_vote, is_counted = kinds.VOTE.__eq__, _COUNTED.__contains__
    count_vote = count_in_table if config.polls.deletable_votes else count_and_keep
    return Feature(
        title="Polls",
        nip=88,
        before_signature=(
            OfKinds(is_counted, refuse_malformed),
            OfKinds(is_vote, backdated(config.polls.late_seconds)),
        ),
        effects=(OfKinds(kinds.POLL.__eq__, count_in_table), OfKinds(is_vote, count_vote)),
        tables=(counting.table(),),
        jobs=(Job("tend the polls", TEND_SECONDS, tending.run),),
        routes=(Route(f"{PATH}*", None, page.answer),) if has_page else (),
    )
