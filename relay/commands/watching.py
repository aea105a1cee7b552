"""`torv relay top`, `kick` and `healthcheck`: who is connected to the running relay, and is it well."""

import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from relay.commands.opening import Configuration, data_option, load_for
from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.config import RelayConfig
from relay.net.control import NobodyAnswers, give_order
from relay.net.shapes import in_one_line
from relay.settings import config_option

ANSWER_SECONDS = 5.0
_ROWS = 40
"""Of the table, on a screen that may be higher."""
_WORKER = re.compile(r"worker-(\d+)\.sock").fullmatch
_ID = re.compile(r"(\d+)-(\d+)").fullmatch


def reports(data: Path) -> list[dict[str, Any]]:
    """Ask every worker of the relay on this folder. Raises NobodyAnswers if there is none."""
    found: list[dict[str, Any]] = []
    trouble: NobodyAnswers | None = None
    for path in sorted(data.glob("worker-*.sock")):
        if _WORKER(path.name):
            try:
                found.append(give_order(path, "report", seconds=ANSWER_SECONDS))
            except NobodyAnswers as error:
                # It may have died, and its successor not be there yet.
                trouble = error
    if not found:
        raise trouble or NobodyAnswers(f"no relay runs on this folder: {data}")
    return found


def merged(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Put together what the workers say: those who are behind with most come first."""
    shown = [
        {"id": f"{one['worker']}-{connection.pop('connection')}", **connection}
        for one in told
        for connection in one["shown"]
    ]
    shown.sort(key=lambda one: (one["bytes_unsent"], one["bytes_in"] + one["bytes_out"]), reverse=True)
    slow = [{"worker": one["worker"], **query} for one in told for query in one["slow"]]
    return {
        "workers": {str(one["worker"]): one["connections"] for one in told},
        "connections": shown,
        "slow_queries": sorted(slow, key=lambda query: query["at"], reverse=True),
    }


@ends_with("the relay answered", "no relay runs on the folder")
@click.command("top")
@config_option
@data_option
@click.option("--once", is_flag=True, help="Print the table once, and end.")
@click.option("--seconds", type=click.FloatRange(0.2), default=2.0, help="Between two looks [default: 2].")
@json_option
@click.pass_context
def top(
    context: click.Context,
    config: Path | None,
    data: Path | None,
    once: bool,
    seconds: float,
    as_json: bool,
) -> None:
    """Show who is connected to the running relay: those first for whom most is held, then by traffic.

    Filters are shown by their shapes: how many authors, not which. Of very many connections each worker
    tells the first 200. With --json, prints what there is once.
    """
    loaded = load_for(context, config, data)
    try:
        if once or as_json or not sys.stdout.isatty():
            found = merged(reports(loaded.data))
            print_result(as_json, found, _lines(found))
        else:
            _watch(loaded, seconds)
    except NobodyAnswers as error:
        raise Failed(str(error)) from error
    except KeyboardInterrupt:
        pass


def _watch(loaded: Configuration, seconds: float) -> None:
    # Imported here, for no other command needs it.
    from rich.live import Live
    from rich.text import Text

    with Live(screen=True, auto_refresh=False) as live:
        while True:
            live.update(Text("\n".join(_lines(merged(reports(loaded.data))))), refresh=True)
            time.sleep(seconds)


def _lines(found: dict[str, Any]) -> Iterator[str]:
    workers = found["workers"]
    spread = ", ".join(f"worker {number}: {count}" for number, count in workers.items())
    yield f"{sum(workers.values()):,} connections ({spread})"
    yield ""
    yield _row(("id", "address", "age", "in", "out", "unsent", "received", "sent", "keys", "subscriptions"))
    for one in found["connections"][:_ROWS]:
        yield _row(
            (
                one["id"],
                one["address"],
                _duration(one["seconds"]),
                f"{one['events_in']:,}",
                f"{one['events_out']:,}",
                _size(one["bytes_unsent"]),
                _size(one["bytes_in"]),
                _size(one["bytes_out"]),
                ",".join(one["keys"]) or "-",
                " || ".join(map(in_one_line, one["subscriptions"])) or "-",
            )
        )
    if found["slow_queries"]:
        yield ""
        yield "slow queries"
    for query in found["slow_queries"][:_ROWS]:
        when = time.strftime("%H:%M:%S", time.localtime(query["at"]))
        yield (
            f"{when}  {query['ms']:,.0f} ms  {query['verb']}  {query['rows']:,} rows  "
            f"{query['worker']}-{query['connection']}  {in_one_line(query['filters'])}"
        )


def _row(cells: Iterable[str]) -> str:
    widths = (8, 24, 7, 8, 8, 9, 9, 9, 18, 0)
    return " ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def _size(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


@ends_with("the connection was ended", "there is no such connection, or no relay runs on the folder")
@click.command("kick")
@click.argument("connection")
@config_option
@data_option
@json_option
@click.pass_context
def kick(
    context: click.Context, connection: str, config: Path | None, data: Path | None, as_json: bool
) -> None:
    """End a CONNECTION, named as `torv relay top` names it, such as 0-17. The client may come back."""
    loaded = load_for(context, config, data)
    named = _ID(connection)
    if named is None:
        raise click.BadParameter("expected worker and number, such as 0-17", param_hint="CONNECTION")
    try:
        told = give_order(loaded.data / f"worker-{named[1]}.sock", f"kick {named[2]}", seconds=ANSWER_SECONDS)
    except NobodyAnswers as error:
        raise Failed(str(error)) from error
    if not told["kicked"]:
        raise Failed(f"there is no connection {connection}")
    print_result(as_json, {"kicked": connection}, [f"ended {connection}"])


@ends_with("the relay takes questions and events", "it does not, or no relay answers")
@click.command("healthcheck")
@config_option
@data_option
@click.option(
    "--timeout", "seconds", type=click.FloatRange(0.1), default=5.0, help="In seconds [default: 5]."
)
@json_option
@click.pass_context
def healthcheck(
    context: click.Context, config: Path | None, data: Path | None, seconds: float, as_json: bool
) -> None:
    """Ask the configured relay, on this machine, whether it is ready; for containers and monitors.

    It asks /readyz: the database takes writes, and the disk has room.
    """
    loaded = load_for(context, config, data)
    url = ready_url(loaded.relay)
    # The certificate is for another name than the one we come by.
    trust = ssl._create_unverified_context() if url.startswith("https") else None
    host = next(iter(getattr(loaded.relay, "hosts", ())), None)
    asked = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        # Straight, whatever proxies the environment names.
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust)
        )
        with opener.open(asked, timeout=seconds) as answer:
            said = str(answer.read(200), "utf-8").strip()
    except urllib.error.HTTPError as error:
        with error:
            raise Failed(str(error.read(200), "utf-8").strip()) from error
    except OSError as error:
        raise Failed(f"{url} does not answer: {getattr(error, 'reason', error)}") from error
    print_result(as_json, {"ready": True}, [said])


def ready_url(relay: RelayConfig) -> str:
    """Return where the relay on this machine says whether it is ready."""
    # Who listens on all addresses is reached on its own.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(relay.host, relay.host)
    scheme = "http" if relay.tls is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{relay.port}/readyz"
