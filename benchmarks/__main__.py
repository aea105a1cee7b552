"""The command: `python -m benchmarks`, or `make bench`."""

import json
import resource
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from benchmarks import dataset, growth, machine, polling, questions, report, searching, soak
from benchmarks.filling import Filling
from benchmarks.measuring import Run, Sizes, large_database
from benchmarks.report import Report
from benchmarks.server import CONFIG, ROOT, RelayFailed

PARTS = ("ingest", "query", "live", "idle", "import", "large")
STUDIES = ("growth", "soak", "search", "poll")
"""They take long: only where they are named."""
PLOTS = ROOT / "docs" / "performance"
TABLE_WIDTH = 190
"""Columns, where no terminal says how many there are."""


def _numbers(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise click.BadParameter("numbers with commas between them") from None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--events", default=20_000, show_default=True, help="Size of the set; 100000 for a full run.")
@click.option("--large", default=1_000_000, show_default=True, help="Unsigned events of the large database.")
@click.option(
    "--runs", default=1, show_default=True, help="Measure so many times; the table has the medians."
)
@click.option(
    "--workers", default="0", callback=_numbers, help="Such as 1,2,4: side by side; 0: the default."
)
@click.option("--asks", default=1_000, show_default=True, help="Questions of each timed run.")
@click.option(
    "--subscribers", default="100,1000", show_default=True, callback=_numbers, help="Live, one run for each."
)
@click.option("--notes", default=500, show_default=True, help="Notes of the fan-out to the most subscribers.")
@click.option("--idle", "idle_connections", default=1_000, show_default=True, help="Idle connections.")
@click.option("--seconds", default=5, show_default=True, help="Of steady publishing, and of idling.")
@click.option(
    "--only",
    type=click.Choice((*PARTS, *STUDIES)),
    multiple=True,
    help="Measure only this; may be repeated. growth, soak, search and poll are measured only so.",
)
@click.option(
    "--sizes",
    default=",".join(map(str, growth.SIZES)),
    callback=_numbers,
    help="Of growth: events in the database.",
)
@click.option("--votes", default=48_000, show_default=True, help="Of the poll.")
@click.option("--minutes", default=60.0, show_default=True, help="Of soaking.")
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    default=PLOTS,
    help="Folder for plots, and what the studies found as JSON [default: docs/performance].",
)
@click.option("--config", type=click.Path(exists=True, path_type=Path), default=CONFIG, help="Of the relay.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where sets of events are kept.")
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, allow_dash=True), help="Write JSON; -: only that."
)
@click.option("--markdown", type=click.Path(path_type=Path), help="Write the table as Markdown.")
def main(
    events: int,
    large: int,
    runs: int,
    workers: list[int],
    asks: int,
    subscribers: list[int],
    notes: int,
    idle_connections: int,
    seconds: int,
    only: tuple[str, ...],
    sizes: list[int],
    votes: int,
    minutes: float,
    plots: Path,
    config: Path,
    cache: Path | None,
    json_path: Path | None,
    markdown: Path | None,
) -> None:
    """Measure `torv serve` on this machine, with its answers checked, and print one table."""
    _allow_many_files()
    console = Console(stderr=str(json_path) == "-", width=None if sys.stdout.isatty() else TABLE_WIDTH)
    try:
        if "growth" in only:
            growth.study(sizes, config=config, folder=plots, console=console)
        if "soak" in only:
            soak.study(
                minutes,
                config=config,
                workers=workers[0],
                filled=min(large, soak.FILLED),
                folder=plots,
                console=console,
            )
        if "search" in only:
            searching.study(large, asks, config=config, folder=plots, console=console)
        if "poll" in only:
            polling.study(votes, max(subscribers), config=config, folder=plots, console=console)
        if parts := [part for part in PARTS if part in (only or PARTS)]:
            amounts = Sizes(asks, subscribers, notes, idle_connections, seconds, large)
            reports = _table(events, amounts, parts, workers, runs, config, cache or dataset.cache_folder())
            report.show(reports, console)
            if markdown is not None:
                markdown.write_text(report.markdown(reports))
            if json_path is not None:
                _write_json([found.to_json() for found in reports], json_path)
    except RelayFailed as error:
        raise click.ClickException(str(error)) from error


def _table(
    events: int,
    sizes: Sizes,
    parts: Sequence[str],
    workers: Sequence[int],
    runs: int,
    config: Path,
    cache: Path,
) -> list[Report]:
    """Measure everything with each number of workers in turn."""
    here = machine.describe()
    with Console(stderr=True).status("signed events") as status, ExitStack() as stack:
        data = dataset.load(events, cache)
        asked: list[questions.Question] = []
        if not {"ingest", "query"}.isdisjoint(parts):
            status.update("questions, by brute force")
            asked = questions.ask(data, min(sizes.asks, 300))
            asked += questions.count(data, asked)
        filled = stack.enter_context(large_database(sizes.large, status.update)) if "large" in parts else None
        reports = []
        for number in workers:
            status.update("the machine's limit")
            first, measured = machine.limit(data.events), []
            for turn in range(runs):
                say = _prefixed(status.update, number, turn, runs)
                run = Run(data, asked, sizes, here, config=config, workers=number, say=say)
                _measure(run, parts, filled)
                measured.append(run.rows)
            status.update("the machine's limit")
            limit = first.mean(machine.limit(data.events))
            rows = report.merge(measured)
            reports.append(Report(here, number, events, len(data.surviving), limit, rows))
    return reports


def _prefixed(say: Callable[[str], None], workers: int, turn: int, runs: int) -> Callable[[str], None]:
    of = f"run {turn + 1} of {runs}" + (f" with {workers} workers" if workers else "")
    return lambda text: say(f"{of}: {text}")


def _measure(run: Run, parts: Sequence[str], filled: Filling | None) -> None:
    if "ingest" in parts:
        run.ingest()
    if not {"query", "live"}.isdisjoint(parts):
        run.query_and_live(query="query" in parts, live="live" in parts)
    if "idle" in parts:
        run.idle()
    if "import" in parts:
        run.import_()
    if filled is not None:
        run.large(filled)


def _write_json(reports: list[dict[str, object]], path: Path) -> None:
    text = json.dumps(reports, indent=1, ensure_ascii=False) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
    else:
        path.write_text(text)


def _allow_many_files() -> None:
    """Raise the limit of open files as far as it goes: every connection is one, here and in the relay."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
