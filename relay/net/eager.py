"""Coroutines that mostly need not wait, begun at once instead of in a task of their own.

Python 3.12 has this as eager tasks.
"""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any

Work = Coroutine[Any, Any, None]


def begin(work: Work, spawn: Callable[[Work], asyncio.Task[None]]) -> asyncio.Task[None] | None:
    """Run `work` until it has to wait; then return the task that `spawn` makes of the rest, if there is one.

    Up to there it is not in a task: it may enter no `asyncio.timeout`, and nobody can cancel it.
    """
    try:
        awaited = work.send(None)
    except StopIteration:
        return None
    return spawn(_Begun(work, awaited))


class _Begun(Coroutine[Any, Any, None]):
    """A coroutine that waits already: its task is told what for at the first step."""

    __slots__ = ("_awaited", "_told", "_work")

    def __init__(self, work: Work, awaited: Any) -> None:
        self._work = work
        self._awaited = awaited
        self._told = False

    def send(self, value: Any) -> Any:
        if self._told:
            return self._work.send(value)
        self._told = True
        awaited, self._awaited = self._awaited, None
        return awaited

    def throw(self, *error: Any) -> Any:
        self._told = True
        try:
            return self._work.throw(*error)
        finally:
            # Its traceback holds this frame: a ring, with all that the cancelled work held, pages of events
            # among it, which only a collection would end.
            del error

    def close(self) -> None:
        self._work.close()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._work.__await__()
