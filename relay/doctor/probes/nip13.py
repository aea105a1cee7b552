"""NIP-13: the proof of work that the document asks for is what the relay asks for."""

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.nostr.reasons import Prefix, prefix_of
from relay.nostr.work import difficulty

_LITTLE_WORK = 8
"""Bits; a few hundred hashes."""


async def work_counts(visit: Visit) -> None:
    least = visit.information.limit("min_pow_difficulty") or 0
    author = visit.newcomer()
    async with visit.dial() as wire:
        lazy = visit.event(author, work=0)
        while least and difficulty(lazy.id) >= least:
            lazy = visit.event(author, work=0)
        if least:
            ok = await visit.publish(wire, lazy)
            expect(
                not ok.accepted and prefix_of(ok.reason) is Prefix.POW,
                sent=f"an event with less work than min_pow_difficulty = {least}",
                expected="OK false, pow: …",
                came=f"OK {str(ok.accepted).lower()} {ok.reason!r} came",
            )
        else:
            ok = await visit.publish(wire, lazy)
            expect(
                prefix_of(ok.reason) is not Prefix.POW,
                sent="an event without work, where min_pow_difficulty is 0",
                expected="that none is demanded",
                came=f"{ok.reason!r} came",
            )
        await visit.keep(wire, visit.event(author, work=max(least, _LITTLE_WORK)))


PROBES = (Probe(13, "proof of work is demanded as min_pow_difficulty says", work_counts),)
