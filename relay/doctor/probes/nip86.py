"""NIP-86: the relay is managed by signed calls (NIP-98), and what they decide holds at once."""

from relay.doctor.management import MEDIA_TYPE, allowed_key, authorization, body_of, call, methods, send
from relay.doctor.outcome import Skipped, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown
from relay.nostr import kinds

_BODY = body_of("supportedmethods")


async def strangers_may_not_call(visit: Visit) -> None:
    strangers = {"nobody": None, "somebody whom the relay does not know": visit.newcomer()}
    for who, key in strangers.items():
        for body in (_BODY, body_of("banpubkey", visit.newcomer().public, "torv doctor tries it")):
            proof = None if key is None else authorization(visit, key, body)
            called = await send(visit, body, proof)
            expect(
                called.is_refused,
                sent=f"{body.decode()} as {MEDIA_TYPE} by {who}",
                expected="status 401 or 403",
                came=f"{called} came",
            )


async def signatures_are_checked(visit: Visit) -> None:
    key = allowed_key(visit)
    await methods(visit)
    right = authorization(visit, key, _BODY)
    wrong = {
        "for another URL": authorization(visit, key, _BODY, url="https://elsewhere.example.com/"),
        "for another method": authorization(visit, key, _BODY, method="GET"),
        "for another body": authorization(visit, key, b"{}"),
        "an hour old": authorization(visit, key, _BODY, age=3600),
        "of another kind": authorization(visit, key, _BODY, kind=kinds.NOTE),
        "with a wrong signature": right._replace(sig=authorization(visit, key, _BODY, age=1).sig),
    }
    for why, proof in wrong.items():
        called = await send(visit, _BODY, proof)
        expect(
            called.is_refused,
            sent=f"a call with a signature {why}",
            expected="status 401",
            came=f"{called} came",
        )


async def lists_are_there(visit: Visit) -> None:
    for name in sorted(await methods(visit)):
        if name.startswith("list"):
            found = await call(visit, name)
            expect(
                isinstance(found, list),
                sent=f"{name}, which supportedmethods names",
                expected="an array",
                came=f"{found!r:.100} came",
            )


async def bans_hold_at_once(visit: Visit) -> None:
    supported = await methods(visit)
    if not {"banpubkey", "unbanpubkey"} <= supported:
        raise Skipped("the relay has no methods banpubkey and unbanpubkey")
    author = visit.newcomer()
    before, event = visit.event(author, age=10), visit.event(author)
    async with visit.dial() as wire:
        await visit.keep(wire, before)
        await call(visit, "banpubkey", author.public, "torv doctor tries it")
        try:
            await visit.refused(wire, event, "by a key that was banned")
        finally:
            await call(visit, "unbanpubkey", author.public)
        again = visit.event(author)
        ok = await visit.publish(wire, again)
        expect(
            ok.accepted,
            sent=f"EVENT {shown(again)} by a key that is not banned any more",
            expected="OK true",
            came=f"{ok.reason!r} came",
        )


PROBES = (
    Probe(86, "strangers may not call anything", strangers_may_not_call),
    Probe(86, "calls take a right signature (NIP-98)", signatures_are_checked),
    Probe(86, "the lists that supportedmethods names are there", lists_are_there),
    Probe(86, "who is banned cannot write, who is unbanned can", bans_hold_at_once),
)
