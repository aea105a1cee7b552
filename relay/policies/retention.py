"""How long events are kept: the operator's rules of age, number and size, carried out in small slices.

One process looks and asks the writer to remove, a page of events at a time, and rests as long as it worked:
nobody is kept waiting. What was removed for its age does not come again; what was removed for the number
or size of its kind may, and is removed again.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Container, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Job, OfKinds, Origin, Rule
from relay.nostr import kinds
from relay.nostr.event import Event, PubKey
from relay.nostr.filter import Filter
from relay.nostr.reasons import Refusal, invalid
from relay.policy_config import RetentionConfig
from relay.store.api import Seq, Store, Stored

log = structlog.get_logger(__name__)

_REST = 1.0
"""Rest, as a multiple of work."""
_COUNTED_AUTHORS = 250_000
"""Authors that one round counts at most; with more events than that, it takes a part of them, in turn."""

# Measured on a million synthetic events: 1,045 bytes of the file each, of which 662 of JSON.
_ROOM_OF_EVENT = 60
_ROOM_OF_POSTING = 42
_POSTINGS_OF_EVERY = 5


def is_lasting(kind: int) -> bool:
    """Say whether a rule covers the kind only if it names it: something else is made of these events."""
    return (
        kinds.is_replaceable(kind)
        or kind in (kinds.DELETION, kinds.VANISH, kinds.POLL, kinds.VOTE)
        or 8_000 <= kind < 8_100  # members of the relay (NIP-43)
        or 9_000 <= kind < 9_100  # what groups are made of (NIP-29)
    )


def room_of(row: Stored) -> int:
    """Return about how many bytes an event takes in the database, its postings included."""
    # Nearly every tag that has a letter for its name has a posting, and few others are as short.
    postings = _POSTINGS_OF_EVERY + row.json.count(b'["')
    return len(row.json) + _ROOM_OF_EVENT + _ROOM_OF_POSTING * postings


class Doomed(NamedTuple):
    """Events that a rule would remove."""

    rule: str
    rows: list[Stored]


@dataclass(frozen=True, slots=True)
class RetentionRule:
    """One rule, and whom it leaves alone."""

    name: str
    config: RetentionConfig
    exempt: Container[str]

    @property
    def wanted(self) -> Filter:
        """What it covers, as far as a filter can say it."""
        tags: dict[str, frozenset[str]] = {}
        for tag in self.config.tags:
            letter, _, value = tag.partition("=")
            tags[letter] = tags.get(letter, frozenset()) | {value}
        return Filter(
            kinds=frozenset(self.config.kinds) or None,
            authors=frozenset(map(PubKey, self.config.authors)) or None,
            tags=tags,
        )

    def covers(self, row: Stored) -> bool:
        """Say whether it covers an event that its filter matches."""
        return row.author not in self.exempt and (bool(self.config.kinds) or not is_lasting(row.event().kind))

    def is_too_old(self, created_at: int, now: int) -> bool:
        age = self.config.max_age_seconds
        return age is not None and created_at < now - age

    @property
    def is_about_numbers(self) -> bool:
        config = self.config
        bounds = (config.max_events, config.max_bytes, config.max_events_per_author)
        return bounds != (None, None, None)


class _Exempt:
    """Whom a rule leaves alone."""

    def __init__(self, config: RetentionConfig, relay: RelayConfig, context: Context) -> None:
        staff = (*relay.admins, *relay.moderation.keys, context.key.public) if config.exempt_admins else ()
        self._keys = frozenset((*config.exempt_authors, *staff))
        self._is_member = context.is_member if config.exempt_members else None

    def __contains__(self, key: object) -> bool:
        return key in self._keys or (self._is_member is not None and self._is_member(str(key)))


def rules_of(config: RelayConfig, context: Context) -> tuple[RetentionRule, ...]:
    """Return the rules of a relay, in the order of its configuration."""
    return tuple(
        RetentionRule(name, one, _Exempt(one, config, context)) for name, one in config.retention.items()
    )


async def doomed_by(
    rule: RetentionRule, store: Store, now: int, *, turn: int | None = None
) -> AsyncIterator[list[Stored]]:
    """Yield what a rule would remove, in pages; a page may be empty: the store then only gave others a turn.

    `turn` says which part of the authors is counted where they are too many for one round; None: all.
    """
    upto = await store.head()
    if (age := rule.config.max_age_seconds) is not None and now - age > 0:
        older = replace(rule.wanted, until=now - age - 1)
        async for page in store.scan(older, upto=upto, now=now):
            yield [row for row in page if rule.covers(row)]
    if rule.is_about_numbers:
        async for rows in _beyond_bounds(rule, store, upto, now, turn):
            yield rows


async def _beyond_bounds(
    rule: RetentionRule, store: Store, upto: Seq, now: int, turn: int | None
) -> AsyncIterator[list[Stored]]:
    bounds = rule.config
    number = await store.count([rule.wanted], upto=upto, now=now)
    if (
        bounds.max_bytes is None
        and bounds.max_events_per_author is None
        and number <= (bounds.max_events or 0)
    ):
        return
    parts = 1 if turn is None else 1 + number // _COUNTED_AUTHORS
    events = room = 0
    of_author: Counter[str] = Counter()
    async for page in store.scan(rule.wanted, upto=upto, now=now):
        beyond: list[Stored] = []
        for row in page:
            if not rule.covers(row) or rule.is_too_old(row.created_at, now):
                continue
            if bounds.max_events_per_author is not None:
                author = row.author
                if parts == 1 or int(author[:8], 16) % parts == (turn or 0) % parts:
                    if of_author[author] >= bounds.max_events_per_author:
                        beyond.append(row)
                        continue
                    of_author[author] += 1
            room += room_of(row)
            is_over = (bounds.max_events is not None and events >= bounds.max_events) or (
                bounds.max_bytes is not None and room > bounds.max_bytes
            )
            if is_over:
                beyond.append(row)
            else:
                events += 1
        yield beyond


async def plan(rules: Sequence[RetentionRule], store: Store, now: int) -> AsyncIterator[Doomed]:
    """Yield what the rules would remove, without removing it; what two rules name comes twice."""
    for rule in rules:
        async for rows in doomed_by(rule, store, now):
            if rows:
                yield Doomed(rule.name, rows)


async def carry_out(
    rules: Sequence[RetentionRule],
    store: Store,
    now: int,
    *,
    turn: int | None = None,
    rest: float = _REST,
    on_removed: Callable[[str, int], None] = lambda rule, count: None,
) -> dict[str, int]:
    """Remove what the rules say; return how many events went by each."""
    removed: dict[str, int] = {}
    for rule in rules:
        began = time.perf_counter()
        async for rows in doomed_by(rule, store, now, turn=turn):
            if rows:
                count = await store.remove([row.id for row in rows])
                removed[rule.name] = removed.get(rule.name, 0) + count
                on_removed(rule.name, count)
            await asyncio.sleep(rest * (time.perf_counter() - began))
            began = time.perf_counter()
    return removed


def refusing(rule: RetentionRule) -> OfKinds[Rule]:
    """Return the rule about arrivals: what would be removed at once for its age is not taken."""
    wanted, age, named = rule.wanted, rule.config.max_age_seconds, frozenset(rule.config.kinds)

    def refuse_too_old(event: Event, origin: Origin, now: int) -> Refusal | None:
        if not rule.is_too_old(event.created_at, now) or origin.exempt:
            return None
        if event.pubkey in rule.exempt or not wanted.matches(event):
            return None
        return invalid(f"created_at is more than {age} seconds ago: this relay keeps such events no longer")

    return OfKinds(named.__contains__ if named else lambda kind: not is_lasting(kind), refuse_too_old)


def feature(config: RelayConfig, context: Context) -> Feature:
    rules = rules_of(config, context)
    if not rules:
        return Feature(title="Retention")
    rounds = 0

    async def keep_to_rules(now: int) -> None:
        nonlocal rounds
        rounds += 1
        for name, count in (await carry_out(rules, context.desk.store, now, turn=rounds)).items():
            log.info("removed events by a rule of retention", rule=name, events=count)

    return Feature(
        title="Retention",
        before_signature=tuple(refusing(rule) for rule in rules if rule.config.max_age_seconds is not None),
        jobs=(Job("retention", config.retention_every_seconds, keep_to_rules),),
    )
