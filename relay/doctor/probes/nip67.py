"""NIP-67: `finish` is said when that was all, never else; and paging loses nothing."""

from secrets import token_hex

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.nostr.filter import Filter

_AGES = (10, 20, 20, 20, 20, 30, 40)
"""Four share a second, in which a page ends."""
_PAGE = 3


async def hints_are_true(visit: Visit) -> None:
    wanted, _ = await _publish(visit)
    async with visit.dial() as wire:
        whole = await visit.found(wire, wanted)
        expect(
            "finish" in whole.hints,
            sent=f"REQ for {len(_AGES)} events without a limit",
            expected='EOSE with "finish"',
            came=f"the hints {list(whole.hints)} came",
        )
        part = await visit.found(wire, wanted.limited(1))
        expect(
            "finish" not in part.hints and len(part.events) < len(_AGES),
            sent="REQ for the same with limit 1",
            expected='EOSE without "finish"',
            came=f"{len(part.events)} events and the hints {list(part.hints)} came",
        )


async def paging_loses_nothing(visit: Visit) -> None:
    wanted, ids = await _publish(visit)
    seen: list[str] = []
    until: int | None = None
    async with visit.dial() as wire:
        for _ in range(len(_AGES)):
            page = await visit.found(wire, Filter(tags=wanted.tags, until=until, limit=_PAGE))
            seen += page.ids
            if "finish" in page.hints or not page.events:
                break
            # "all events with the boundary created_at are included in one response"
            until = page.events[-1].created_at - 1
    expect(
        sorted(seen) == sorted(ids),
        sent=f"REQs with limit {_PAGE}, each from the second before the last event on, until finish",
        expected=f"all {len(ids)} events, each once",
        came=f"{len(seen)} came, {len(set(ids) - set(seen))} were missed",
    )


async def _publish(visit: Visit) -> tuple[Filter, list[str]]:
    author, topic = visit.newcomer(), token_hex(8)
    # One clock for all, so that those that are to share a second do.
    now = visit.now()
    events = [visit.event(author, tags=[["t", topic]], at=now - age) for age in _AGES]
    async with visit.dial() as wire:
        await visit.keep(wire, *events)
    return Filter(tags={"t": frozenset({topic})}), [event.id for event in events]


PROBES = (
    Probe(67, "finish is said when that was all, and only then", hints_are_true),
    Probe(67, "paging by seconds loses and repeats nothing", paging_loses_nothing),
)
