"""NIP-66: the relay's announcement of itself is signed by it, and true."""

from relay.doctor.outcome import Skipped, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown, shown_all
from relay.nostr import kinds
from relay.nostr.filter import Filter
from relay.nostr.tags import values

_LOOKS = 20
_STEP_SECONDS = 0.25


async def announcement_is_true(visit: Visit) -> None:
    self_key = visit.information.self_key
    if self_key is None:
        raise Skipped("its document names no key of its own (self) that could have signed an announcement")
    wanted = Filter(kinds=frozenset({kinds.RELAY_DISCOVERY}), authors=frozenset({self_key}))
    async with visit.dial() as wire:
        answer = await visit.found(wire, wanted)
        for _ in range(_LOOKS):
            if answer.events:
                break
            # A relay that has just been started may not have come to it yet.
            await visit.pause(_STEP_SECONDS)
            answer = await visit.found(wire, wanted)
    expect(
        len(answer.events) == 1,
        sent="REQ for kind 30166 by the relay's own key",
        expected="one announcement",
        came=shown_all(answer.events),
    )
    (event,) = answer.events
    claimed = sorted(
        int(number) for number in values(event.tags, "N") if number.isascii() and number.isdigit()
    )
    expect(
        claimed == list(visit.information.nips),
        sent=f"the N tags of {shown(event)}",
        expected=f"what the document says: {visit.information.nips}",
        came=f"{claimed} came",
    )
    requirements = values(event.tags, "R")
    for flag, name in (("auth_required", "auth"), ("payment_required", "payment")):
        right = name if visit.information.says(flag) else f"!{name}"
        opposite = f"!{name}" if visit.information.says(flag) else name
        expect(
            opposite not in requirements,
            sent=f"the R tags of {shown(event)}",
            expected=f"{right}, as the document's {flag} says",
            came=f"{opposite} came",
        )


PROBES = (Probe(66, "the relay announces itself (kind 30166), truthfully", announcement_is_true),)
