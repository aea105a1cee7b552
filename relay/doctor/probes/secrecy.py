"""Whether an event is shown to its readers and to nobody else, at every door that a relay has."""

from contextlib import AsyncExitStack

from relay.doctor.outcome import expect
from relay.doctor.probes.reconciling import reconcile
from relay.doctor.visit import Visit
from relay.doctor.wire import Wire, shown
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.messages import Closed, NegErr
from relay.nostr.tags import values


async def prove_secrecy(
    visit: Visit, secret: Event, *, sender: SecretKey, readers: tuple[SecretKey, ...]
) -> None:
    """Publish an event and look for it as a stranger and as its readers: stored, live, counted, reconciled.

    Raises Failed where a stranger learns of it or a reader does not.
    """
    receivers = frozenset(values(secret.tags, "p"))
    kind = frozenset({secret.kind})
    to_receivers = Filter(kinds=kind, tags={"p": receivers})
    marker = visit.event(visit.newcomer())
    either = Filter(authors=frozenset({secret.pubkey, marker.pubkey}), kinds=kind | {kinds.NOTE})
    async with AsyncExitStack() as opened:
        strangers = {
            "who proved no key": await opened.enter_async_context(visit.dial_as_nobody()),
            "who proved another key": await opened.enter_async_context(visit.dial_proved(visit.newcomer())),
        }
        reading = [await opened.enter_async_context(visit.dial_proved(key)) for key in readers]
        writing = await opened.enter_async_context(visit.dial(sender))
        watching = {}
        for who, wire in strangers.items():
            await wire.subscribe(to_receivers)
            name, answer = await wire.subscribe(either)
            if answer.refusal is None:
                watching[who] = (wire, name)
        names = [(wire, (await wire.subscribe(to_receivers))[0]) for wire in reading]

        await visit.keep(writing, secret)
        # Once the event behind it has come, it would have come too.
        await visit.keep(writing, marker)
        for wire, name in names:
            await wire.until_live(name, secret)
        for who, (wire, name) in watching.items():
            await wire.until_live(name, marker)
            _expect_not_live(wire, secret, who)

        if kinds.retention(secret.kind) is kinds.Retention.EPHEMERAL:
            return
        for who, wire in strangers.items():
            await _look_for(visit, wire, secret, to_receivers, who)
            _expect_not_live(wire, secret, who)
        for wire in reading:
            answer = await visit.found(wire, to_receivers)
            expect(
                secret.id in answer.ids,
                sent=f"REQ for {shown(secret)} by one whom it concerns, with the key proved",
                expected="it",
                came="it did not come",
            )


def _expect_not_live(wire: Wire, secret: Event, who: str) -> None:
    expect(
        all(one.event.id != secret.id for one in wire.live),
        sent=f"{shown(secret)} while somebody {who} had a subscription open",
        expected="that it stays between those whom it concerns",
        came="it was sent to the stranger live",
    )


async def _look_for(visit: Visit, wire: Wire, secret: Event, to_receivers: Filter, who: str) -> None:
    doors = {
        "REQ for its id": Filter(ids=frozenset({secret.id})),
        "REQ for its author": Filter(authors=frozenset({secret.pubkey})),
        "REQ for its kind and receiver": to_receivers,
        "REQ for its time": Filter(since=secret.created_at, until=secret.created_at),
    }
    for door, wanted in doors.items():
        _, answer = await wire.subscribe(wanted)
        expect(
            secret.id not in answer.ids,
            sent=f"{door} ({shown(secret)}) by somebody {who}",
            expected="nothing, or CLOSED",
            came="it was shown",
        )
    if 45 in visit.information.nips:
        counted = await wire.count(to_receivers)
        expect(
            isinstance(counted, Closed) or counted.count == 0,
            sent=f"COUNT of its kind and receiver ({shown(secret)}) by somebody {who}",
            expected="0, or CLOSED",
            came="it was counted",
        )
    if 77 in visit.information.nips:
        differences = await reconcile(wire, to_receivers, ())
        expect(
            isinstance(differences, NegErr) or secret.id not in differences[1],
            sent=f"NEG-OPEN for its kind and receiver ({shown(secret)}) by somebody {who}",
            expected="nothing, or NEG-ERR",
            came="its id was told",
        )
