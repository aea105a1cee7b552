"""`torv relay sync`: this relay and another one, brought together once."""

import asyncio
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import orjson

from relay.assembly import KEY, CannotRead, read_key, read_secret
from relay.commands.opening import Configuration, data_option, load_for, opened_relay, stop_on_signals
from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.net.workers import CannotStart
from relay.nostr.event import PubKey
from relay.nostr.filter import Filter, InvalidFilter, parse_filter
from relay.nostr.keys import SecretKey
from relay.nostr.reasons import Refusal
from relay.settings import config_option
from relay.store.api import StoreError
from relay.transfer.progress import meter

if TYPE_CHECKING:
    from relay.mirror.report import Report

MARKS = "syncs.json"


@ends_with(
    "all that could move has moved", "it did not come to its end, or the other relay did not keep its word"
)
@click.command("sync")
@click.argument("url")
@config_option
@data_option
@click.option(
    "--direction",
    type=click.Choice(["up", "down", "both"]),
    default="down",
    show_default=True,
    help="up: send what the other relay lacks; down: fetch what this one lacks.",
)
@click.option(
    "--filter",
    "texts",
    multiple=True,
    metavar="JSON",
    help="Only events that meet this filter, as in a REQ; several are done one after the other.",
)
@click.option("--key", type=click.Path(path_type=Path), help="Authenticate with the secret key in this file.")
@click.option(
    "--trusted",
    is_flag=True,
    help="What it sends has passed rules like ours: age, work, members and plugins do not hold it up.",
)
@click.option("--dry-run", is_flag=True, help="Only compare: say how many events would move.")
@json_option
@click.pass_context
def sync(
    context: click.Context,
    url: str,
    config: Path | None,
    data: Path | None,
    direction: str,
    texts: tuple[str, ...],
    key: Path | None,
    trusted: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Compare this relay's events with those of the relay at URL, and move what is missing.

    The other one needs no NIP-77, but with it only differences travel. Every event is verified and judged by
    this relay's rules. Letters, protected events, events of groups that are not open and what this relay says
    of itself never leave, whatever the filter says. The relay may be running meanwhile.
    """
    filters = [_filter(text) for text in texts] or [Filter()]
    loaded = load_for(context, config, data)
    report = asyncio.run(_guarded(loaded, url, direction, filters, key, trusted, dry_run))
    print_result(as_json, report.as_values(), report.lines(dry_run=dry_run))
    sys.exit(0 if report.is_fine else 1)


def _filter(text: str) -> Filter:
    try:
        wanted = parse_filter(orjson.loads(text))
    except (orjson.JSONDecodeError, InvalidFilter) as error:
        raise click.BadParameter(str(error), param_hint="--filter") from error
    if wanted.search is not None:
        raise click.BadParameter("what is searched for cannot be compared", param_hint="--filter")
    return wanted


async def _guarded(
    config: Configuration,
    url: str,
    direction: str,
    filters: Sequence[Filter],
    key: Path | None,
    trusted: bool,
    dry_run: bool,
) -> "Report":
    try:
        signer = None if key is None else read_secret(key)
        return await _sync(config, url, direction, filters, signer, trusted, dry_run)
    except (StoreError, CannotStart, CannotRead) as error:
        raise Failed(str(error)) from error


async def _sync(
    config: Configuration,
    url: str,
    direction: str,
    filters: Sequence[Filter],
    signer: SecretKey | None,
    trusted: bool,
    dry_run: bool,
) -> "Report":
    from relay.mirror.exchange import Direction
    from relay.mirror.house import House, Partner
    from relay.mirror.report import Report
    from relay.mirror.syncing import Marks, Sync

    way = Direction(direction)
    partner = Partner(url, signer, trusted, is_sync=True)
    report = Report()
    async with opened_relay(config, make=way is Direction.DOWN) as relay:
        house = House(relay, PubKey(read_key(config.data / KEY).public), config.relay)
        try:
            house.call(partner)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="URL") from error
        if way.is_up:
            for wanted in filters:
                if isinstance(refusal := house.door.narrow(wanted), Refusal):
                    raise Failed(f"nothing of this may leave: {refusal.text}")
        with meter("sync", None) as shown:
            marks = Marks(config.data / MARKS, now=relay.now)
            running = Sync(house, partner, way, marks, dry_run=dry_run, on_progress=shown.show)
            await _until_stopped(running.run(filters, report), report)
    return report


async def _until_stopped(running: Coroutine[None, None, None], report: "Report") -> None:
    """Run until the end, or until Ctrl-C or SIGTERM: then what was begun is left as it is."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    syncing, stopping = asyncio.create_task(running), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([syncing, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not syncing.done():
            report.failure = "it was stopped; what has moved stays, and the next sync goes on from there"
            syncing.cancel()
    finally:
        stopping.cancel()
    try:
        await syncing
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
