"""NIP-09: deletion requests work, on their author's own events only, and for good."""

from secrets import token_hex

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown, shown_all
from relay.nostr import kinds
from relay.nostr.filter import Filter

_ADDRESSABLE = 30_078


async def own_events_are_deleted_for_good(visit: Visit) -> None:
    author = visit.newcomer()
    gone, stays = visit.event(author, age=30), visit.event(author, age=20)
    request = visit.event(author, kinds.DELETION, tags=[["e", gone.id], ["k", "1"]])
    wanted = Filter(authors=frozenset({author.public}), kinds=frozenset({kinds.NOTE}))
    async with visit.dial() as wire:
        await visit.keep(wire, gone, stays, request)
        answer = await visit.found(wire, wanted)
        expect(
            answer.ids == [stays.id],
            sent=f"a deletion request (kind 5) for {shown(gone)} by its author",
            expected=f"that only {shown(stays)} is left",
            came=shown_all(answer.events),
        )
        # Accepted or not: it must not come back.
        await visit.publish(wire, gone)
        answer = await visit.found(wire, wanted)
        expect(
            answer.ids == [stays.id],
            sent=f"{shown(gone)} again, after it was deleted",
            expected="that it stays away",
            came=shown_all(answer.events),
        )
        kept = await visit.found(wire, Filter(ids=frozenset({request.id})))
        expect(
            kept.ids == [request.id],
            sent="REQ for the deletion request",
            expected="it, for clients that have the event already",
            came=shown_all(kept.events),
        )


async def foreign_events_stay(visit: Visit) -> None:
    event = visit.event(visit.newcomer(), age=30)
    request = visit.event(visit.newcomer(), kinds.DELETION, tags=[["e", event.id], ["k", "1"]])
    async with visit.dial() as wire:
        await visit.keep(wire, event)
        # It may be refused or kept, only not followed.
        await visit.publish(wire, request)
        answer = await visit.found(wire, Filter(ids=frozenset({event.id})))
        expect(
            answer.ids == [event.id],
            sent=f"a deletion request for {shown(event)} by somebody else",
            expected="that it stays",
            came=shown_all(answer.events),
        )


async def versions_are_deleted_by_address(visit: Visit) -> None:
    author, d = visit.newcomer(), token_hex(8)
    old = visit.event(author, _ADDRESSABLE, tags=[["d", d]], age=40)
    request = visit.event(author, kinds.DELETION, tags=[["a", f"{_ADDRESSABLE}:{author.public}:{d}"]], age=20)
    new = visit.event(author, _ADDRESSABLE, tags=[["d", d]])
    wanted = Filter(authors=frozenset({author.public}), kinds=frozenset({_ADDRESSABLE}))
    async with visit.dial() as wire:
        await visit.keep(wire, old, request)
        answer = await visit.found(wire, wanted)
        expect(
            not answer.events,
            sent=f"a deletion request for the address of {shown(old)}",
            expected="that it is gone",
            came=shown_all(answer.events),
        )
        await visit.keep(wire, new)
        answer = await visit.found(wire, wanted)
        expect(
            answer.ids == [new.id],
            sent=f"{shown(new)}, a version that is newer than the deletion of its address",
            expected="it",
            came=shown_all(answer.events),
        )


async def deletions_cannot_be_deleted(visit: Visit) -> None:
    author = visit.newcomer()
    event = visit.event(author, age=40)
    request = visit.event(author, kinds.DELETION, tags=[["e", event.id]], age=20)
    second = visit.event(author, kinds.DELETION, tags=[["e", request.id]])
    async with visit.dial() as wire:
        await visit.keep(wire, event, request)
        await visit.publish(wire, second)
        await visit.publish(wire, event)
        answer = await visit.found(wire, Filter(ids=frozenset({event.id, request.id})))
        expect(
            answer.ids == [request.id],
            sent=f"a deletion request for the deletion request of {shown(event)}, and the event again",
            expected="no effect: the first request is there, its target is not",
            came=shown_all(answer.events),
        )


PROBES = (
    Probe(9, "authors delete their events, which do not come back", own_events_are_deleted_for_good),
    Probe(9, "nobody deletes other people's events", foreign_events_stay),
    Probe(
        9,
        "an address is deleted up to the request, newer versions are welcome",
        versions_are_deleted_by_address,
    ),
    Probe(9, "deletion requests cannot be deleted", deletions_cannot_be_deleted),
)
