"""How far an import or export is, on standard error: a bar on a terminal, else at most a line a second."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_LINE_SECONDS = 1.0
# Below this, a rate says more about the clock than about the work.
_MIN_SECONDS = 0.05


class Meter(Protocol):
    """Shows how far the work is. A context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, events: int, position: int | None = None) -> None:
        """Say that so many events are done, and that the input has been read up to `position`."""


def meter(title: str, total: int | None, *, console: Console | None = None) -> Meter:
    """Return the meter that fits standard error. `total` is the input's size in bytes, if known."""
    console = Console(stderr=True) if console is None else console
    if console.is_terminal:
        return Bar(title, total, console)
    return Lines(title, total, console.file.write, time.monotonic)


class Bar:
    def __init__(self, title: str, total: int | None, console: Console) -> None:
        self._started = time.monotonic()
        self._before: int | None = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[events]:,} events, {task.fields[rate]:,.0f} a second"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(title, total=total, events=0, rate=0.0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, events: int, position: int | None = None) -> None:
        # What an earlier run did does not count for the rate.
        self._before = events if self._before is None else self._before
        seconds = time.monotonic() - self._started
        rate = (events - self._before) / seconds if seconds > _MIN_SECONDS else 0.0
        self._progress.update(self._task, completed=position, events=events, rate=rate)


class Lines:
    def __init__(
        self, title: str, total: int | None, write: Callable[[str], object], clock: Callable[[], float]
    ) -> None:
        self._title = title
        self._total = total
        self._write = write
        self._clock = clock
        self._started = self._written = clock()
        self._before: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, events: int, position: int | None = None) -> None:
        self._before = events if self._before is None else self._before
        now = self._clock()
        if now - self._written < _LINE_SECONDS:
            return
        self._written = now
        rate = (events - self._before) / (now - self._started)
        share = f", {position / self._total:.0%}" if position is not None and self._total else ""
        self._write(f"{self._title}: {events:,} events, {rate:,.0f} a second{share}\n")
