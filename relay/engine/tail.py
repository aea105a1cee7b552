"""Follow the log: every process hears of every live event here, in order of seq, each once.

Bells are hints. One that continues where the follower stands carries its rows along; after any other
the rows are read from the log. A slow poll makes up for bells that were lost.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from relay.store.api import Bell, Seq, Store, Stored, StoreError

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
RETRY_SECONDS = 0.5


class Tail:
    """Follows one store; calls `on_rows` on the event loop with live rows, in order of seq."""

    def __init__(
        self,
        store: Store,
        on_rows: Callable[[Sequence[Stored]], None],
        *,
        now: Callable[[], int],
        wanted: Callable[[], bool],
    ) -> None:
        self._store = store
        self._on_rows = on_rows
        self._now = now
        self._wanted = wanted
        self._rung = asyncio.Event()
        self.mark = Seq(0)
        """All live rows up to here were passed on."""
        self._reading = False
        self._is_following = True

    async def start(self) -> None:
        """Begin at the log's present end."""
        self._store.listen(self._on_bell)
        self.mark = max(self.mark, await self._store.head())

    async def run(self) -> None:
        """Read what bells did not bring, until cancelled."""
        while True:
            self._rest()
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._rung.wait()
            except TimeoutError:
                pass
            self._rung.clear()
            try:
                await self.catch_up()
            except StoreError as error:
                log.warning("following the log failed; trying again", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    def follow(self) -> None:
        """Hear of every commit from now on; call it when somebody begins to wait for events."""
        if not self._is_following:
            self._is_following = True
            self._store.follow(True)

    def _rest(self) -> None:
        # Not at once when the last one leaves: many come, ask, and go.
        if self._is_following and not self._wanted():
            self._is_following = False
            self._store.follow(False)

    def _on_bell(self, bell: Bell) -> None:
        if bell.upto <= self.mark:
            return
        if bell.rows is not None and bell.after == self.mark and not self._reading:
            self.mark = bell.upto
            if bell.rows:
                self._on_rows(bell.rows)
        else:
            self._rung.set()

    async def catch_up(self) -> None:
        """Pass on what the log holds beyond the mark."""
        # While this reads, bells only ring: their rows must not overtake the ones being read.
        self._reading = True
        try:
            head = await self._store.head()
            # Nobody here waits for events: there is nothing to read them for.
            if head > self.mark and self._wanted():
                async for rows in self._store.log(after=self.mark, upto=head, now=self._now()):
                    if rows:
                        self.mark = rows[-1].seq
                        self._on_rows(rows)
            self.mark = max(self.mark, head)
        finally:
            self._reading = False
