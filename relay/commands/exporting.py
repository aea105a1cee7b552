"""`torv relay export`: the store into a file of events."""

import asyncio
import time
from pathlib import Path

import click

from relay.assembly import CannotRead
from relay.commands.opening import Configuration, data_option, load_for, opened
from relay.net.workers import CannotStart
from relay.settings import config_option
from relay.store.api import StoreError
from relay.transfer.exporting import export_events, output
from relay.transfer.progress import meter


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
@click.pass_context
def export(context: click.Context, config: Path | None, data: Path | None, path: Path | None) -> None:
    """Write every stored event as a JSON line in canonical form, oldest first.

    That is all a relay holds, also what it shows only to some readers. Equal stores give equal files.
    The relay may be running meanwhile.
    """
    loaded = load_for(context, config, data)
    try:
        count = asyncio.run(_export(loaded, path))
    except (StoreError, CannotStart, CannotRead) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{count:,} events exported", err=True)


async def _export(config: Configuration, path: Path | None) -> int:
    async with opened(config, make=False) as (store, _):
        with output(path) as file, meter("export", None) as shown:
            return await export_events(store, file.write, now=int(time.time()), on_page=shown.show)
