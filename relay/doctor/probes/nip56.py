"""NIP-56: reports are kept and do nothing by themselves; those of trusted people wait to be looked at."""

from relay.doctor.management import call, methods
from relay.doctor.outcome import Skipped, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown, shown_all
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey

_QUEUE = "listeventsneedingmoderation"


def _report(visit: Visit, by: SecretKey, event: Event) -> Event:
    return visit.event(by, kinds.REPORT, tags=[["e", event.id, "spam"], ["p", event.pubkey]])


async def reports_are_kept_and_do_nothing(visit: Visit) -> None:
    event = visit.event(visit.newcomer(), age=30)
    report = _report(visit, visit.newcomer(), event)
    async with visit.dial() as wire:
        await visit.keep(wire, event, report)
        answer = await visit.found(wire, Filter(ids=frozenset({event.id, report.id})))
        # "It is not recommended that relays perform automatic moderation using reports".
        expect(
            set(answer.ids) == {event.id, report.id},
            sent=f"a newcomer's report of {shown(event)}, then REQ for both",
            expected="the report, and the event as before",
            came=shown_all(answer.events),
        )


async def trusted_reports_wait(visit: Visit) -> None:
    if 86 not in visit.information.nips:
        raise Skipped("what becomes of reports is seen by NIP-86 only, which the relay does not advertise")
    if _QUEUE not in await methods(visit):
        raise Skipped(f"the relay has no method {_QUEUE}")
    assert visit.key is not None
    event, other = visit.event(visit.newcomer(), age=30), visit.event(visit.newcomer(), age=30)
    async with visit.dial() as wire:
        await visit.keep(
            wire,
            event,
            other,
            _report(visit, visit.key, event),
            _report(visit, visit.newcomer(), other),
        )
    queue = await call(visit, _QUEUE)
    waiting = {one.get("id") for one in queue if isinstance(one, dict)} if isinstance(queue, list) else set()
    expect(
        event.id in waiting and other.id not in waiting,
        sent=f"reports by a moderator and by a newcomer, then {_QUEUE}",
        expected="what the moderator has reported, and not what the newcomer has",
        came=f"{queue!r:.300} came",
    )


PROBES = (
    Probe(56, "reports are kept, and hide nothing by themselves", reports_are_kept_and_do_nothing),
    Probe(56, "reports of moderators wait to be looked at", trusted_reports_wait),
)
