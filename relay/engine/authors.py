"""Who wrote what a filter matches, counted so that several relays' counts can be merged (NIP-45)."""

from dataclasses import replace

from relay.engine.boundary import Scan
from relay.nostr.filter import Filter
from relay.nostr.hyperloglog import Registers, offset_for

READ_AT_MOST = 32
"""Events that are always read: of so few the authors are those that are there now."""
MAX_EVENTS = 2_000
"""Events that are read for registers that are not kept, at 7 µs each, in slices; of more there are none."""


async def count_authors(scan: Scan, wanted: Filter, count: int) -> bytes | None:
    """Return the registers of all authors of what `scan` finds, `count` events.

    None where the filter has no offset, or too much matches it: then the number alone has to do.
    """
    offset = offset_for(wanted)
    if offset is None or count > MAX_EVENTS:
        return None
    registers = Registers(offset)
    left = MAX_EVENTS
    async for page in scan(replace(wanted, limit=MAX_EVENTS + 1)):
        left -= len(page)
        if left >= 0:
            for row in page:
                registers.add(row.author)
    return bytes(registers) if left >= 0 else None
