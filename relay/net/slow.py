"""Questions that took long, in the log and in memory: what they look like, never what they ask for."""

from collections import deque
from collections.abc import Sequence
from time import monotonic, time

import structlog

from relay.engine.limits import Rate
from relay.net.shapes import in_one_line, shape
from relay.nostr.filter import Filter

log = structlog.get_logger(__name__)

KEPT = 20
LOGGED = Rate(60)
"""Beyond that many a minute, the log would tell nothing new, and the disk would fill."""


class SlowQuestions:
    """The latest of one process."""

    def __init__(self) -> None:
        self.latest: deque[dict[str, object]] = deque(maxlen=KEPT)
        self._tokens = float(LOGGED.most)
        self._touched = monotonic()

    def note(
        self, verb: str, filters: Sequence[Filter], *, rows: int, seconds: float, connection: int
    ) -> None:
        """Take note of a question that was answered by so many rows, or that had so many counted."""
        shapes = [shape(wanted) for wanted in filters]
        ms = round(seconds * 1000, 1)
        self.latest.append(
            {
                "at": int(time()),
                "verb": verb,
                "filters": shapes,
                "rows": rows,
                "ms": ms,
                "connection": connection,
            }
        )
        now = monotonic()
        self._tokens = LOGGED.refill(self._tokens, now - self._touched)
        self._touched = now
        if self._tokens >= 1:
            self._tokens -= 1
            log.warning(
                "slow query",
                verb=verb,
                filters=in_one_line(shapes),
                rows=rows,
                ms=ms,
                connection=connection,
            )
