"""The command: `python -m benchmarks`, or `make bench`."""

import json
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from benchmarks import dataset, machine, questions, report, workloads
from benchmarks.report import Report, row
from benchmarks.server import CONFIG, Relay, serve, usage
from benchmarks.sockets import RelayFailed
from benchmarks.transfer import import_events

PARTS = ("ingest", "query", "live", "idle", "import")
PUBLISHERS = (1, 8, 64)
ASKERS = (1, 16)
AUTHORS_EACH = 200
LIVE_PER_SECOND = 50
TABLE_WIDTH = 170
"""Columns, where no terminal says how many there are."""


class Run:
    """One run: starts relays, measures, gathers lines."""

    def __init__(
        self, data: dataset.DataSet, config: Path, found: Report, say: Callable[[str], None]
    ) -> None:
        self._data = data
        self._config = config
        self._found = found
        self._say = say
        self._frames = workloads.event_frames(data.events)
        # Between connections a newer version may overtake an older one, which is then refused.
        self._replaced = len(data.events) - len(data.surviving)

    def _add(
        self, name: str, method: str, result: workloads.Result, note: str = "", *, paced: bool = False
    ) -> None:
        cores = self._found.machine.cores
        self._found.rows.append(row(name, method, result, cores, note=note, paced=paced))

    def ingest(self, connections: int, relay: Relay) -> None:
        """Publish the whole set."""
        self._say(f"ingest over {connections}")
        refusable = self._replaced if connections > 1 else 0
        result = workloads.publish(relay, self._frames, connections, refusable=refusable)
        resident = usage(relay.pid).resident_bytes / 2**20
        stored = sum(path.stat().st_size for path in relay.data.iterdir()) / len(self._data.surviving)
        note = f"{resident:.0f} MB resident, {stored:,.0f} B of disk each"
        self._add("ingest events", _over(connections), result, note)

    def duplicates(self, connections: int, relay: Relay) -> None:
        """Publish the whole set once more."""
        self._say("known duplicates")
        # Superseded versions are not kept, so they are not known.
        result = workloads.publish(relay, self._frames, connections, refusable=self._replaced)
        self._add("known duplicates", _over(connections), result)

    def query(self, relay: Relay, *, distinct: int, asks: int) -> None:
        """Check every answer, then ask for speed."""
        self._say("questions, by brute force")
        asked = questions.ask(self._data, distinct)
        counted = questions.counted(self._data, asked)
        self._say("questions, checked")
        workloads.check(relay, asked, counted)
        for connections in ASKERS:
            self._say(f"questions over {connections}")
            result, events = workloads.query(relay, asked, connections, asks=asks)
            note = f"{events / result.spent.seconds:,.0f} events a second"
            self._add("answer REQs, mixed", _over(connections), result, note)
            for name in questions.NAMES if connections == 1 else ():
                chosen = [question for question in asked if question.name == name]
                if chosen:
                    result, events = workloads.query(relay, chosen, 1, asks=max(asks // 10, len(chosen)))
                    note = f"{events / result.count:,.0f} events each"
                    self._add(f"  {name}", _over(1), result, note)
        self._say("counts")
        result, _ = workloads.query(relay, counted, 1, asks=asks, verb="COUNT")
        self._add("answer COUNTs", _over(1), result)

    def live(self, relay: Relay, subscribers: int, notes: int, seconds: int) -> None:
        """Deliver new notes to live subscribers, steadily and at full speed."""
        self._say(f"live to {subscribers}")
        steady = workloads.live_latency(
            relay, subscribers, LIVE_PER_SECOND * seconds, per_second=LIVE_PER_SECOND
        )
        to = f"{subscribers:,} subscribers"
        self._add("live latency", f"{to}, {LIVE_PER_SECOND} notes a second", steady, paced=True)
        for authors_each in (None, AUTHORS_EACH):
            of = "all notes" if authors_each is None else f"{authors_each} authors each"
            result = workloads.fan_out(relay, subscribers, notes, authors_each=authors_each)
            note = f"{notes / result.spent.seconds:,.0f} notes a second"
            self._add("deliver live", f"{to}, {of}", result, note)

    def idle(self, connections: int, seconds: int) -> None:
        """Hold connections that wait."""
        self._say(f"{connections} idle connections")
        with serve(self._config) as relay:
            found = workloads.idle(relay, connections, seconds=seconds)
        note = f"{found.bytes_each / 1000:.1f} kB each, {found.cpu_share:.1%} of a core while idle"
        self._add("open connections", f"{connections:,} with one subscription", found.opening, note)

    def import_(self) -> None:
        """Import the set from a file."""
        self._say("import")
        result, starting = import_events(self._data.events, self._config)
        note = f"{result.spent.seconds:.1f} s, about {starting:.1f} of them to start and stop"
        self._add("import events", "one file", result, note)

    @contextmanager
    def filled(self, connections: int) -> Iterator[Relay]:
        """Run a relay that holds the set, its filling measured."""
        with serve(self._config) as relay:
            self.ingest(connections, relay)
            yield relay


def _over(connections: int) -> str:
    return "1 connection" if connections == 1 else f"{connections} connections"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--events", default=20_000, show_default=True, help="Size of the set; 100000 for a full run.")
@click.option("--asks", default=1_000, show_default=True, help="Questions of each timed query run.")
@click.option(
    "--subscribers", default="100,1000", show_default=True, help="Live subscribers, one run for each."
)
@click.option("--notes", default=500, show_default=True, help="Notes of each fan-out run.")
@click.option("--idle", "idle_connections", default=1_000, show_default=True, help="Idle connections.")
@click.option("--seconds", default=5, show_default=True, help="Of steady publishing, and of idling.")
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Measure only this; may be repeated.")
@click.option("--config", type=click.Path(exists=True, path_type=Path), default=CONFIG, help="Of the relay.")
@click.option("--cache", type=click.Path(path_type=Path), help="Where sets of events are kept.")
@click.option(
    "--json",
    "json_path",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write JSON too; -: only it.",
)
def main(
    events: int,
    asks: int,
    subscribers: str,
    notes: int,
    idle_connections: int,
    seconds: int,
    only: tuple[str, ...],
    config: Path,
    cache: Path | None,
    json_path: Path | None,
) -> None:
    """Measure `torv serve` on this machine, with its answers checked, and print one table."""
    _allow_many_files()
    console = Console(stderr=str(json_path) == "-", width=None if sys.stdout.isatty() else TABLE_WIDTH)
    progress = Console(stderr=True)
    parts = only or PARTS
    with progress.status("signed events") as status:
        data = dataset.load(events, cache or dataset.cache_folder())
        first = machine.limit(data.events)
        found = Report(machine.describe(), events, len(data.surviving), first)
        run = Run(data, config, found, lambda text: status.update(text))
        try:
            _measure(
                run,
                parts,
                asks=asks,
                subscribers=[int(count) for count in subscribers.split(",")],
                notes=notes,
                idle=idle_connections,
                seconds=seconds,
            )
        except RelayFailed as error:
            raise click.ClickException(str(error)) from error
        status.update("the machine's limit")
        last = machine.limit(data.events)
    found.limit = machine.Limit((first.one_core + last.one_core) / 2, (first.all_cores + last.all_cores) / 2)
    report.show(found, console)
    if json_path is not None:
        text = json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n"
        if str(json_path) == "-":
            sys.stdout.write(text)
        else:
            json_path.write_text(text)


def _measure(
    run: Run,
    parts: Sequence[str],
    *,
    asks: int,
    subscribers: Sequence[int],
    notes: int,
    idle: int,
    seconds: int,
) -> None:
    if "ingest" in parts:
        for connections in PUBLISHERS[:-1]:
            with run.filled(connections):
                pass
    if not set(parts).isdisjoint({"ingest", "query", "live"}):
        with run.filled(PUBLISHERS[-1]) as relay:
            if "ingest" in parts:
                run.duplicates(PUBLISHERS[-1], relay)
            if "query" in parts:
                run.query(relay, distinct=min(asks, 300), asks=asks)
            if "live" in parts:
                for count in subscribers:
                    run.live(relay, count, notes, seconds)
    if "idle" in parts:
        run.idle(idle, seconds)
    if "import" in parts:
        run.import_()


def _allow_many_files() -> None:
    """Raise the limit of open files as far as it goes: every connection is one, here and in the relay."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    main()
