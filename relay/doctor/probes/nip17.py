"""NIP-17: private messages arrive, though their wraps are dated back, and their receivers can be found."""

from secrets import token_bytes

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown, shown_all
from relay.nostr import kinds
from relay.nostr.filter import Filter

_TWO_DAYS = 2 * 24 * 3600


async def backdated_wraps_arrive(visit: Visit) -> None:
    once, receiver = visit.newcomer(), visit.newcomer()
    # "up to two days in the past"
    wrap = visit.event(
        once, kinds.GIFT_WRAP, token_bytes(64).hex(), tags=[["p", receiver.public]], age=_TWO_DAYS - 60
    )
    wanted = Filter(kinds=frozenset({kinds.GIFT_WRAP}), tags={"p": frozenset({receiver.public})})
    async with (
        visit.dial() as sending,
        visit.dial_proved(receiver) as reading,
        visit.dial_as_nobody() as strange,
    ):
        await visit.keep(sending, wrap)
        answer = await visit.found(reading, wanted)
        expect(
            answer.ids == [wrap.id],
            sent=f"{shown(wrap)}, dated back two days, and a REQ by its receiver",
            expected="it",
            came=shown_all(answer.events),
        )
        _, seen = await strange.subscribe(wanted)
        expect(
            not seen.events,
            sent="the same REQ by somebody who proved no key",
            expected="nothing, or CLOSED",
            came=shown_all(seen.events),
        )


async def receivers_can_be_found(visit: Visit) -> None:
    receiver = visit.newcomer()
    inbox = visit.event(receiver, kinds.INBOX_RELAYS, tags=[["relay", visit.url]])
    async with visit.dial() as wire:
        await visit.keep(wire, inbox)
        answer = await visit.found(
            wire, Filter(kinds=frozenset({kinds.INBOX_RELAYS}), authors=frozenset({receiver.public}))
        )
        expect(
            answer.ids == [inbox.id],
            sent="REQ for a newcomer's list of inbox relays (kind 10050)",
            expected="it",
            came=shown_all(answer.events),
        )


PROBES = (
    Probe(17, "wraps dated back two days reach their receiver and no stranger", backdated_wraps_arrive),
    Probe(17, "lists of inbox relays (kind 10050) are kept and found", receivers_can_be_found),
)
