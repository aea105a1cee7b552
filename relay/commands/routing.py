"""`torv relay router`: how the streams to and from other relays are doing."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click

from relay.commands.opening import data_option, load_for
from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.net.streams import read_status
from relay.settings import config_option

_HEADER = ("STREAM", "PARTNER", "STATE", "RECEIVED", "SENT", "REFUSED", "LAG", "COMPARED")


@ends_with("all partners are connected", "one is not, or no router runs")
@click.command("router")
@config_option
@data_option
@click.option("--status", is_flag=True, help="Show how the streams are doing; that is what happens anyway.")
@json_option
@click.pass_context
def router(
    context: click.Context, config: Path | None, data: Path | None, status: bool, as_json: bool
) -> None:
    """Show how the streams of [relay.router] are doing, as the running relay last told."""
    loaded = load_for(context, config, data)
    now = time.time()
    found = read_status(loaded.data, now)
    if found is None:
        raise Failed("no router runs: there is no [relay.router.NAME], or the relay is stopped")
    links = cast(list[dict[str, Any]], found["links"])
    print_result(as_json, found, _table(links, now))
    sys.exit(0 if all(link["connected"] for link in links) else 1)


def _table(links: list[dict[str, Any]], now: float) -> Iterator[str]:
    rows = [_HEADER, *(_row(link, now) for link in links)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for link in links:
        if link["error"] is not None:
            yield f"{link['stream']}: {link['error']}"


def _row(link: dict[str, Any], now: float) -> tuple[str, ...]:
    refused = link["refused_here"] + link["refused_there"]
    lag = [
        *([f"{link['lag_events']:,} events"] if "lag_events" in link else ()),
        *([f"{link['behind_seconds']:,} s"] if "behind_seconds" in link else ()),
    ]
    compared = link["compared_at"]
    left = (
        f", {link['left_here']:,}/{link['left_there']:,} left"
        if link["left_here"] or link["left_there"]
        else ""
    )
    return (
        link["stream"],
        link["url"],
        f"{link['state']} ({now - link['since']:,.0f} s)",
        f"{link['received']:,}",
        f"{link['sent']:,}",
        f"{refused:,}",
        " / ".join(lag) or "-",
        "never" if compared is None else f"{max(0.0, now - compared):,.0f} s ago{left}",
    )
