"""Where another process says what a reader may see: events pass it behind the veil, in a budget of rows.

An index cannot answer such questions: each row has to be looked at. Who asks for so much that too many
rows are hidden, or have to be counted, is refused.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from relay.engine.boundary import Scan
from relay.engine.feature import Origin, Sieve
from relay.nostr.filter import Filter
from relay.nostr.reasons import Prefix, Refusal, Refused
from relay.store.api import Stored

_AT_LEAST = 32
"""Rows that are asked about at a time, where fewer are wanted."""


class Exhausted(Refused):
    """A question took more than it may; holds what its reader is told."""


def may_concern(sieve: Sieve, wanted: Filter) -> bool:
    """Say whether a filter may match something that has to be asked about."""
    return wanted.kinds is None or any(map(sieve.covers, wanted.kinds))


def sifted(scan: Scan, sieve: Sieve, origin: Origin) -> Scan:
    """Return what scans as `scan` does, and yields only what this reader may see.

    A limit counts what is visible. Beyond it, `sieve.max_rows` rows are looked at, then raises Exhausted.
    """

    async def scan_sifted(wanted: Filter) -> AsyncIterator[list[Stored]]:
        if not may_concern(sieve, wanted):
            async for page in scan(wanted):
                yield page
            return
        # Who begins to answer may not be in a task yet, and waits with deadlines from here on.
        await asyncio.sleep(0)
        left = wanted.limit
        hidden = 0
        most = sieve.max_rows
        async for page in scan(wanted.limited(most + 1 if left is None else left + most + 1)):
            for start, end in _portions(len(page), left):
                portion = page[start:end]
                kept = await sift(sieve, portion, origin)
                if left is None:
                    hidden += len(portion)
                else:
                    hidden += len(portion) - len(kept)
                    kept = kept[:left]
                    left -= len(kept)
                yield kept
                if left == 0:
                    return
                if hidden > most:
                    raise Exhausted(
                        Refusal(Prefix.BLOCKED, f"this takes a look at more than {most} events; ask for less")
                    )

    return scan_sifted


async def sift(sieve: Sieve, rows: Sequence[Stored], origin: Origin) -> list[Stored]:
    """Return the rows that this reader may see."""
    asked = [row for row in rows if sieve.covers(row.kind)]
    if not asked:
        return list(rows)
    shown = await sieve.passes([row.json for row in asked], origin)
    hidden = {row.json for row, is_shown in zip(asked, shown, strict=True) if not is_shown}
    return [row for row in rows if row.json not in hidden] if hidden else list(rows)


def _portions(size: int, left: int | None) -> Sequence[tuple[int, int]]:
    """Cut a page so that not much more is asked about than is wanted."""
    step = size if left is None else max(left, _AT_LEAST)
    return [(start, start + step) for start in range(0, size, max(step, 1))]
