"""Polls and votes (NIP-88): what they say, and which votes count.

Of each key one vote counts: the latest that is valid and not later than the end; of two of the same second
the one with the lower id (NIP-01's rule; NIP-88 has none). A vote for an option that the poll does not have
is not valid.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from relay.nostr import kinds
from relay.nostr.event import Event, EventId, PubKey
from relay.nostr.negentropy import FINGERPRINT_BYTES, encode_varint
from relay.nostr.reasons import Refused, invalid
from relay.nostr.tags import HEX_64, first_value, seconds

MAX_OPTIONS = 100

# NIP-88 says "any alphanumeric"; clients also write UUIDs.
_OPTION_ID = re.compile(r"[0-9A-Za-z_-]{1,64}").fullmatch


class InvalidPoll(Refused):
    """A poll that nobody could vote in."""


class InvalidVote(Refused):
    """A vote that no poll could count."""


@dataclass(frozen=True, slots=True)
class Poll:
    """What can be voted for, how and until when."""

    id: EventId
    options: tuple[tuple[str, str], ...]
    """(id, label), in the author's order."""
    is_multiple: bool
    """Whether a vote may choose several options."""
    ends_at: int | None
    """Unix seconds: the last second of which votes count."""


class Vote(NamedTuple):
    """One response to a poll."""

    created_at: int
    id: EventId
    choices: tuple[str, ...]
    """Ids of options, each once, in order."""


def parse_poll(event: Event) -> Poll:
    """Read a poll. Raises InvalidPoll."""
    options: list[tuple[str, str]] = []
    for tag in event.tags:
        if tag and tag[0] == "option":
            if len(tag) < 3 or not _OPTION_ID(tag[1]):
                raise InvalidPoll(invalid("an option has an id of letters and digits, and a label"))
            options.append((tag[1], tag[2]))
    if not 1 <= len(options) <= MAX_OPTIONS:
        raise InvalidPoll(invalid(f"a poll has 1 to {MAX_OPTIONS} options"))
    if len({id_ for id_, _ in options}) < len(options):
        raise InvalidPoll(invalid("two options of the poll have one id"))
    kind = first_value(event.tags, "polltype") or "singlechoice"
    if kind not in ("singlechoice", "multiplechoice"):
        raise InvalidPoll(invalid("polltype is singlechoice or multiplechoice"))
    return Poll(event.id, tuple(options), kind == "multiplechoice", _end(event))


def _end(event: Event) -> int | None:
    text = first_value(event.tags, "endsAt")
    if text is None:
        return None
    at = seconds(text)
    if at is None or at <= event.created_at:
        raise InvalidPoll(invalid("endsAt is a time in unix seconds, after the poll's own"))
    return at


def parse_vote(event: Event) -> tuple[EventId, Vote]:
    """Return the id of the poll that a vote is for, and the vote. Raises InvalidVote."""
    poll = first_value(event.tags, "e")
    if poll is None or not HEX_64(poll):
        raise InvalidVote(invalid("a vote names its poll by an e tag"))
    choices = [tag[1] for tag in event.tags if tag and tag[0] == "response" and len(tag) > 1]
    if not choices:
        raise InvalidVote(invalid("a vote has a response"))
    if len(choices) > MAX_OPTIONS:
        raise InvalidVote(invalid(f"a vote has {MAX_OPTIONS} responses at most"))
    for choice in choices:
        if not _OPTION_ID(choice):
            raise InvalidVote(invalid("a response is the id of an option"))
    # Nearly every vote has one.
    once = tuple(choices) if len(choices) == 1 else tuple(dict.fromkeys(choices))
    return EventId(poll), Vote(event.created_at, event.id, once)


def chosen(options: Mapping[str, int], is_multiple: bool, vote: Vote) -> tuple[int, ...]:
    """Return the numbers of the options that a vote is for; none where it is not valid.

    `options` gives each id its number. In a poll for one choice the first response is the vote.
    """
    if not is_multiple:
        place = options.get(vote.choices[0])
        return () if place is None else (place,)
    places = tuple([options[choice] for choice in vote.choices if choice in options])
    return places if len(places) == len(vote.choices) else ()


@dataclass(frozen=True, slots=True)
class Result:
    """How a poll stands, or ended."""

    counts: tuple[int, ...]
    """Votes for each option, in the poll's order."""
    voters: int
    fingerprint: str
    """Negentropy's (NIP-77) of the votes that count, 32 hex digits: see `fingerprint`."""


def fingerprint(total: int, count: int) -> str:
    """Return Negentropy's fingerprint of `count` events whose ids sum up to `total`, as 32 hex digits.

    Ids count as little-endian numbers, their sum modulo 2^256.
    """
    return (
        sha256((total % 2**256).to_bytes(32, "little") + encode_varint(count))
        .digest()[:FINGERPRINT_BYTES]
        .hex()
    )


def number(id_: str) -> int:
    """Return an event id as Negentropy adds it up."""
    return int.from_bytes(bytes.fromhex(id_), "little")


def count(poll: Poll, votes: Iterable[Event]) -> Result:
    """Count votes for a poll, in whatever order they come; what is no vote for it is passed over."""
    options = {id_: place for place, (id_, _) in enumerate(poll.options)}
    best: dict[PubKey, Vote] = {}
    for event in votes:
        if event.kind != kinds.VOTE:
            continue
        try:
            named, vote = parse_vote(event)
        except InvalidVote:
            continue
        is_late = poll.ends_at is not None and vote.created_at > poll.ends_at
        if named != poll.id or is_late or not chosen(options, poll.is_multiple, vote):
            continue
        other = best.get(event.pubkey)
        if other is None or order(vote) < order(other):
            best[event.pubkey] = vote
    counts = [0] * len(poll.options)
    for vote in best.values():
        for place in chosen(options, poll.is_multiple, vote):
            counts[place] += 1
    total = sum(number(vote.id) for vote in best.values())
    return Result(tuple(counts), len(best), fingerprint(total, len(best)))


def order(vote: Vote) -> tuple[int, str]:
    """Return what the votes of one key are sorted by: the first that is valid counts."""
    return -vote.created_at, vote.id


def tally_tags(poll: str, options: Sequence[str], result: Result) -> list[list[str]]:
    """Return the tags by which a relay tells how a poll stands."""
    tags = [["e", poll], *(["tally", id_, str(n)] for id_, n in zip(options, result.counts, strict=True))]
    return [*tags, ["voters", str(result.voters)], ["fingerprint", result.fingerprint]]


def parse_tally(event: Event) -> tuple[dict[str, int], int, str]:
    """Return a tally's (votes by option, voters, fingerprint). Raises InvalidPoll."""
    counts = {tag[1]: seconds(tag[2]) for tag in event.tags if len(tag) > 2 and tag[0] == "tally"}
    voters = seconds(first_value(event.tags, "voters") or "")
    found = first_value(event.tags, "fingerprint")
    known = {id_: n for id_, n in counts.items() if n is not None}
    if voters is None or found is None or len(known) < len(counts) or not counts:
        raise InvalidPoll(invalid("this is not a tally"))
    return known, voters, found


def audit(poll: Poll, votes: Iterable[Event], tally: Event) -> list[str]:
    """Return what a tally tells that the votes do not; nothing where they agree.

    The signatures have been checked, and `tally` is by the relay that is audited. Raises InvalidPoll.
    """
    told, voters, told_fingerprint = parse_tally(tally)
    found = count(poll, votes)
    differences = []
    if first_value(tally.tags, "e") != poll.id:
        differences.append("the tally is another poll's")
    ids = [id_ for id_, _ in poll.options]
    if told.keys() != set(ids):
        differences.append("the tally has other options")
    for id_, n in zip(ids, found.counts, strict=True):
        if told.get(id_, n) != n:
            differences.append(f"{told[id_]} votes were told for {id_}, {n} were found")
    if voters != found.voters:
        differences.append(f"{voters} voters were told, {found.voters} were found")
    elif told_fingerprint != found.fingerprint:
        differences.append("as many voters were told as were found, but not the same votes")
    return differences
