"""What each rule says of an event or a question: for operators who want to know why.

Everything is asked that a relay would ask, but nothing ends with the first refusal, and nothing is kept.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from relay.engine.admission import Admission
from relay.engine.desk import Desk
from relay.engine.feature import Feature, OfKinds, Origin, Quietly, Rule, VeilRule
from relay.nostr import event as events
from relay.nostr.event import Event, encode
from relay.nostr.filter import Filter
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.nostr.tags import indexed
from relay.store.api import Table

ADDRESS = "address"
BEFORE = "before the signature"
SIGNATURE = "signature"
AFTER = "after the signature"
SLOWLY = "by another process"
STORING = "when it is stored"
ASKING = "when it is asked"
SEEING = "what may be seen"

_HIDDEN = Refusal(Prefix.RESTRICTED, "hidden from this reader")
_DROPPED = Refusal(Prefix.BLOCKED, "dropped; its author is told that it was taken")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one feature or policy says."""

    rule: str
    """Its title."""
    stage: str
    refusal: Refusal | None
    """None: it has nothing against it."""


async def explain_event(
    features: Sequence[Feature], event: Event, origin: Origin, now: int, desk: Desk, *, is_signed: bool = True
) -> list[Verdict]:
    """Return what everything says that would be asked about an event, in order.

    Without `is_signed` it is a draft, whose signature is not looked at.
    """
    verdicts = list(explain_address(features, origin))
    for feature in features:
        verdicts += _of_rules(feature, BEFORE, feature.before_signature, event, origin, now)
    verdicts.append(Verdict("Id of the event", SIGNATURE, _refuse_id(event)))
    if is_signed:
        verdicts.append(Verdict("Signature of the event", SIGNATURE, _refuse_signature(event)))
    for feature in features:
        verdicts += _of_rules(feature, AFTER, feature.after_signature, event, origin, now)
    for feature in features:
        if feature.slow_rules:
            (refusal,) = await ask_slowly(feature, [event], lambda _: origin, now)
            verdicts.append(Verdict(feature.title, SLOWLY, refusal))
    if desk.is_open:
        verdicts += _of_tables(features, event, now, desk)
    return verdicts


async def explain_seeing(
    features: Sequence[Feature], event: Event, origin: Origin, json: bytes
) -> list[Verdict]:
    """Return what everything says of whether a client may see an event, if it is stored."""
    verdicts = list(explain_address(features, origin))
    for feature in features:
        for veil in feature.veils:
            tags = veil.tags() if veil.tags is not None else {}
            if event.kind in _kinds_of(veil) or any(
                value in tags.get(letter, ()) for letter, value in indexed(event.tags)
            ):
                verdicts.append(_of_seeing(feature, veil.visible(event, origin)))
        if feature.sieve is not None and feature.sieve.covers(event.kind):
            (is_shown,) = await feature.sieve.passes([json], origin)
            verdicts.append(_of_seeing(feature, is_shown))
    return _joined(verdicts)


def _of_seeing(feature: Feature, is_shown: bool) -> Verdict:
    return Verdict(feature.title, SEEING, None if is_shown else _HIDDEN)


async def ask_slowly(
    feature: Feature, asked: Sequence[Event], origin_of: Callable[[Event], Origin], now: int
) -> list[Refusal | None]:
    """Return what the slow rules of a feature say of each event."""
    said: list[Refusal | None] = [None] * len(asked)
    for one in feature.slow_rules:
        rule, concerns = (one.part, one.concerns) if isinstance(one, OfKinds) else (one, None)
        positions = [
            position
            for position, event in enumerate(asked)
            if said[position] is None and (concerns is None or concerns(event.kind))
        ]
        published = [
            _Published(asked[position], encode(asked[position]), origin_of(asked[position]))
            for position in positions
        ]
        async for ruled in rule(published, now):
            for position, ruling in ruled:
                said[positions[position]] = _DROPPED if isinstance(ruling, Quietly) else ruling
    return said


class _Published(NamedTuple):
    event: Event
    json: bytes
    origin: Origin


def explain_address(features: Sequence[Feature], origin: Origin) -> Iterator[Verdict]:
    """Yield what says whether clients of this address are served."""
    for feature in features:
        if feature.turns_away is not None and origin.address:
            is_away = feature.turns_away(origin.address)
            refusal = Refusal(Prefix.BLOCKED, "clients of this address are not served") if is_away else None
            yield Verdict(feature.title, ADDRESS, refusal)


def explain_question(features: Sequence[Feature], filters: Sequence[Filter], origin: Origin) -> list[Verdict]:
    """Return what everything says that would be asked about a question, in order."""
    verdicts = list(explain_address(features, origin))
    for feature in features:
        verdicts += (Verdict(feature.title, ASKING, ask(filters, origin)) for ask in feature.doorkeepers)
    verdicts += _of_veils(features, filters, origin)
    for feature in features:
        for gate in feature.gates:
            refusals = (gate(wanted, origin) for wanted in filters)
            refusal = next((one for one in refusals if isinstance(one, Refusal)), None)
            verdicts.append(Verdict(feature.title, ASKING, refusal))
    return _joined(verdicts)


def _of_rules(
    feature: Feature,
    stage: str,
    rules: Sequence[Rule | OfKinds[Rule]],
    event: Event,
    origin: Origin,
    now: int,
) -> Iterator[Verdict]:
    asked = [
        rule.part if isinstance(rule, OfKinds) else rule
        for rule in rules
        if not isinstance(rule, OfKinds) or rule.concerns(event.kind)
    ]
    if asked:
        refusals = (rule(event, origin, now) for rule in asked)
        yield Verdict(feature.title, stage, next((one for one in refusals if one is not None), None))


def _refuse_id(event: Event) -> Refusal | None:
    return None if events.has_right_id(event) else invalid("id is not the hash of the event")


def _refuse_signature(event: Event) -> Refusal | None:
    return None if events.has_right_signature(event) else invalid("signature does not verify")


def _of_tables(features: Sequence[Feature], event: Event, now: int, desk: Desk) -> Iterator[Verdict]:
    named = Admission(features).effects(event, encode(event)).tables
    for feature in features:
        for table in feature.tables:
            if table.name in named:
                answer = table.judge(event, _DryRecords(desk, table), now)
                yield Verdict(feature.title, STORING, answer if isinstance(answer, Refusal) else None)


def _of_veils(features: Sequence[Feature], filters: Sequence[Filter], origin: Origin) -> Iterator[Verdict]:
    """Yield what hides kinds that are asked for: who asks for nothing else, and is nobody, is told so."""
    personal = [
        (feature.title, _kinds_of(veil)) for feature in features for veil in feature.veils if veil.is_personal
    ]
    everything = frozenset[int]().union(*(kinds for _, kinds in personal))
    for wanted in filters:
        for title, kinds in personal:
            if wanted.kinds and wanted.kinds & kinds:
                is_refused = wanted.kinds <= everything and not origin.authenticated
                reason = "events of these kinds are shown only to the people they are meant for"
                yield Verdict(title, SEEING, Refusal(Prefix.AUTH_REQUIRED, reason) if is_refused else None)


def _kinds_of(veil: VeilRule) -> frozenset[int]:
    return veil.kinds() if callable(veil.kinds) else veil.kinds


def _joined(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return one verdict for each feature and stage: its first refusal, if it has one."""
    joined = []
    for _, group in groupby(verdicts, key=lambda one: (one.rule, one.stage)):
        same = list(group)
        joined.append(next((one for one in same if one.refusal is not None), same[0]))
    return joined


class _DryRecords:
    """The records of a table as they are; what is put is forgotten."""

    def __init__(self, desk: Desk, table: Table) -> None:
        self._desk = desk
        self._table = table.of or table.name
        self._changed: dict[str, bytes | None] = {}

    def get(self, key: str) -> bytes | None:
        return self._changed[key] if key in self._changed else self._desk.record(self._table, key)

    def put(self, key: str, value: bytes) -> None:
        self._changed[key] = value

    def delete(self, key: str) -> None:
        self._changed[key] = None

    def within(self, prefix: str, *, after: str = "", limit: int = 1_000) -> list[tuple[str, bytes]]:
        found = dict(self._desk.records(self._table, prefix, after=after, limit=limit))
        for key, value in self._changed.items():
            if key.startswith(prefix) and key > after:
                if value is None:
                    found.pop(key, None)
                else:
                    found[key] = value
        return sorted(found.items())[:limit]
