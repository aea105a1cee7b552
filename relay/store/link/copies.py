"""The copy of the database that the writer process makes for who asks for it, beside its commits."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

from relay.store.api import StoreError
from relay.store.sqlite import CopyStopped

log = structlog.get_logger(__name__)

ABANDONED_SECONDS = 10.0
"""Who wants a copy asks how far it is; after so long a silence nobody wants it any more."""

Copy = Callable[[Path, Callable[[int, int], None]], None]
"""(target, on_progress): makes it, as `copy_database` does."""


class Copies:
    """One copy at a time. Asking for one begins it, and asking again says how far it is."""

    def __init__(self, copy: Copy) -> None:
        self._copy = copy
        self._thread = ThreadPoolExecutor(1, "copy")
        self._target: Path | None = None
        self._copying: asyncio.Future[None] | None = None
        self._progress = (0, 0)
        self._asked = 0.0
        self._is_stopping = False

    def ask(self, target: Path) -> tuple[bool, int, int]:
        """Return whether the copy is whole, and how many pages of how many are done. Raises StoreError."""
        self._asked = time.monotonic()
        if self._copying is not None and self._target != target and not self._copying.done():
            raise StoreError("another backup is being made")
        if self._copying is None or self._target != target:
            self._target, self._progress = target, (0, 0)
            loop = asyncio.get_running_loop()
            self._copying = loop.run_in_executor(self._thread, self._copy, target, self._on_progress)
        if self._copying.done():
            try:
                self._copying.result()
            except BaseException as error:
                self._copying = None  # asked again, it is tried again
                raise StoreError(str(error)) from error
            return True, *self._progress
        return False, *self._progress

    def _on_progress(self, done: int, pages: int) -> None:
        self._progress = done, pages
        if self._is_stopping or time.monotonic() - self._asked > ABANDONED_SECONDS:
            log.warning("a copy of the database is not finished", pages=pages, done=done)
            raise CopyStopped("the copy was broken off: the relay stops, or nobody asked for it any more")

    async def stop(self) -> None:
        """Break off what is under way."""
        self._is_stopping = True
        if self._copying is not None:
            await asyncio.wait([self._copying])
        self._thread.shutdown()
