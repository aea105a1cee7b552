"""NIP-88: polls and votes are kept; where the relay counts them itself, each key counts once."""

from urllib.parse import urlsplit

import orjson

from relay.doctor.information import http_of, request
from relay.doctor.outcome import Skipped, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import shown_all
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey

_LOOKS = 8
_STEP_SECONDS = 0.25


def _poll(visit: Visit) -> Event:
    tags = [["option", "yes", "Yes"], ["option", "no", "No"], ["polltype", "singlechoice"]]
    ends = ["endsAt", str(visit.now() + 600)]
    return visit.event(visit.newcomer(), kinds.POLL, "Is this a test?", tags=[*tags, ends], age=60)


def _vote(visit: Visit, poll: Event, by: SecretKey, choice: str, age: int) -> Event:
    return visit.event(by, kinds.VOTE, tags=[["e", poll.id], ["response", choice]], age=age)


async def votes_are_found(visit: Visit) -> None:
    poll = _poll(visit)
    votes = [_vote(visit, poll, visit.newcomer(), choice, age) for choice, age in (("yes", 20), ("no", 10))]
    async with visit.dial() as wire:
        await visit.keep(wire, poll, *votes)
        answer = await visit.found(
            wire, Filter(kinds=frozenset({kinds.VOTE}), tags={"e": frozenset({poll.id})})
        )
        expect(
            set(answer.ids) == {vote.id for vote in votes},
            sent="REQ for the two votes of a poll",
            expected="both",
            came=shown_all(answer.events),
        )


async def every_key_counts_once(visit: Visit) -> None:
    poll, undecided = _poll(visit), visit.newcomer()
    async with visit.dial() as wire:
        await visit.keep(
            wire,
            poll,
            _vote(visit, poll, undecided, "yes", 30),
            _vote(visit, poll, undecided, "no", 10),
            _vote(visit, poll, visit.newcomer(), "yes", 20),
        )
    found: object = None
    for _ in range(_LOOKS):
        found = await _tally(visit, poll)
        if found == {"yes": 1, "no": 1}:
            return
        await visit.pause(_STEP_SECONDS)
    expect(
        False,
        sent="a vote for yes; and one for yes, then one for no, of one key",
        expected="1 vote for each, of the latest of every key",
        came=f"{found} came",
    )


async def _tally(visit: Visit, poll: Event) -> object:
    parts = urlsplit(http_of(visit.url))
    answer = await request(
        f"{parts.scheme}://{parts.netloc}/api/poll/{poll.id}", seconds=visit.answer_seconds
    )
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        document = None
    match document:
        case {"options": [*options]}:
            return {one.get("id"): one.get("votes") for one in options if isinstance(one, dict)}
        case {"error": str(text)}:
            return text
    raise Skipped("the relay does not count votes itself (GET /api/poll/…), which it need not")


PROBES = (
    Probe(88, "polls and their votes are kept and found", votes_are_found),
    Probe(88, "where the relay counts, every key counts once, by its latest vote", every_key_counts_once),
)
