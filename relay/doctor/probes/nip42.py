"""NIP-42: right proofs of keys are taken, wrong ones are not, and no proof is passed on."""

from relay.doctor.outcome import expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown_all
from relay.nostr import kinds
from relay.nostr.event import sign
from relay.nostr.filter import Filter


async def right_proofs_are_taken(visit: Visit) -> None:
    async with visit.dial_as_nobody() as wire:
        for which in ("a first", "a second"):
            # "Relays MUST treat all pubkeys as authenticated accordingly."
            ok = await wire.prove(visit.newcomer())
            expect(
                ok.accepted,
                sent=f"AUTH with {which} key on one connection",
                expected="OK true",
                came=f"OK false {ok.reason!r} came",
            )


async def wrong_proofs_are_refused(visit: Visit) -> None:
    key, now = visit.newcomer(), visit.now()
    async with visit.dial_as_nobody() as wire:
        challenge = await wire.challenged()
        right = [["relay", visit.url], ["challenge", challenge]]
        wrong: dict[str, dict[str, object]] = {
            "with another challenge": {"tags": [right[0], ["challenge", "not yours"]]},
            "for another relay": {"tags": [["relay", "wss://elsewhere.example.com"], right[1]]},
            "of another kind": {"kind": kinds.NOTE},
            "an hour old": {"created_at": now - 3600},
        }
        for why, parts in wrong.items():
            ok = await wire.prove(key, **parts)
            expect(not ok.accepted, sent=f"AUTH {why}", expected="OK false", came="OK true came")
        forged = sign(key, created_at=now, kind=kinds.CLIENT_AUTH, tags=right)._replace(
            sig=sign(key, created_at=now, kind=kinds.NOTE).sig
        )
        ok = await wire.present(forged)
        expect(not ok.accepted, sent="AUTH with a wrong signature", expected="OK false", came="OK true came")


async def proofs_are_not_passed_on(visit: Visit) -> None:
    key = visit.newcomer()
    wanted = Filter(authors=frozenset({key.public}))
    marker = visit.event(key)
    async with visit.dial_as_nobody() as wire, visit.dial() as listening:
        challenge = await wire.challenged()
        await visit.found(listening, wanted)
        name, _ = await listening.subscribe(wanted)
        proof = visit.event(
            key, kinds.CLIENT_AUTH, tags=[["relay", visit.url], ["challenge", challenge]], lasts=True, work=0
        )
        # "relays MUST exclude kind:22242 events from being broadcasted to any client"
        await wire.offer(proof)
        async with visit.dial() as speaking:
            await visit.keep(speaking, marker)
        await listening.until_live(name, marker)
        passed_on = [one.event for one in listening.live if one.event.kind == kinds.CLIENT_AUTH]
        expect(
            not passed_on,
            sent="EVENT of kind 22242",
            expected="that nobody gets it",
            came=shown_all(passed_on),
        )


PROBES = (
    Probe(42, "right proofs are taken, of several keys too", right_proofs_are_taken),
    Probe(42, "wrong proofs are refused", wrong_proofs_are_refused),
    Probe(42, "proofs are not passed on as events", proofs_are_not_passed_on),
)
