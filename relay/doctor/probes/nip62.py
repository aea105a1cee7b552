"""NIP-62: who asks to vanish is gone up to that time, and may come back."""

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown, shown_all
from relay.nostr import kinds
from relay.nostr.filter import Filter


async def people_vanish(visit: Visit) -> None:
    author, friend = visit.newcomer(), visit.newcomer()
    past = visit.event(author, age=60)
    wrap = visit.event(friend, kinds.GIFT_WRAP, tags=[["p", author.public]], age=60)
    request = visit.event(author, kinds.VANISH, tags=[["relay", visit.url]], age=30, lasts=True)
    later = visit.event(author)
    notes = Filter(authors=frozenset({author.public}), kinds=frozenset({kinds.NOTE}))
    wraps = Filter(kinds=frozenset({kinds.GIFT_WRAP}), tags={"p": frozenset({author.public})})
    async with visit.dial_proved(author, writes=True) as wire:
        await visit.keep(wire, past, wrap, request)
        for wanted, event in ((notes, past), (wraps, wrap)):
            answer = await visit.found(wire, wanted)
            expect(
                not answer.events,
                sent=f"a request to vanish (kind 62), then REQ for {shown(event)} of before",
                expected="nothing",
                came=shown_all(answer.events),
            )
        # "Relays MUST ensure the deleted events cannot be re-broadcasted into the relay."
        await visit.publish(wire, past)
        answer = await visit.found(wire, notes)
        expect(
            not answer.events,
            sent=f"{shown(past)} again, by somebody who has vanished",
            expected="that it stays away",
            came=shown_all(answer.events),
        )
        await visit.keep(wire, later)
        answer = await visit.found(wire, notes)
        expect(
            answer.ids == [later.id],
            sent=f"{shown(later)}, newer than the request to vanish",
            expected="it",
            came=shown_all(answer.events),
        )


async def requests_for_other_relays_do_nothing(visit: Visit) -> None:
    author = visit.newcomer()
    event = visit.event(author, age=60)
    request = visit.event(
        author, kinds.VANISH, tags=[["relay", "wss://elsewhere.example.com"]], age=30, lasts=True
    )
    async with visit.dial_proved(author, writes=True) as wire:
        await visit.keep(wire, event)
        await visit.publish(wire, request)
        answer = await visit.found(wire, Filter(ids=frozenset({event.id})))
        expect(
            answer.ids == [event.id],
            sent=f"a request to vanish from another relay, then REQ for {shown(event)}",
            expected="it",
            came=shown_all(answer.events),
        )


PROBES = (
    Probe(62, "who vanishes is gone for good, and may come back", people_vanish),
    Probe(62, "requests to vanish from other relays do nothing here", requests_for_other_relays_do_nothing),
)
