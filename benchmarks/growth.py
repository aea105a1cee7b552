"""How cost grows with the database: the writer's, the disk's, each question's, the start's.

The events are unsigned and written through the store itself (`benchmarks.filling`), for nothing that is
measured here verifies; the questions go over the wire. Their answers match and are in order, but are not
compared with brute force: that is done in the smaller databases of the table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import asking, machine, plots, questions
from benchmarks.filling import Cost, Filling, filling
from benchmarks.results import percentile
from benchmarks.server import serve

SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000)
ASKED = 400
"""Questions of all types at each size, and the COUNTs among them."""


@dataclass(frozen=True)
class Point:
    """What was found at one size."""

    events: int
    stored: int
    writer_us: float
    """CPU time of the store's threads for each event, from the size before to this one."""
    events_per_second: float
    """Over the same stretch, with the making of the events on another core."""
    disk_bytes_each: float
    """For each stored event, the log copied into the database."""
    start_seconds: float
    """From `torv serve` to the end of the first answer, the file being in the kernel's cache."""
    p50_ms: dict[str, float]
    """By type of question; COUNTs by "count " and the type."""


def study(sizes: Sequence[int], *, config: Path, folder: Path, console: Console) -> list[Point]:
    """Measure at each size; write growth.json and growth.svg, and print what was found."""
    sizes = sorted(sizes)
    points = []
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with (
        filling(sizes[-1]) as filled,
        Progress(*columns, console=Console(stderr=True), refresh_per_second=2) as progress,
    ):
        bar = progress.add_task("", total=sizes[-1])
        for size in sizes:
            progress.update(bar, description=f"filling up to {size:,}")
            cost = filled.grow(size, lambda done: progress.update(bar, completed=done))
            progress.update(bar, description=f"asking among {size:,}")
            points.append(_measure(filled, cost, config))
    found = {"machine": machine.describe(), "points": points}
    plots.write_json(found, folder / "growth.json")
    plots.draw_growth(points, folder / "growth.svg")
    for line in lines(points):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return points


def _measure(filled: Filling, cost: Cost, config: Path) -> Point:
    medians: dict[str, float] = {}
    with serve(config, filled.data, search=False) as relay:
        start = asking.first_answer(relay)
        asked = questions.unanswered(filled.subjects, ASKED)
        answered = asking.first_answers(relay, [*asked, *questions.counted(asked)])
        for verb, prefix in (("REQ", ""), ("COUNT", "count ")):
            for name in questions.NAMES:
                if chosen := [one for one in answered if one.verb == verb and one.name == name]:
                    result = asking.query(relay, chosen, 1, asks=len(chosen))
                    medians[prefix + name] = percentile(result.latencies, 0.5) * 1000
    return Point(
        events=filled.size,
        stored=filled.stored,
        writer_us=cost.store_cpu_seconds / cost.events * 1e6,
        events_per_second=cost.events / cost.seconds,
        disk_bytes_each=filled.database_bytes / filled.stored,
        start_seconds=start,
        p50_ms=medians,
    )


def lines(points: Sequence[Point]) -> list[str]:
    """Return the points as a Markdown table, one column for each size."""
    rows: list[tuple[str, list[str]]] = [
        ("writer, µs of CPU an event", [f"{point.writer_us:.0f}" for point in points]),
        ("disk, bytes a stored event", [f"{point.disk_bytes_each:,.0f}" for point in points]),
        ("start to the first answer, s", [f"{point.start_seconds:.2f}" for point in points]),
    ]
    rows += [
        (f"{name}, p50 ms", [f"{point.p50_ms[name]:.2f}" for point in points]) for name in points[0].p50_ms
    ]
    headings = ["events", *(f"{point.events:,}" for point in points)]
    table = [headings, ["---", *["--:"] * len(points)], *([name, *cells] for name, cells in rows)]
    return ["| " + " | ".join(row) + " |" for row in table]
