"""NIP-65: relay lists are taken from anybody and shown to anybody."""

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown, shown_all
from relay.nostr import kinds
from relay.nostr.filter import Filter


async def relay_lists_are_kept(visit: Visit) -> None:
    author = visit.newcomer()
    old = visit.event(author, kinds.RELAY_LIST, tags=[["r", "wss://old.example.com"]], age=60)
    new = visit.event(author, kinds.RELAY_LIST, tags=[["r", visit.url]])
    async with visit.dial() as wire:
        await visit.keep(wire, old, new)
        answer = await visit.found(
            wire, Filter(kinds=frozenset({kinds.RELAY_LIST}), authors=frozenset({author.public}))
        )
        expect(
            answer.ids == [new.id],
            sent="REQ for a newcomer's relay list (kind 10002), of two versions",
            expected=f"the newer one: {shown(new)}",
            came=shown_all(answer.events),
        )


PROBES = (Probe(65, "relay lists (kind 10002) are kept, the newest one shown", relay_lists_are_kept),)
