"""Memory over an hour of mixed load: does it grow?

`benchmarks.mixture` is the load, on a database that holds events from the start, as a relay's does.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import machine, plots
from benchmarks.filling import filling
from benchmarks.mixture import Mixture
from benchmarks.questions import Subjects
from benchmarks.server import Relay, RelayFailed, Watch, serve, tree, usage_of

FILLED = 200_000
"""Unsigned events in the database before the load begins, at most."""
SAMPLE_SECONDS = 10.0
WINDOWS = 6
"""Of ten minutes in an hour. The first is for warming up."""
ALLOWED_GROWTH = 0.01
"""From one window to the next."""


@dataclass(frozen=True)
class Soaked:
    """What was seen."""

    seconds: Sequence[float]
    """When each sample was taken, from the beginning of the load."""
    processes: Mapping[str, Sequence[int]]
    """Memory of its own (RssAnon) of each process at these times, in bytes."""
    cpu_share: float
    """Of one core, by relay and client together."""
    done: Mapping[str, int]
    """What the load did."""

    @property
    def total(self) -> list[int]:
        """The memory of all processes at each time, in bytes."""
        return [sum(values) for values in zip(*self.processes.values(), strict=True)]


def growths(total: Sequence[float]) -> list[float]:
    """Return by how much memory grew from each window after the first to the next, as fractions.

    The windows divide the time into `WINDOWS` equal parts, and of each the median counts: what is
    allocated for a moment is no growth. The rule is that none exceeds `ALLOWED_GROWTH`.
    """
    size = len(total) / WINDOWS
    windows = [total[round(n * size) : round((n + 1) * size)] for n in range(1, WINDOWS)]
    return [median(later) / median(earlier) - 1 for earlier, later in pairwise(windows)]


def study(minutes: float, *, config: Path, workers: int, filled: int, folder: Path, console: Console) -> None:
    """Run the load for so long; write soak.json and soak.svg, and say whether the rule holds.

    `filled`: events in the database before it begins. `workers` 0: the default.
    """
    with filling(filled) as base:
        with Console(stderr=True).status("filling the database"):
            base.grow(filled, lambda done: None)
        with serve(config, base.data, workers=workers) as relay:
            soaked = asyncio.run(_soak(relay, base.subjects, minutes * 60))
    found = growths(soaked.total)
    holds = max(found) < ALLOWED_GROWTH
    verdict = (
        f"after minute {minutes / WINDOWS:g} memory grew by {max(found):+.2%} at most in "
        f"{minutes / WINDOWS:g} minutes: {'less' if holds else 'not less'} than {ALLOWED_GROWTH:.0%}"
    )
    found_json = {
        "machine": machine.describe(),
        "minutes": minutes,
        "growths": found,
        "holds": holds,
        "cpu_share": soaked.cpu_share,
        "done": soaked.done,
        "seconds": [round(second, 1) for second in soaked.seconds],
        "processes": soaked.processes,
    }
    plots.write_json(found_json, folder / "soak.json")
    plots.draw_soak(soaked.seconds, soaked.processes, f"Mixed load: {verdict}", folder / "soak.svg")
    for name, values in soaked.processes.items():
        marks = [values[round(n * (len(values) - 1) / WINDOWS)] / 2**20 for n in range(WINDOWS + 1)]
        console.print(f"{name}: {' '.join(f'{mark:.1f}' for mark in marks)} MB", highlight=False)
    console.print(
        ", ".join(f"{count:,} {name}" for name, count in sorted(soaked.done.items())), highlight=False
    )
    console.print(f"relay and client used {soaked.cpu_share:.0%} of a core; {verdict}", highlight=False)


async def _soak(relay: Relay, subjects: Subjects, seconds: float) -> Soaked:
    load = Mixture(relay.url, subjects)
    watch = Watch(relay.pid)
    times: list[float] = []
    samples: list[dict[str, int]] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            loading = tasks.create_task(load.run())
            began = perf_counter()
            with _bar(seconds) as (progress, bar):
                for number in range(1, int(seconds / _step(seconds)) + 1):
                    await asyncio.sleep(max(0.0, began + number * _step(seconds) - perf_counter()))
                    times.append(perf_counter() - began)
                    samples.append(_memory(relay.pid))
                    total = sum(samples[-1].values()) / 2**20
                    progress.update(bar, completed=times[-1], description=f"{total:.1f} MB")
            loading.cancel()
            with suppress(asyncio.CancelledError):
                await loading
    except* (OSError, TimeoutError) as group:
        raise RelayFailed(f"the relay let go of a client: {group.exceptions}") from group
    spent = watch.stop()
    if any(sample.keys() != samples[0].keys() for sample in samples):
        raise RelayFailed("a process of the relay died")
    processes = {name: [sample[name] for sample in samples] for name in samples[0]}
    share = (spent.server_cpu_seconds + spent.client_cpu_seconds) / spent.seconds
    return Soaked(times, processes, share, dict(load.done))


@contextmanager
def _bar(seconds: float) -> Iterator[tuple[Progress, TaskID]]:
    columns = (TextColumn("soaking, {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), refresh_per_second=1) as progress:
        yield progress, progress.add_task("", total=seconds)


def _step(seconds: float) -> float:
    """Return the seconds between samples: fewer in a short run, which needs some in each window."""
    return min(SAMPLE_SECONDS, seconds / WINDOWS / 5)


def _memory(pid: int) -> dict[str, int]:
    """Return the memory of each process of the relay, by its name and id."""
    found = {}
    for member in sorted(tree(pid)):
        called = Path(f"/proc/{member}/comm").read_text().strip()
        name = "supervisor" if member == pid else called.removeprefix("torv ")
        found[f"{name} {member}"] = usage_of(member).anonymous_bytes
    return found
