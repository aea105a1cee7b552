"""Registers of crowds (NIP-45), so that how many like or follow something is answered in constant time.

A crowd that somebody has asked for, and that is more than a few, is kept in a table: the store raises its
registers with each event from then on, and its older events are read once, in the background. So ingest pays
for what is asked for only. HyperLogLog cannot subtract: whoever deletes or vanishes stays in it.

A record is a byte, the crowd's state, and 256 registers.
"""

from dataclasses import replace

import orjson
import structlog

from relay.nostr.crowds import Crowd, is_for_some
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.hyperloglog import REGISTERS, Registers, merge, offset_of
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import KEEP, Records, Ruling, Store, StoreError, Table

log = structlog.get_logger(__name__)

TABLE = "crowds"
MAX_CROWDS = 20_000
"""That are kept, 600 bytes each on disk and as much in the writer's memory."""
DROPPED_AT_ONCE = 500
"""Where there are too many: whoever asks for one of these has it made anew."""
MAX_READ = 1_000_000
"""Older events that are read for a crowd, in slices, at 7 µs each; one crowd at a time."""

_SIZE = "size"
_BUILDING, _READY, _SPOILED = b"\0", b"\1", b"\2"


def table() -> Table:
    """Return the table."""
    return Table(TABLE, _judge_nothing, command=command, holds_crowds=True)


def _judge_nothing(event: Event, records: Records, now: int) -> Refusal:
    return Refusal(Prefix.ERROR, "events do not name crowds")


def command(payload: bytes, records: Records, now: int) -> Ruling | Refusal:
    """Keep a crowd from now on, or merge what its older events say. See `Table.command`."""
    told = orjson.loads(payload)
    key = told["crowd"]
    record = records.get(key)
    if told["do"] == "keep":
        if record is None:
            size = int(records.get(_SIZE) or 0)
            if size >= MAX_CROWDS:
                size -= _drop_some(records)
            records.put(_SIZE, b"%d" % (size + 1))
            records.put(key, _BUILDING + bytes(REGISTERS))
    elif record is not None:
        state = _SPOILED if told["is_spoiled"] or record[:1] == _SPOILED else _READY
        records.put(key, state + merge(record[1:], bytes.fromhex(told["registers"])))
    return KEEP


def _drop_some(records: Records) -> int:
    # Digits sort before "size".
    dropped = [key for key, _ in records.within("", limit=DROPPED_AT_ONCE) if key != _SIZE]
    for key in dropped:
        records.delete(key)
    return len(dropped)


class Crowds:
    """The crowds that one process is asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._is_building = False

    def registers(self, crowd: Crowd) -> tuple[bytes | None, bool]:
        """Return a crowd's registers, None where they are not ready; and whether `build` would help."""
        record = self._store.record(TABLE, str(crowd))
        if record is None or record[:1] == _BUILDING:
            return None, not self._is_building
        return (None, False) if record[:1] == _SPOILED else (record[1:], False)

    async def build(self, crowd: Crowd, wanted: Filter, now: int) -> None:
        """Have a crowd kept, and read the events of before, which `wanted` finds. One at a time."""
        if self._is_building:
            return
        self._is_building = True
        try:
            await self._build(crowd, replace(wanted, limit=None), now)
        except StoreError as error:
            log.error("a crowd could not be counted", error=str(error))
        except Exception:
            # A mistake of ours must not take the clients down; the crowd has no registers.
            log.exception("counting a crowd failed")
        finally:
            self._is_building = False

    async def _build(self, crowd: Crowd, wanted: Filter, now: int) -> None:
        await self._store.command(TABLE, orjson.dumps({"do": "keep", "crowd": str(crowd)}))
        # What is stored from here on the store counts itself.
        head = await self._store.head()
        registers, left, is_spoiled = Registers(offset_of(crowd.value)), MAX_READ, False
        async for page in self._store.scan(wanted, upto=head, now=now):
            for row in page:
                registers.add(row.author)
                is_spoiled |= is_for_some(row.json)
            left -= len(page)
            if is_spoiled or left < 0:
                is_spoiled = True
                break
        told = {"do": "merge", "registers": bytes(registers).hex(), "is_spoiled": is_spoiled}
        await self._store.command(TABLE, orjson.dumps({**told, "crowd": str(crowd)}))
