"""NIP-70: protected events are taken from their author only, and not carried in by reposts."""

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown, shown_all
from relay.nostr import kinds
from relay.nostr.event import encode
from relay.nostr.filter import Filter


async def only_authors_publish_protected_events(visit: Visit) -> None:
    author = visit.newcomer()
    event = visit.event(author, tags=[["-"]])
    async with visit.dial_as_nobody() as nobody:
        # "The default behavior of a relay MUST be to reject any event that contains ["-"]."
        ok = await nobody.offer(event)
        expect(
            not ok.accepted,
            sent=f"{shown(event)} with a - tag by somebody who proved no key",
            expected="OK false",
            came="it was accepted",
        )
        if 42 in visit.information.nips:
            async with visit.dial_proved(visit.newcomer()) as stranger:
                await visit.refused(stranger, event, "with a - tag, by somebody else than its author")
        answer = await visit.found(nobody, Filter(ids=frozenset({event.id})))
        expect(not answer.events, sent="REQ for it", expected="nothing", came=shown_all(answer.events))
        repost = visit.event(visit.newcomer(), kinds.REPOST, encode(event).decode(), tags=[["e", event.id]])
        await visit.refused(nobody, repost, "a repost that holds a protected event")


async def authors_publish_protected_events(visit: Visit) -> None:
    author = visit.newcomer()
    event = visit.event(author, tags=[["-"]])
    async with visit.dial_proved(author, writes=True) as wire:
        await visit.keep(wire, event)
        answer = await visit.found(wire, Filter(ids=frozenset({event.id})))
        expect(
            answer.ids == [event.id],
            sent=f"REQ for {shown(event)}, protected, of its proved author",
            expected="it",
            came=shown_all(answer.events),
        )


PROBES = (
    Probe(
        70,
        "protected events are refused from others, reposts of them too",
        only_authors_publish_protected_events,
    ),
    Probe(70, "protected events are taken from their proved author", authors_publish_protected_events),
)
