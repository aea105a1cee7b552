"""NIP-45: COUNT is exact, and its HyperLogLog is that of the authors."""

from relay.doctor.outcome import Skipped, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.nostr import kinds
from relay.nostr.filter import Filter
from relay.nostr.hyperloglog import Registers, estimate, offset_for

_EVENTS = 3


async def counts_are_exact(visit: Visit) -> None:
    author = visit.newcomer()
    events = [visit.event(author, age=10 * n) for n in range(_EVENTS)]
    wanted = Filter(authors=frozenset({author.public}), kinds=frozenset({kinds.NOTE}))
    async with visit.dial() as wire:
        await visit.keep(wire, *events)
        for filters, right in (
            ((wanted,), 3),
            ((Filter(ids=frozenset({events[0].id})),), 1),
            ((Filter(ids=frozenset({"0" * 64})),), 0),
        ):
            counted = await visit.counted(wire, *filters)
            expect(
                counted.count == right,
                sent=f"COUNT of {filters[0]}",
                expected=f"{right}",
                came=f"{counted.count} came",
            )


async def registers_are_right(visit: Visit) -> None:
    target = visit.event(visit.newcomer(), age=30)
    reactions = [
        visit.event(visit.newcomer(), kinds.REACTION, "+", tags=[["e", target.id], ["p", target.pubkey]])
        for _ in range(_EVENTS)
    ]
    wanted = Filter(kinds=frozenset({kinds.REACTION}), tags={"e": frozenset({target.id})})
    offset = offset_for(wanted)
    assert offset is not None
    right = Registers(offset)
    for reaction in reactions:
        right.add(reaction.pubkey)
    async with visit.dial() as wire:
        await visit.keep(wire, target, *reactions)
        counted = await visit.counted(wire, wanted)
        expect(
            counted.count == _EVENTS,
            sent="COUNT of the reactions to an event",
            expected=f"{_EVENTS}",
            came=f"{counted.count} came",
        )
        if counted.registers is None:
            raise Skipped("it answers COUNT without HyperLogLog, which it may")
        expect(
            counted.registers == bytes(right),
            sent=f"COUNT of the reactions of {_EVENTS} authors",
            expected=f"hll registers as the NIP makes them of these keys (estimate {estimate(bytes(right))})",
            came=f"others came (estimate {estimate(counted.registers)})",
        )


PROBES = (
    Probe(45, "counts are exact", counts_are_exact),
    Probe(45, "HyperLogLog registers are those of the authors", registers_are_right),
)
