"""What a run found: one table for people, or JSON for programs."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.machine import Limit, Machine
from benchmarks.workloads import Result


@dataclass
class Row:
    """One line of the table."""

    name: str
    method: str
    rate: float | None = None
    """So many a second; None where the rate was given."""
    p50_ms: float | None = None
    p99_ms: float | None = None
    server_us: float | None = None
    """The relay's CPU time for one, in microseconds, over all its processes."""
    other_share: float | None = None
    """CPU that neither relay nor client used, as a share of the whole machine: noise."""
    note: str = ""


@dataclass
class Report:
    """All that one run found."""

    machine: Machine
    events: int
    stored: int
    limit: Limit
    """The mean of before and after."""
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; rates carry their ratios to the limit."""
        value = asdict(self)
        for row in value["rows"]:
            row["of_one_core"], row["of_all_cores"] = _ratios(row["rate"], self.limit)
        return value


def row(name: str, method: str, result: Result, cores: int, *, note: str = "", paced: bool = False) -> Row:
    """Return the line of one measurement; `paced` says that the client decided how fast it went."""
    spent = result.spent
    return Row(
        name=name,
        method=method,
        rate=None if paced else result.rate,
        p50_ms=_percentile_ms(result.latencies, 0.50),
        p99_ms=_percentile_ms(result.latencies, 0.99),
        server_us=spent.server_cpu_seconds / result.count * 1e6,
        other_share=spent.other_cpu_seconds / spent.seconds / cores,
        note=note,
    )


def _percentile_ms(latencies: Sequence[float], share: float) -> float | None:
    if not latencies:
        return None
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000


def _ratios(rate: float | None, limit: Limit) -> tuple[float | None, float | None]:
    if rate is None:
        return None, None
    return rate / limit.one_core, rate / limit.all_cores


def show(report: Report, console: Console) -> None:
    """Print the table."""
    machine = report.machine
    table = Table(
        title=f"Torv on {machine.cores} cores ({machine.processor}), {machine.memory_bytes / 2**30:.0f} GiB",
        caption=(
            f"{report.events:,} signed events, {report.stored:,} of them surviving; {machine.system}, "
            f"Python {machine.python}; client and relay share the cores, loopback, no TLS.\n"
            f"Limit of the machine in this run: {report.limit.one_core:,.0f} Schnorr verifications a second "
            f"on one core, {report.limit.all_cores:,.0f} on all; the ÷ columns are ratios to them.\n"
            "µs each: the relay's CPU time for one. other: CPU used by neither relay nor client; "
            "where it is not near 0 the rate is too low."
        ),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
        title_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("what", no_wrap=True)
    table.add_column("how", no_wrap=True)
    for heading in ("per second", "÷ 1 core", "÷ all", "p50 ms", "p99 ms", "µs each", "other"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=6)
    table.add_column("")
    for line in report.rows:
        one, every = _ratios(line.rate, report.limit)
        table.add_row(
            line.name,
            line.method,
            _number(line.rate, 0),
            _number(one, 2),
            _number(every, 2),
            _number(line.p50_ms, 2),
            _number(line.p99_ms, 2),
            _number(line.server_us, 0),
            "" if line.other_share is None else f"{line.other_share:.0%}",
            line.note,
        )
    console.print(table)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
