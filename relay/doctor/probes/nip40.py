"""NIP-40: expired events are neither taken nor shown."""

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown, shown_all
from relay.nostr.filter import Filter

_LIFE_SECONDS = 3


async def expired_events_are_refused(visit: Visit) -> None:
    event = visit.event(visit.newcomer(), tags=[["expiration", str(visit.now() - 30)]], age=60, lasts=True)
    async with visit.dial() as wire:
        # "Relays SHOULD drop any events that are published to them if they are expired."
        await visit.refused(wire, event, "which has expired")
        answer = await visit.found(wire, Filter(ids=frozenset({event.id})))
        expect(not answer.events, sent=f"REQ for {shown(event)}", expected="nothing", came="it was kept")


async def events_expire(visit: Visit) -> None:
    author = visit.newcomer()
    until = visit.now() + _LIFE_SECONDS
    event = visit.event(author, tags=[["expiration", str(until)]], age=60, lasts=True)
    stays = visit.event(author, age=30)
    wanted = Filter(authors=frozenset({author.public}))
    async with visit.dial() as wire:
        await visit.keep(wire, event, stays)
        await visit.pause(until + 1.2 - visit.now())
        answer = await visit.found(wire, wanted)
        expect(
            answer.ids == [stays.id],
            sent=f"REQ for {shown(event)}, a second after its expiration",
            expected=f"only {shown(stays)}",
            came=shown_all(answer.events),
        )
        if 45 in visit.information.nips:
            counted = await visit.counted(wire, wanted)
            expect(
                counted.count == 1,
                sent="COUNT of the same",
                expected="1",
                came=f"{counted.count} came",
            )


PROBES = (
    Probe(40, "what has expired is refused", expired_events_are_refused),
    Probe(40, "events are gone when their time is over", events_expire),
)
