"""`torv relay export`: the store into a file of events."""

import asyncio
import time
from pathlib import Path

import click

from relay.assembly import CannotRead
from relay.commands.opening import Configuration, data_option, load_for, opened
from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.net.workers import CannotStart
from relay.settings import config_option
from relay.store.api import StoreError
from relay.transfer.exporting import export_events, output
from relay.transfer.progress import meter


@ends_with("all was written", "it could not be written")
@click.command("export")
@config_option
@data_option
@click.option(
    "--output",
    "-o",
    "path",
    type=click.Path(path_type=Path),
    help="Write to this file, compressed if its name ends in .gz or .zst [default: standard output].",
)
@json_option
@click.pass_context
def export(
    context: click.Context, config: Path | None, data: Path | None, path: Path | None, as_json: bool
) -> None:
    """Write every stored event as a JSON line in canonical form, oldest first.

    That is all a relay holds, also what it shows only to some readers. Equal stores give equal files.
    The relay may be running meanwhile. --json says how many they were and needs --output.
    """
    if as_json and path is None:
        raise click.UsageError("--json needs --output: standard output holds the events")
    loaded = load_for(context, config, data)
    try:
        count = asyncio.run(_export(loaded, path))
    except (StoreError, CannotStart, CannotRead) as error:
        raise Failed(str(error)) from error
    if as_json:
        print_result(as_json, {"events": count, "output": str(path)}, ())
    else:
        click.echo(f"{count:,} events exported", err=True)


async def _export(config: Configuration, path: Path | None) -> int:
    async with opened(config, make=False) as (store, _):
        with output(path) as file, meter("export", None) as shown:
            return await export_events(store, file.write, now=int(time.time()), on_page=shown.show)
