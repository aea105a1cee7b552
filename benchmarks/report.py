"""What the runs found: one table for people, on a terminal or as Markdown, or JSON for programs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import mean, median
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.goals import GOALS
from benchmarks.machine import Limit, Machine
from benchmarks.results import Result

PER_SECOND = "/s"


@dataclass
class Row:
    """One line of the table; of several runs each number is the median."""

    key: str
    """Names the row for programs and goals."""
    name: str
    method: str
    figure: float
    """What the row is about, in `unit`."""
    unit: str
    p50_ms: float | None = None
    p99_ms: float | None = None
    server_us: float | None = None
    """The relay's CPU time for one, in microseconds, over all its processes."""
    other_share: float | None = None
    """CPU that neither relay nor client used, as a share of the whole machine: noise."""
    note: str = ""
    """Of the last run."""
    runs: tuple[float, ...] = ()
    """The figure of each run."""


@dataclass
class Report:
    """All that was found with one number of workers."""

    machine: Machine
    workers: int
    """0: as many as the relay starts by itself."""
    events: int
    stored: int
    limit: Limit
    """The mean of before and after."""
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; rows carry their goal on this machine, and whether it is reached."""
        value = asdict(self)
        for row, plain in zip(self.rows, value["rows"], strict=True):
            goal = GOALS.get(row.key)
            plain["goal"] = goal.scaled(self.limit.all_cores) if goal else None
            plain["reached"] = goal.is_reached(row.figure, self.limit.all_cores) if goal else None
            plain["of_all_cores"] = row.figure / self.limit.all_cores if row.unit == PER_SECOND else None
        return value


def row(
    key: str,
    name: str,
    method: str,
    result: Result,
    cores: int,
    *,
    figure: float | None = None,
    unit: str = PER_SECOND,
    note: str = "",
) -> Row:
    """Return the line of one measurement; its figure is the rate, if it is not given."""
    spent = result.spent
    return Row(
        key=key,
        name=name,
        method=method,
        figure=result.rate if figure is None else figure,
        unit=unit,
        p50_ms=result.latency_ms(0.50),
        p99_ms=result.latency_ms(0.99),
        server_us=spent.server_cpu_seconds / result.count * 1e6,
        other_share=spent.other_cpu_seconds / spent.seconds / cores,
        note=note,
    )


def merge(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the medians of runs that measured the same."""
    return [
        replace(
            same[-1],
            figure=median(row.figure for row in same),
            p50_ms=_median(row.p50_ms for row in same),
            p99_ms=_median(row.p99_ms for row in same),
            server_us=_median(row.server_us for row in same),
            other_share=_median(row.other_share for row in same),
            runs=tuple(row.figure for row in same),
        )
        for same in zip(*runs, strict=True)
    ]


def _median(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return median(present) if present else None


_LEFT = 2
"""So many columns of text come first."""


def cells(reports: Sequence[Report]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the cells of the table: of one report in full, of several side by side."""
    if len(reports) > 1:
        headings = ["what", "how", *(_workers(report) for report in reports), "goal", "strfry"]
        limit = mean(report.limit.all_cores for report in reports)
        lines = []
        for same in zip(*(report.rows for report in reports), strict=True):
            figures = [_figure(row.figure, row.unit) for row in same]
            lines.append([same[0].name, same[0].method, *figures, *_goal(same[0], limit)[:2]])
        return headings, lines
    (report,) = reports
    headings = [
        "what",
        "how",
        "found",
        "goal",
        "strfry",
        "met",
        "÷ all",
        "p50 ms",
        "p99 ms",
        "µs each",
        "other",
        "",
    ]
    return headings, [
        [
            row.name,
            row.method,
            _figure(row.figure, row.unit),
            *_goal(row, report.limit.all_cores),
            _number(row.figure / report.limit.all_cores, 2) if row.unit == PER_SECOND else "",
            _number(row.p50_ms, 2),
            _number(row.p99_ms, 2),
            _number(row.server_us, 0),
            "" if row.other_share is None else f"{row.other_share:.0%}",
            _spread(row) + row.note,
        ]
        for row in report.rows
    ]


def _workers(report: Report) -> str:
    return "by default" if not report.workers else f"{report.workers} worker{'s' * (report.workers > 1)}"


def _goal(row: Row, limit: float) -> list[str]:
    """Return the goal where the machine verifies so many a second, strfry's figure, and whether it is met."""
    goal = GOALS.get(row.key)
    if goal is None:
        return ["", "", ""]
    scaled = goal.scaled(limit)
    reached = goal.is_reached(row.figure, limit)
    mark = "" if reached is None else "yes" if reached else "no"
    return ["" if scaled is None else _figure(scaled, row.unit), goal.strfry, mark]


def _figure(value: float, unit: str) -> str:
    if unit == PER_SECOND:
        return f"{value:,.0f}"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def _spread(row: Row) -> str:
    if len(row.runs) < 2:
        return ""
    low, high = _figure(min(row.runs), row.unit), _figure(max(row.runs), row.unit)
    return f"{low} to {high}" + ("; " if row.note else "")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def _ahead(report: Report, prefix: str) -> str:
    """Say how many types of question are faster than strfry's, or nothing where none were asked."""
    types = [row for row in report.rows if row.key.startswith(prefix) and row.unit == "ms"]
    ahead = sum(row.figure < float(GOALS[row.key].strfry) for row in types)
    return f"{ahead} of {len(types)} types of question ahead of strfry in p50" if types else ""


def legend(reports: Sequence[Report]) -> list[str]:
    """Return the lines that explain the table."""
    first = reports[0]
    machine = first.machine
    where = (
        f"{machine.cores} cores ({machine.processor}), {machine.memory_bytes / 2**30:.0f} GiB, "
        f"{machine.system}, Python {machine.python}; {first.events:,} signed events, {first.stored:,} of "
        "them surviving; client and relay share the cores; loopback, no TLS."
    )
    return [where, *map(_found_by, reports)]


def _found_by(report: Report) -> str:
    runs = max((len(row.runs) for row in report.rows), default=1)
    limit = report.limit
    first = (
        f"{_workers(report).capitalize()}: the limit of this machine was {limit.all_cores:,.0f} signatures "
        f"verified a second on all cores, {limit.one_core:,.0f} on one"
    )
    parts = [first]
    if runs > 1:
        parts.append(f"medians of {runs} runs")
    for prefix, where in (("query/", ""), ("large/query/", " in the large database")):
        if ahead := _ahead(report, prefix):
            parts.append(ahead + where)
    return "; ".join(parts) + "."


_EXPLANATION = """Goals are for this machine. ÷ all: the rate as a share of the verifications on all cores.
µs each: the relay's CPU time for one. other: CPU used by neither relay nor client; where it is not near 0
the rate is too low."""


def show(reports: Sequence[Report], console: Console) -> None:
    """Print the table."""
    headings, lines = cells(reports)
    caption = "\n".join([*legend(reports), _EXPLANATION])
    table = Table(
        box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", padding=(0, 1, 0, 0), pad_edge=False
    )
    for number, heading in enumerate(headings):
        justify = "left" if number < _LEFT or number == len(headings) - 1 else "right"
        table.add_column(heading, justify=justify, no_wrap=number < len(headings) - 1)  # type: ignore[arg-type]
    for line in lines:
        table.add_row(*map(escape, line))
    console.print(table)


def markdown(reports: Sequence[Report]) -> str:
    """Return the table as Markdown, what explains it above it."""
    headings, lines = cells(reports)
    ruler = [("---" if number < _LEFT or not heading else "--:") for number, heading in enumerate(headings)]
    rows = [headings, ruler, *lines]
    table = "\n".join("| " + " | ".join(cell.strip() for cell in row) + " |" for row in rows)
    return "\n".join(legend(reports)) + "\n\n" + table + "\n"
