"""NIP-01: events are taken, refused, replaced, passed on and found as the basic protocol wants it."""

from collections.abc import Sequence
from dataclasses import replace
from secrets import token_hex

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import Wire, shown, shown_all
from relay.nostr import kinds
from relay.nostr.event import Event, EventId
from relay.nostr.filter import Filter
from relay.nostr.messages import Close, Delivered

_EPHEMERAL = 20_001
_ADDRESSABLE = 30_078
"""NIP-78: an application's own data."""


async def found_by_every_condition(visit: Visit) -> None:
    author, topic = visit.newcomer(), token_hex(8)
    event = visit.event(author, tags=[["t", topic]], age=5)
    other = visit.event(visit.newcomer(), age=400, tags=[["t", token_hex(8)]])
    async with visit.dial() as wire:
        await visit.keep(wire, event, other)
        mine = Filter(authors=frozenset({author.public}))
        for wanted in (
            Filter(ids=frozenset({event.id})),
            mine,
            replace(mine, kinds=frozenset({kinds.NOTE})),
            Filter(tags={"t": frozenset({topic})}),
            replace(mine, since=event.created_at, until=event.created_at),
            replace(mine, limit=1),
        ):
            answer = await visit.found(wire, wanted)
            expect(
                answer.events == (event,),
                sent=f"REQ with a filter that only {shown(event)} meets: {wanted}",
                expected="this event, as it was published",
                came=shown_all(answer.events),
            )
        for nothing in (
            replace(mine, kinds=frozenset({kinds.REACTION})),
            replace(mine, since=event.created_at + 1),
            replace(mine, until=event.created_at - 1),
            replace(mine, limit=0),
        ):
            answer = await visit.found(wire, nothing)
            expect(
                not answer.events,
                sent=f"REQ with a filter that nothing meets, or limit 0: {nothing}",
                expected="EOSE at once",
                came=shown_all(answer.events),
            )


async def duplicates_are_accepted(visit: Visit) -> None:
    event = visit.event(visit.newcomer())
    async with visit.dial() as wire:
        await visit.keep(wire, event)
        again = await visit.publish(wire, event)
        expect(
            again.accepted,
            sent=f"EVENT {shown(event)} for the second time",
            expected="OK true, duplicate: …",
            came=f"OK false {again.reason!r} came",
        )
        answer = await visit.found(wire, Filter(authors=frozenset({event.pubkey})))
        expect(len(answer.events) == 1, sent="REQ for it", expected="it once", came=shown_all(answer.events))


async def forgeries_are_refused(visit: Visit) -> None:
    author = visit.newcomer()
    first, second = visit.event(author), visit.event(author)
    stranger = visit.event(visit.newcomer())
    forgeries = {
        "with another content than its id says": first._replace(content="forged"),
        "with another event's signature": first._replace(sig=second.sig),
        "in another author's name": stranger._replace(pubkey=first.pubkey),
        "with an id of its own choice": second._replace(id=EventId("00" * 32)),
    }
    async with visit.dial() as wire:
        for why, forgery in forgeries.items():
            await visit.refused(wire, forgery, why)
        answer = await visit.found(wire, Filter(authors=frozenset({author.public})))
        expect(
            not answer.events,
            sent="REQ for what was refused",
            expected="nothing",
            came=shown_all(answer.events),
        )


async def newest_replaceable_stays(visit: Visit) -> None:
    author = visit.newcomer()
    versions = [visit.event(author, kinds.PROFILE, "{}", age=age) for age in (60, 20, 40)]
    await _expect_survivor(visit, versions, versions[1], "kind 0 of three times")


async def lowest_id_wins_ties(visit: Visit) -> None:
    for ascending in (True, False):
        author = visit.newcomer()
        at = visit.now() - 30
        made = [visit.event(author, kinds.PROFILE, f'{{"about":"{n}"}}', at=at) for n in range(2)]
        made.sort(key=lambda event: event.id, reverse=not ascending)
        lowest = min(made, key=lambda event: event.id)
        await _expect_survivor(visit, made, lowest, "two versions of one second")


async def addresses_are_told_apart(visit: Visit) -> None:
    author, one, other = visit.newcomer(), token_hex(8), token_hex(8)
    old = visit.event(author, _ADDRESSABLE, tags=[["d", one]], age=60)
    new = visit.event(author, _ADDRESSABLE, tags=[["d", one]], age=30)
    beside = visit.event(author, _ADDRESSABLE, tags=[["d", other]], age=45)
    async with visit.dial() as wire:
        await visit.keep(wire, old, beside, new)
        answer = await visit.found(
            wire, Filter(kinds=frozenset({_ADDRESSABLE}), authors=frozenset({author.public}))
        )
        expect(
            answer.ids == [new.id, beside.id],
            sent="kind 30078: two versions of one d tag, and one of another",
            expected=f"the newer version and the other one: {shown(new)}, {shown(beside)}",
            came=shown_all(answer.events),
        )


async def _expect_survivor(visit: Visit, versions: Sequence[Event], survivor: Event, what: str) -> None:
    async with visit.dial() as wire:
        await visit.keep(wire, versions[0])
        for version in versions[1:]:
            # What is older may be refused or passed over.
            await visit.publish(wire, version)
        author = frozenset({survivor.pubkey})
        answer = await visit.found(wire, Filter(authors=author, kinds=frozenset({survivor.kind})))
        expect(
            answer.ids == [survivor.id],
            sent=f"{what}, in the order {', '.join(map(shown, versions))}",
            expected=f"only {shown(survivor)} stays",
            came=shown_all(answer.events),
        )


async def ephemeral_events_are_passed_on_only(visit: Visit) -> None:
    author = visit.newcomer()
    event = visit.event(author, _EPHEMERAL)
    wanted = Filter(authors=frozenset({author.public}))
    async with visit.dial() as listening, visit.dial() as speaking:
        name = await _listen(visit, listening, wanted)
        await visit.keep(speaking, event)
        await listening.until_live(name, event)
        answer = await visit.found(speaking, wanted)
        expect(
            not answer.events,
            sent=f"REQ for {shown(event)}, an ephemeral event that has passed",
            expected="nothing",
            came="it was kept",
        )


async def _listen(visit: Visit, wire: Wire, *filters: Filter, name: str | None = None) -> str:
    """Open a subscription that must be answered; return its name."""
    await visit.found(wire, *(replace(wanted, limit=1) for wanted in filters))
    opened, _ = await wire.subscribe(*filters, name=name)
    return opened


async def stored_events_come_in_order(visit: Visit) -> None:
    author, topic = visit.newcomer(), token_hex(8)
    ages = (30, 90, 10, 70, 50)
    events = [visit.event(author, tags=[["t", topic]], age=age) for age in ages]
    ordered = sorted(events, key=lambda event: (-event.created_at, event.id))
    wanted = Filter(tags={"t": frozenset({topic})})
    async with visit.dial() as wire, visit.dial() as speaking:
        await visit.keep(speaking, *events)
        for limit in (None, 2):
            answer = await visit.found(wire, wanted.limited(limit))
            right = ordered[:limit]
            expect(
                answer.ids == [event.id for event in right],
                sent=f"REQ for five events with the limit {limit}",
                expected=f"the newest first: {', '.join(map(shown, right))}",
                came=shown_all(answer.events),
            )


async def live_events_come_behind_the_stored_ones(visit: Visit) -> None:
    author, topic = visit.newcomer(), token_hex(8)
    stored = visit.event(author, tags=[["t", topic]], age=30)
    live = visit.event(author, tags=[["t", topic]])
    last = visit.event(author, tags=[["t", topic]])
    async with visit.dial() as wire, visit.dial() as speaking:
        await visit.keep(speaking, stored)
        name = await _listen(visit, wire, Filter(tags={"t": frozenset({topic})}))
        await visit.keep(speaking, live, last)
        await wire.until_live(name, last)
        times = sum(one.event.id == live.id for one in wire.live)
        expect(
            times == 1,
            sent=f"{shown(live)} while a subscription to it was open",
            expected="it once",
            came=f"it came {times} times",
        )
        expect(
            all(one.event.id != stored.id for one in wire.live),
            sent="a REQ that was answered, then new events",
            expected="no stored event behind the EOSE",
            came=f"{shown(stored)} came again",
        )


async def closed_subscriptions_are_silent(visit: Visit) -> None:
    author, topic, other = visit.newcomer(), token_hex(8), token_hex(8)
    after_close = visit.event(author, tags=[["t", topic]])
    last = visit.event(author, tags=[["t", other]])
    async with visit.dial() as wire, visit.dial() as speaking:
        closed = await _listen(visit, wire, Filter(tags={"t": frozenset({topic})}))
        replaced = await _listen(visit, wire, Filter(tags={"t": frozenset({topic})}), name="again")
        open_ = await _listen(visit, wire, Filter(tags={"t": frozenset({other})}), name=replaced)
        await wire.say(Close(closed))
        # Its answer proves that CLOSE was read.
        await visit.found(wire, Filter(ids=frozenset({after_close.id})))
        await visit.keep(speaking, after_close, last)
        await wire.until_live(open_, last)
        expect(
            Delivered(closed, after_close) not in wire.live,
            sent=f"CLOSE, then {shown(after_close)}",
            expected="silence",
            came="it was sent to the closed subscription",
        )
        expect(
            Delivered(replaced, after_close) not in wire.live,
            sent=f"a second REQ of the same name with another filter, then {shown(after_close)}",
            expected="what the second filter asks for",
            came="the first filter was answered on",
        )


async def nonsense_is_survived(visit: Visit) -> None:
    event = visit.event(visit.newcomer())
    async with visit.dial() as wire:
        await visit.keep(wire, event)
        for text in (
            b'["TORV-DOCTOR","an unknown message"]',
            b'["REQ","nonsense","not a filter"]',
            b'["EVENT",{"id":"nonsense"}]',
            b"not JSON",
        ):
            await wire.say_raw(text)
            answer = await visit.found(wire, Filter(ids=frozenset({event.id})))
            expect(
                answer.ids == [event.id],
                sent=f"{text.decode()}, then a REQ",
                expected="that the REQ is answered as before",
                came=shown_all(answer.events),
            )


PROBES = (
    Probe(1, "an event is found by every condition of a filter, unchanged", found_by_every_condition),
    Probe(1, "a second copy of an event is a duplicate, no error", duplicates_are_accepted),
    Probe(1, "wrong ids and signatures are refused", forgeries_are_refused),
    Probe(1, "of a replaceable event the newest version stays", newest_replaceable_stays),
    Probe(1, "of two versions of one second the lowest id stays", lowest_id_wins_ties),
    Probe(1, "addressable events are replaced by their d tag", addresses_are_told_apart),
    Probe(1, "ephemeral events are passed on and not kept", ephemeral_events_are_passed_on_only),
    Probe(1, "stored events come newest first, the limit counts", stored_events_come_in_order),
    Probe(1, "live events follow the stored ones, each once", live_events_come_behind_the_stored_ones),
    Probe(1, "closed and replaced subscriptions are silent", closed_subscriptions_are_silent),
    Probe(1, "nonsense is answered or passed over, not hung up on", nonsense_is_survived),
)
