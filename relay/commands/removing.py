"""`torv relay delete` and `retention`: events that the operator removes, by a filter or by rules."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import orjson

from relay.assembly import KEY, CannotRead, read_key, retention_rules
from relay.commands.opening import Configuration, data_option, load_for, opened_relay
from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.engine.desk import Desk
from relay.net.workers import CannotStart
from relay.nostr.filter import Filter, InvalidFilter, parse_filter
from relay.policies.retention import Doomed, RetentionRule, carry_out, plan, room_of
from relay.settings import config_option
from relay.store.api import Store, Stored, StoreError
from relay.transfer.progress import Steps, steps

_EXAMPLES = 3


@dataclass(slots=True)
class _Tally:
    """Events that go, or would."""

    events: int = 0
    bytes: int = 0
    """About, in the database."""
    oldest: int | None = None
    newest: int | None = None
    kinds: Counter[int] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def add(self, row: Stored) -> None:
        self.events += 1
        self.bytes += room_of(row)
        self.oldest = row.created_at if self.oldest is None else min(self.oldest, row.created_at)
        self.newest = row.created_at if self.newest is None else max(self.newest, row.created_at)
        self.kinds[row.event().kind] += 1
        if len(self.examples) < _EXAMPLES:
            self.examples.append(row.id)

    def value(self) -> dict[str, object]:
        return {
            "events": self.events,
            "bytes": self.bytes,
            "oldest": self.oldest,
            "newest": self.newest,
            "kinds": dict(self.kinds.most_common()),
            "examples": self.examples,
        }

    def lines(self) -> Iterator[str]:
        yield f"{self.events:,} events, about {self.bytes / 2**20:,.1f} MiB in the database"
        if self.oldest is not None and self.newest is not None:
            yield f"  created from {_day(self.oldest)} to {_day(self.newest)}"
            yield f"  kinds: {', '.join(f'{kind} ({n:,})' for kind, n in self.kinds.most_common(8))}"
            yield f"  such as {', '.join(self.examples)}"


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


class _FilterType(click.ParamType[Filter]):
    name = "filter"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> Filter:
        try:
            wanted = parse_filter(orjson.loads(value))
        except (InvalidFilter, orjson.JSONDecodeError) as error:
            self.fail(f"no filter as of NIP-01: {error}", param, context)
        if wanted.search is not None:
            self.fail("search finds the most fitting events, not all: name them otherwise", param, context)
        return wanted


@ends_with("they were removed, or counted", "some could not be removed")
@click.command("delete")
@click.option(
    "--filter",
    "filters",
    type=_FilterType(),
    multiple=True,
    required=True,
    help="A filter (NIP-01), as JSON.",
)
@config_option
@data_option
@click.option("--yes", "is_meant", is_flag=True, help="Remove them. Without it, they are only counted.")
@click.option("--may-return", is_flag=True, help="Take them again if somebody publishes them anew.")
@json_option
@click.pass_context
def delete(
    context: click.Context,
    filters: tuple[Filter, ...],
    config: Path | None,
    data: Path | None,
    is_meant: bool,
    may_return: bool,
    as_json: bool,
) -> None:
    """Remove what a filter matches, whoever wrote it; several filters: what any of them matches.

    By itself it only says what would go. What went is not found, counted or searched any more, and does
    not come again. The relay may be running. A filter's `limit` takes the newest.
    """
    if any(replace(one, limit=None) == Filter() for one in filters):
        raise click.UsageError("an empty filter matches everything: to begin anew, delete the database")
    loaded = load_for(context, config, data)
    try:
        with steps() as shown:
            tally = asyncio.run(_delete(loaded, filters, is_meant, not may_return, shown))
    except (StoreError, CannotStart, CannotRead) as error:
        raise Failed(str(error)) from error
    verb = "removed" if is_meant else "would be removed; --yes removes them"
    first, *rest = tally.lines()
    print_result(as_json, {"removed": is_meant, **tally.value()}, [f"{first}: {verb}", *rest])


async def _delete(
    config: Configuration, filters: tuple[Filter, ...], is_meant: bool, barred: bool, shown: Steps
) -> _Tally:
    tally = _Tally()
    async with opened_relay(config, make=False) as relay:
        async for rows in _matching(relay.store, filters):
            for row in rows:
                tally.add(row)
            if is_meant and rows:
                await relay.store.remove([row.id for row in rows], barred=barred)
            shown.show("removing" if is_meant else "counting", tally.events, None)
    return tally


async def _matching(store: Store, filters: tuple[Filter, ...]) -> AsyncIterator[list[Stored]]:
    """Yield what any of the filters matches, each event once."""
    upto, now = await store.head(), int(time.time())
    for number, wanted in enumerate(filters):
        earlier = filters[:number]
        async for page in store.scan(wanted, upto=upto, now=now):
            if not earlier:
                yield page
                continue
            # A limit cannot be seen on an event: there, some may be named twice.
            yield [row for row in page if not any(one.matches(row.event()) for one in earlier)]


@ends_with("the rules were carried out, or what they would do was said", "they could not be")
@click.command("retention")
@config_option
@data_option
@click.option("--dry-run", is_flag=True, help="Only say what would go by which rule.")
@json_option
@click.pass_context
def retention(
    context: click.Context, config: Path | None, data: Path | None, dry_run: bool, as_json: bool
) -> None:
    """Remove what the rules [relay.retention.NAME] say, at once.

    A running relay does so by itself, every `retention_every_seconds`. What two rules name counts for both
    in a dry run.
    """
    loaded = load_for(context, config, data)
    if not loaded.relay.retention:
        raise click.UsageError("the configuration has no rules: write a table [relay.retention.NAME]")
    try:
        with steps() as shown:
            if dry_run:
                tallies = asyncio.run(_planned(loaded, shown))
                result = {name: tally.value() for name, tally in tallies.items()}
                lines = [line for name, tally in tallies.items() for line in _lines_of(name, tally)]
            else:
                removed = asyncio.run(_carried_out(loaded, shown))
                result = {name: {"events": count} for name, count in removed.items()}
                lines = [f"{name}: {count:,} events removed" for name, count in removed.items()]
    except (StoreError, CannotStart, CannotRead) as error:
        raise Failed(str(error)) from error
    print_result(as_json, {"removed": not dry_run, "rules": result}, lines)


def _lines_of(name: str, tally: _Tally) -> Iterator[str]:
    first, *rest = tally.lines()
    yield f"{name}: {first} would go"
    yield from rest


async def _planned(config: Configuration, shown: Steps) -> dict[str, _Tally]:
    tallies = {name: _Tally() for name in config.relay.retention}
    looked_at = 0
    async with opened_relay(config, make=False) as relay:
        doomed: Doomed
        async for doomed in plan(_rules(config, relay.store), relay.store, int(time.time())):
            for row in doomed.rows:
                tallies[doomed.rule].add(row)
            looked_at += len(doomed.rows)
            shown.show("looking", looked_at, None)
    return tallies


async def _carried_out(config: Configuration, shown: Steps) -> dict[str, int]:
    counts: Counter[str] = Counter()

    def on_removed(rule: str, count: int) -> None:
        counts[rule] += count
        shown.show("removing", counts.total(), None)

    async with opened_relay(config, make=False) as relay:
        removed = await carry_out(
            _rules(config, relay.store), relay.store, int(time.time()), rest=0, on_removed=on_removed
        )
    return {name: removed.get(name, 0) for name in config.relay.retention}


def _rules(config: Configuration, store: Store) -> tuple[RetentionRule, ...]:
    desk = Desk()
    desk.open(store)
    return retention_rules(config.relay, read_key(config.data / KEY), desk)
