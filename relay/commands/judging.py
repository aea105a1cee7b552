"""`torv relay why` and `dry-run`: which rule would refuse what, and why."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import orjson

from relay.assembly import CannotRead
from relay.commands.opening import Configuration, data_option, judging, load_for
from relay.commands.results import Failed, ends_with
from relay.engine.admission import Admission
from relay.engine.explanation import Verdict, ask_slowly, explain_event, explain_question, explain_seeing
from relay.engine.feature import Feature, Origin
from relay.engine.limits import Rate
from relay.engine.relay import Relay
from relay.engine.sifting import Exhausted
from relay.engine.subscription import LiveEvent, Subscription
from relay.net.session import refuse_large
from relay.net.workers import CannotStart
from relay.nostr.event import Event, EventId, InvalidEvent, PubKey, compute_id, decode, encode, parse_event
from relay.nostr.filter import Filter, InvalidFilter, parse_filter
from relay.nostr.nip19 import public_key
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.settings import config_option
from relay.store.api import StoreError
from relay.transfer.progress import meter

EXAMPLES = 3
"""Events that are shown for each rule of a dry run."""
_MESSAGE = "Limits of a message"
_ANSWER = "Budgets of questions"
ANSWERING = "while it is answered"


class _Key(click.ParamType[str]):
    name = "key"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> str:
        try:
            return public_key(value)
        except ValueError as error:
            self.fail(str(error), param, context)


@dataclass(frozen=True, slots=True)
class _Draft:
    event: Event
    is_signed: bool


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one try."""

    verdicts: Sequence[Verdict]
    is_known: bool = False
    """Whether the event is stored already."""

    @property
    def refusal(self) -> Refusal | None:
        """The first one: the one that a client would be told."""
        return next((one.refusal for one in self.verdicts if one.refusal is not None), None)


@ends_with("it would be taken, or shown", "it would be refused, or hidden")
@click.command("why")
@click.argument("given", metavar="EVENT|FILTER")
@config_option
@data_option
@click.option("--as", "author", type=_Key(), help="Judge the event as if this key had signed it.")
@click.option("--address", default="", help="The client's IP address.")
@click.option("--authed", type=_Key(), multiple=True, help="A key that the client has proved (NIP-42).")
@click.option("--seen", is_flag=True, help="Whether the client may see the event.")
@click.option("--times", type=click.IntRange(1, 100_000), default=1, help="Judge it so many times in a row.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def why(
    context: click.Context,
    given: str,
    config: Path | None,
    data: Path | None,
    author: str | None,
    address: str,
    authed: tuple[str, ...],
    seen: bool,
    times: int,
    as_json: bool,
) -> None:
    """Say which rule would refuse an event or a question, or hide an event (--seen), and why.

    EVENT is an event's JSON; what is left out of it (id, sig, pubkey, created_at) is not looked at, or filled
    in. FILTER is a filter's JSON, or a list of filters. Either may also be a file's name, or - for standard
    input. The relay may be running; what it has stored counts, but not what its clients have used up of their
    rates: with --times, all buckets begin full.

    """
    loaded = load_for(context, config, data)
    value = _read(given)
    origin = Origin(
        address=address,
        url=loaded.relay.url or f"ws://{loaded.relay.host}:{loaded.relay.port}{loaded.relay.path}",
        authenticated=frozenset(map(PubKey, authed)),
        exempt=not frozenset(authed).isdisjoint(loaded.relay.trust_bridge_keys),
    )
    asked = _draft(value, author) if isinstance(value, dict) and "kind" in value else _filters(value)
    try:
        outcome, tried = asyncio.run(_explain(loaded, asked, origin, times, seen=seen))
    except (StoreError, CannotStart, CannotRead) as error:
        raise Failed(str(error)) from error
    if as_json:
        click.echo(orjson.dumps(_as_json(outcome, tried), option=orjson.OPT_INDENT_2))
    else:
        for line in _as_lines(outcome, asked, tried, seen=seen):
            click.echo(line)
    sys.exit(1 if outcome.refusal is not None else 0)


def _read(given: str) -> object:
    text = given.encode()
    if given == "-":
        text = sys.stdin.buffer.read()
    elif not given.lstrip().startswith(("{", "[")):
        try:
            text = Path(given).read_bytes()
        except OSError as error:
            raise click.BadParameter(
                f"neither JSON nor a file: {error.strerror}", param_hint="EVENT|FILTER"
            ) from error
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="EVENT|FILTER") from error
    match value:
        case ["EVENT", event]:
            return event
        case ["REQ" | "COUNT", str(), *filters]:
            return filters
    return value


def _draft(value: dict[str, object], author: str | None) -> _Draft:
    """Read an event, filling in what is not there."""
    is_signed = "sig" in value and author is None
    filled = {
        "pubkey": "0" * 64,
        "created_at": int(time.time()),
        "tags": [],
        "content": "",
        "sig": "0" * 128,
        "id": "0" * 64,
        **value,
    }
    if author is not None:
        filled["pubkey"] = author
    try:
        event = parse_event(filled)
    except InvalidEvent as error:
        raise click.BadParameter(str(error), param_hint="EVENT|FILTER") from error
    if "id" not in value or author is not None:
        content = compute_id(event.pubkey, event.created_at, event.kind, event.tags, event.content)
        event = event._replace(id=EventId(content))
    return _Draft(event, is_signed)


def _filters(value: object) -> tuple[Filter, ...]:
    try:
        return tuple(map(parse_filter, value if isinstance(value, list) else [value]))
    except InvalidFilter as error:
        raise click.BadParameter(str(error), param_hint="EVENT|FILTER") from error


async def _explain(
    config: Configuration, asked: _Draft | tuple[Filter, ...], origin: Origin, times: int, *, seen: bool
) -> tuple[_Outcome, int]:
    """Return the first outcome that is a refusal, or the last; and which one it is, from 1."""
    number = 0
    now = int(time.time())
    buckets = Buckets(float(now))
    outcome = _Outcome(())
    async with judging(config, buckets.spend, buckets.drain, now=now) as (relay, desk, _):
        while number < times:
            number += 1
            if isinstance(asked, _Draft) and seen:
                outcome = _Outcome(
                    await explain_seeing(relay.features, asked.event, origin, encode(asked.event))
                )
            elif isinstance(asked, _Draft):
                size = len(encode(asked.event)) + len('["EVENT",]')
                most = config.relay.limits.max_message_bytes
                is_large = invalid(f"longer than {most} bytes") if size > most else None
                verdicts = await explain_event(
                    relay.features, asked.event, origin, now, desk, is_signed=asked.is_signed
                )
                known = await relay.store.known([asked.event.id])
                outcome = _Outcome([Verdict(_MESSAGE, "message", is_large), *verdicts], bool(known))
            else:
                refusal = refuse_large(asked, config.relay.limits)
                verdicts = explain_question(relay.features, asked, origin)
                outcome = _Outcome([Verdict(_MESSAGE, "message", refusal), *verdicts])
                # What the index of words finds is not asked for here.
                if outcome.refusal is None and all(one.search is None for one in asked):
                    outcome = _Outcome([*outcome.verdicts, await _answered(relay, asked, origin)])
            if outcome.refusal is not None:
                break
    return outcome, number


@dataclass(frozen=True, slots=True)
class _Nobody:
    """Who asks, and is sent nothing."""

    origin: Origin

    def deliver(self, subscription: Subscription, events: Sequence[LiveEvent]) -> None:
        raise AssertionError("it is not filed, so nothing is due to it")

    def end_slow(self, subscription: Subscription) -> None:
        raise AssertionError("it is not filed, so nothing is due to it")


async def _answered(relay: Relay, filters: Sequence[Filter], origin: Origin) -> Verdict:
    """Answer the question from what is stored, as a REQ is."""
    sieve = next((one.title for one in relay.features if one.sieve is not None), "")
    narrowed = relay.pass_gates(filters, origin, may_search=True)
    if isinstance(narrowed, Refusal):
        return Verdict(_ANSWER, ANSWERING, narrowed)
    subscription = Subscription("why", narrowed, _Nobody(origin))
    await relay.draw_line(subscription)
    try:
        async for _ in relay.answer(subscription):
            pass
    except Exhausted as error:
        title = sieve if error.refusal.prefix is Prefix.BLOCKED else _ANSWER
        return Verdict(title, ANSWERING, error.refusal)
    return Verdict(_ANSWER, ANSWERING, None)


def _as_lines(outcome: _Outcome, asked: object, tried: int, *, seen: bool) -> Iterable[str]:
    width = max((len(one.rule) for one in outcome.verdicts), default=0)
    for one in outcome.verdicts:
        said = "ok" if one.refusal is None else str(one.refusal)
        yield f"{one.rule:{width}}  {one.stage:20}  {said}"
    yield ""
    if isinstance(asked, _Draft) and seen:
        yield "would be shown" if outcome.refusal is None else "would be hidden"
        return
    if isinstance(asked, _Draft) and not asked.is_signed:
        yield "a draft: its signature was not looked at"
    if outcome.is_known:
        yield "stored already: sent again, it is answered as a duplicate"
    ordinal = "" if tried == 1 else f" at try {tried}"
    yield "would be taken" if outcome.refusal is None else f"would be refused{ordinal}: {outcome.refusal}"


def _as_json(outcome: _Outcome, tried: int) -> dict[str, object]:
    return {
        "taken": outcome.refusal is None,
        "reason": None if outcome.refusal is None else str(outcome.refusal),
        "rule": next((one.rule for one in outcome.verdicts if one.refusal is not None), None),
        "stored": outcome.is_known,
        "tries": tried,
        "asked": [
            {
                "rule": one.rule,
                "stage": one.stage,
                "reason": None if one.refusal is None else str(one.refusal),
            }
            for one in outcome.verdicts
        ],
    }


class Buckets:
    """Buckets of this process alone, by a clock that is set."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._held: dict[str, tuple[float, float]] = {}

    def spend(self, name: str, rate: Rate) -> bool:
        """See `relay.engine.limits.Spend`."""
        if not rate.most:
            return True
        tokens, touched = self._held.get(name, (float(rate.most), self.now))
        tokens = rate.refill(tokens, self.now - touched)
        is_left = tokens >= 1
        self._held[name] = (tokens - 1 if is_left else tokens, self.now)
        return is_left

    def drain(self, name: str, rate: Rate, amount: float) -> bool:
        """See `relay.engine.limits.Drain`."""
        tokens, touched = self._held.get(name, (float(rate.most), self.now))
        tokens = rate.refill(tokens, self.now - touched) - amount
        self._held[name] = (tokens, self.now)
        return tokens > 0


@dataclass(slots=True)
class _Findings:
    events: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def add(self, rule: str, event: Event, refusal: Refusal) -> None:
        self.counts[rule] += 1
        shown = self.examples.setdefault(rule, [])
        if len(shown) < EXAMPLES:
            shown.append({"id": event.id, "reason": str(refusal)})


@ends_with("nothing would have been refused", "something would have been refused")
@click.command("dry-run")
@config_option
@data_option
@click.option("--filter", "filter_text", help="Only stored events that this filter (JSON) matches.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def dry_run(
    context: click.Context, config: Path | None, data: Path | None, filter_text: str | None, as_json: bool
) -> None:
    """Say what this configuration would have refused of the stored events. Nothing is changed.

    Each is judged as if its author, having proved the key, had brought it at its created_at, the oldest
    first. So limits by address are not asked, nor ages. The relay may be running.

    Ends with status 1 if something would have been refused.
    """
    loaded = load_for(context, config, data)
    wanted = Filter() if filter_text is None else _filters(_read(filter_text))[0]
    try:
        found = asyncio.run(_dry_run(loaded, wanted))
    except (StoreError, CannotStart, CannotRead) as error:
        raise Failed(str(error)) from error
    refused = sum(found.counts.values())
    if as_json:
        rules = [
            {"rule": rule, "refused": count, "examples": found.examples[rule]}
            for rule, count in found.counts.most_common()
        ]
        click.echo(
            orjson.dumps(
                {"events": found.events, "refused": refused, "rules": rules}, option=orjson.OPT_INDENT_2
            )
        )
    else:
        for rule, count in found.counts.most_common():
            click.echo(f"{count:>10,}  {rule}")
            for example in found.examples[rule]:
                click.echo(f"{'':12}{example['id']}  {example['reason']}")
        click.echo(f"{refused:,} of {found.events:,} stored events would have been refused")
    sys.exit(1 if refused else 0)


async def _dry_run(config: Configuration, wanted: Filter) -> _Findings:
    found = _Findings()
    now = int(time.time())
    buckets = Buckets(0.0)
    async with judging(config, buckets.spend, buckets.drain, now=now) as (relay, _, key):
        rules = [
            (one.title, Admission([one]))
            for one in relay.features
            if one.before_signature or one.after_signature
        ]
        slow = [one for one in relay.features if one.slow_rules]
        with meter("dry run", None) as shown:
            async for page in relay.store.dump(upto=await relay.store.head(), now=now):
                passed: list[Event] = []
                for json in page:
                    event = decode(json)
                    # The relay's own events pass no rules.
                    if event.pubkey == key.public or not wanted.matches(event):
                        continue
                    found.events += 1
                    buckets.now = float(event.created_at)
                    if _is_passed(event, rules, config, found):
                        passed.append(event)
                for feature in slow:
                    passed = await _judge_slowly(feature, passed, config, now, found)
                shown.show(found.events)
    return found


def _is_passed(
    event: Event, rules: Sequence[tuple[str, Admission]], config: Configuration, found: _Findings
) -> bool:
    origin = _by_author(event, config)
    now = event.created_at
    for stage in (Admission.before_signature, Admission.after_signature):
        for title, admission in rules:
            refusal = stage(admission, event, origin, now)
            if refusal is not None:
                found.add(title, event, refusal)
                return False
    return True


async def _judge_slowly(
    feature: Feature, asked: Sequence[Event], config: Configuration, now: int, found: _Findings
) -> list[Event]:
    """Return what is not refused."""
    said = await ask_slowly(feature, asked, lambda event: _by_author(event, config), now)
    passed = []
    for event, refusal in zip(asked, said, strict=True):
        if refusal is None:
            passed.append(event)
        else:
            found.add(feature.title, event, refusal)
    return passed


def _by_author(event: Event, config: Configuration) -> Origin:
    return Origin(
        address="",
        url=config.relay.url,
        authenticated=frozenset({event.pubkey}),
        exempt=event.pubkey in config.relay.trust_bridge_keys,
    )
