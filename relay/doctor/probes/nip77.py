"""NIP-77: a reconciliation tells exactly which events differ."""

from secrets import token_hex

from relay.doctor.outcome import Failed, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.probes.reconciling import reconcile
from relay.doctor.visit import Visit
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.messages import NegErr, NegOpen

_EVENTS = 6


async def differences_are_told(visit: Visit) -> None:
    author, topic = visit.newcomer(), token_hex(8)
    tags = [["t", topic]]
    theirs = [visit.event(author, tags=tags, age=10 * n) for n in range(_EVENTS)]
    only_mine = visit.event(author, tags=tags, age=5)
    wanted = Filter(tags={"t": frozenset({topic})})
    async with visit.dial() as wire:
        await visit.keep(wire, *theirs)
        # Proves a key, should it be asked for.
        await visit.found(wire, wanted)
        cases: tuple[tuple[list[Event], list[Event], list[Event]], ...] = (
            ([*theirs[2:], only_mine], [only_mine], theirs[:2]),
            (theirs, [], []),
            ([], [], theirs),
        )
        for mine, have, need in cases:
            told = await reconcile(wire, wanted, mine)
            if isinstance(told, NegErr):
                raise Failed(
                    sent="a NEG-OPEN that is right", expected="a NEG-MSG", came=f"{told.reason!r} came"
                )
            expect(
                told == (_ids(have), _ids(need)),
                sent=f"a reconciliation of {len(mine)} events with the relay's {_EVENTS}",
                expected=f"{len(have)} that it lacks and {len(need)} that it has beside them",
                came=f"{len(told[0])} and {len(told[1])} were told, or others",
            )


def _ids(events: list[Event]) -> frozenset[str]:
    return frozenset(event.id for event in events)


async def broken_frames_are_refused(visit: Visit) -> None:
    wanted = Filter(ids=frozenset({"0" * 64}))
    async with visit.dial() as wire:
        await visit.found(wire, wanted)
        answer = await wire.negotiate(NegOpen("broken", wanted, bytes.fromhex("61ffffffff")), "broken")
        expect(
            isinstance(answer, NegErr),
            sent="a NEG-OPEN whose frame is cut off",
            expected="NEG-ERR",
            came="a NEG-MSG came",
        )
        # "If the protocol version is not supported, the server … replies with the version it speaks."
        other = await wire.negotiate(NegOpen("other", wanted, bytes.fromhex("62aabb")), "other")
        expect(
            not isinstance(other, NegErr) and other.frame[:1] == b"\x61",
            sent="a NEG-OPEN of Negentropy's version 2",
            expected="a NEG-MSG that begins with 61, the version that is spoken",
            came=f"{other} came",
        )


PROBES = (
    Probe(77, "a reconciliation tells exactly what differs", differences_are_told),
    Probe(77, "broken frames are refused, other versions are told the right one", broken_frames_are_refused),
)
