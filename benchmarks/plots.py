"""The studies' plots, as SVG, with the data they show as JSON beside them.

The only file that knows matplotlib (the extra `bench`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.growth import Point

_SIZE = (11.0, 7.5)
"""Inches, for growth; soak is half as high."""
# Equal data give equal bytes, so that a plot changes in git only when its data do.
_STYLE: Any = {
    "svg.hashsalt": "torv",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def write_json(value: object, path: Path) -> None:
    """Write plain values and dataclasses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value)} is not for JSON")


def draw_growth(points: Sequence["Point"], path: Path) -> None:
    """Draw how cost grows with the number of events."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        (writing, asking), (disk, counting) = figure.subplots(2, 2, sharex=True)
        events = [point.events for point in points]
        writing.plot(events, [point.writer_us for point in points], "o-")
        _label(writing, "Writer: CPU for each event", "µs")
        disk.plot(events, [point.disk_bytes_each for point in points], "o-")
        _label(disk, "Disk for each stored event", "bytes")
        names = list(points[0].p50_ms)
        for name in names:
            axes = counting if name.startswith("count ") else asking
            axes.plot(events, [point.p50_ms[name] for point in points], "o-", label=name)
        counting.plot(
            events, [point.start_seconds * 1000 for point in points], "s--", label="start to first answer"
        )
        _label(asking, "Questions over the wire: p50", "ms", logarithmic=True)
        _label(counting, "COUNTs over the wire: p50; start", "ms", logarithmic=True)
        for axes in (disk, counting):
            axes.set_xscale("log")
            axes.set_xlabel("events written")
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        _save(figure, path)


def draw_soak(
    seconds: Sequence[float], processes: Mapping[str, Sequence[int]], title: str, path: Path
) -> None:
    """Draw the memory of each process over time, one above the other; `processes` in bytes."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_SIZE[0], _SIZE[1] / 2), layout="constrained")
        axes = figure.subplots()
        minutes = [second / 60 for second in seconds]
        shares = [[value / 2**20 for value in values] for values in processes.values()]
        axes.stackplot(minutes, shares, labels=list(processes), alpha=0.8)
        _label(axes, title, "MB of its own (RssAnon)")
        axes.set_xlabel("minutes")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
        _save(figure, path)


def _label(axes: "Axes", title: str, unit: str, *, logarithmic: bool = False) -> None:
    axes.set_title(title, loc="left")
    axes.set_ylabel(unit)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        axes.set_ylim(0, axes.get_ylim()[1] * 1.1)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, Any] = {"Date": None}
    figure.savefig(path, format="svg", metadata=metadata)
