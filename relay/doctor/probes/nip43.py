"""NIP-43: members join by an invite that the relay made, are listed, and leave."""

import asyncio
from collections.abc import Callable

from relay.doctor.outcome import Failed, Skipped, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import Wire, shown
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.tags import first_value, values

_LIST, _JOIN, _INVITE, _LEAVE = 13_534, 28_934, 28_935, 28_936
_PATIENCE_SECONDS = 10.0
"""How late a list may be."""
_STEP_SECONDS = 0.25


async def invented_claims_are_refused(visit: Visit) -> None:
    stranger = visit.newcomer()
    async with visit.dial_as_nobody() as wire:
        request = _request(visit, stranger, _JOIN, ["claim", "torv doctor has made this up"])
        await visit.refused(wire, request, "a request to join with an invented claim")


async def members_join_and_leave(visit: Visit) -> None:
    if visit.key is None:
        raise Skipped("an invite is made for members or admins; name the key of one with --key")
    member = visit.newcomer()
    async with visit.dial_proved(visit.key) as wire, visit.dial_proved(member) as joining:
        answer = await visit.found(wire, Filter(kinds=frozenset({_INVITE})))
        if not answer.events:
            raise Skipped("the key of --key is given no invite")
        claim = first_value(_by_the_relay(visit, answer.events[0]).tags, "claim")
        expect(claim is not None, sent="REQ for kind 28935", expected="a claim tag", came="it has none")
        ok = await visit.publish(joining, _request(visit, member, _JOIN, ["claim", claim or ""]))
        expect(ok.accepted, sent="kind 28934 with the claim", expected="OK true", came=f"{ok.reason!r} came")
        try:
            await _until_listed(visit, wire, member, lambda is_listed: is_listed)
        finally:
            ok = await visit.publish(joining, _request(visit, member, _LEAVE))
        expect(ok.accepted, sent="kind 28936 by a member", expected="OK true", came=f"{ok.reason!r} came")
        await _until_listed(visit, wire, member, lambda is_listed: not is_listed)


def _request(visit: Visit, author: SecretKey, kind: int, *tags: list[str]) -> Event:
    return visit.event(author, kind, tags=[["-"], *tags], lasts=True)


def _by_the_relay(visit: Visit, event: Event) -> Event:
    self_key = visit.information.self_key
    expect(
        event.pubkey == self_key and any(tag[:1] == ("-",) for tag in event.tags),
        sent=f"REQ for kind {event.kind}",
        expected=f"an event signed by the document's self ({self_key}), with a - tag",
        came=f"{shown(event)} of {event.pubkey} came",
    )
    return event


async def _until_listed(
    visit: Visit, wire: Wire, member: SecretKey, is_right: Callable[[bool], bool]
) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                answer = await visit.found(wire, Filter(kinds=frozenset({_LIST})))
                lists = [_by_the_relay(visit, event) for event in answer.events]
                if is_right(any(member.public in values(event.tags, "member") for event in lists)):
                    return
                await visit.pause(_STEP_SECONDS)
    except TimeoutError:
        raise Failed(
            sent="kind 28934 or 28936, then REQ for kind 13534",
            expected="who joined in the list of members, and who left not",
            came=f"it was not so after {_PATIENCE_SECONDS:g} s",
        ) from None


PROBES = (
    Probe(43, "nobody joins by a claim that was made up", invented_claims_are_refused),
    Probe(43, "who joins by an invite is listed until leaving", members_join_and_leave),
)
