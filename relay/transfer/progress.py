"""How far an import or export is, on standard error: a bar on a terminal, else at most a line a second."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


class Steps:
    """Work of several steps, each with a count of its own."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._written = clock()

    def show(self, doing: str, done: int, total: int | None) -> None:
        """Say how far the step is; at most once a second."""
        now = self._clock()
        if now - self._written < _LINE_SECONDS:
            return
        self._written = now
        share = f" {done / total:.0%}" if total else f" {done:,}"
        # On a terminal a line stands for the one before it.
        self._console.file.write(
            f"\r\x1b[K{doing}{share}" if self._console.is_terminal else f"{doing}{share}\n"
        )
        self._console.file.flush()

    @contextmanager
    def counting(self, doing: str, total: int) -> Iterator[Callable[[int], None]]:
        """Give a function that is called with how much more is done."""
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            self.show(doing, done, total)

        yield advance


@contextmanager
def steps() -> Iterator[Steps]:
    """Show steps on standard error."""
    console = Console(stderr=True)
    try:
        yield Steps(console)
    finally:
        if console.is_terminal:
            console.file.write("\r\x1b[K")
