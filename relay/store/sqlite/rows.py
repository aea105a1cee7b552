"""Reading events by seq, as postings name them."""

from collections.abc import Iterable, Sequence

from relay.store.api import Seq, Stored
from relay.store.sqlite.cursors import Asking, Hit
from relay.store.sqlite.postings import SEQ_BITS, SEQ_MASK
from relay.store.sqlite.statements import numbers

ROWS_AT_ONCE = 128
"""Events read by one statement; 30 MB if each is as long as the relay allows."""


class Rows:
    """The events of one database."""

    def __init__(self, ask: Asking) -> None:
        self._ask = ask

    def of(self, hits: Sequence[Hit], now: int) -> list[tuple[Stored, int]]:
        """Return the rows that are there and have not expired, each with its kind, in the hits' order."""
        found: dict[int, bytes] = dict(
            self._ask(  # type: ignore[arg-type]  # two columns
                "SELECT seq, json FROM event WHERE seq IN (SELECT value FROM json_each(?)) "
                "AND (expires_at IS NULL OR expires_at > ?)",
                numbers(ts & SEQ_MASK for ts, _ in hits),
                now,
            )
        )
        return [
            (Stored(Seq(ts & SEQ_MASK), ts >> SEQ_BITS, json), kind)
            for ts, kind in hits
            if (json := found.get(ts & SEQ_MASK)) is not None
        ]

    def ids(self, seqs: Iterable[int]) -> list[tuple[int, bytes]]:
        """Return (seq, id as 64 hex digits) of those that are there."""
        return self._ask(  # type: ignore[return-value]
            "SELECT seq, substr(json, 8, 64) FROM event WHERE seq IN (SELECT value FROM json_each(?))",
            numbers(seqs),
        )

    def gone(self, hits: Sequence[Hit], now: int) -> set[int]:
        """Return the seqs of those that were removed or have expired, without reading the events."""
        found = self._ask(
            "SELECT seq FROM dead WHERE seq IN (SELECT value FROM json_each(?1)) UNION ALL "
            # The plus keeps SQLite from reading each event: few have expired and are still there.
            "SELECT seq FROM event WHERE expires_at <= ?2 AND +seq IN (SELECT value FROM json_each(?1))",
            numbers(ts & SEQ_MASK for ts, _ in hits),
            now,
        )
        return {seq for (seq,) in found}

    def log(self, after: Seq, upto: Seq, now: int) -> list[Stored]:
        """Return the live rows with after < seq ≤ upto, in order of seq."""
        rows = self._ask(
            "SELECT seq, created_at, json FROM event WHERE seq > ? AND seq <= ? AND live "
            "AND (expires_at IS NULL OR expires_at > ?) ORDER BY seq",
            after,
            upto,
            now,
        )
        return [Stored(*row) for row in rows]  # type: ignore[arg-type]
