"""The table of polls: an exact tally of each, kept in the transaction that stores a vote.

Records, by the first letter of their keys:

- `t` and a poll's id: its tally, without the votes. Those are followed, so that watchers can be told.
- `v`, a poll and a voter (both short): the votes of one key for one poll, which count or once may.
- `c` and a poll's id: votes came before the poll and are not all counted yet.
- `d`, a time and a poll's id: when the tally is signed, for a poll that ends.

A vote costs two reads and two small writes, whatever the poll holds. The sum of ids that Negentropy's
fingerprint is made of is kept up with the counts, so the signed tally is O(1) too.
"""

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from struct import Struct

import orjson

from relay.nostr import kinds, polls
from relay.nostr.event import Event, EventId, encode, sign
from relay.nostr.keys import SecretKey
from relay.nostr.polls import Poll, Result, Vote, order, parse_poll, parse_vote
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.store.api import KEEP, Records, Ruling, Table, Write

NAME = "polls"
TALLY, UNCOUNTED, DUE = "t", "c", "d"
MAX_VOTES_OF_ONE = 32
"""Votes of one key that one poll holds: they are kept together, and read with each further one."""
COUNTED_AT_ONCE = 256
"""Voters counted in one transaction, where they came before their poll: about 3 ms."""
SETTLE_SECONDS = 5
"""Between the last second in which a vote is taken and the signature, for votes that are on their way."""

_IDS = 2**256 - 1

_HEAD = Struct(">I32sH")
"""(created_at, id, length of the choices) of each vote, newest first; the choices follow, one per line."""


@dataclass(slots=True)
class Tally:
    """A poll and how it stands."""

    options: list[str]
    is_multiple: bool
    ends_at: int | None
    due: int | None
    """When it is signed, in unix seconds; None: never, or it was."""
    is_public: bool
    """Whether everybody may see it: a group's polls are for its members."""
    counts: list[int]
    voters: int = 0
    total: int = 0
    """The sum of the ids that count, see `polls.fingerprint`."""
    upto: str | None = None
    """The last voter that was counted, where many came before the poll; None: all are."""
    places: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.places = {id_: place for place, id_ in enumerate(self.options)}

    def result(self) -> Result:
        return Result(tuple(self.counts), self.voters, polls.fingerprint(self.total, self.voters))

    def choices(self, vote: Vote) -> tuple[int, ...]:
        """Return the options that a vote counts for: none where it does not count."""
        if self.ends_at is not None and vote.created_at > self.ends_at:
            return ()
        return polls.chosen(self.places, self.is_multiple, vote)

    def best(self, votes: Sequence[Vote]) -> Vote | None:
        """Return which vote of one key counts."""
        return next((vote for vote in votes if self.choices(vote)), None)

    def move(self, vote: Vote | None, by: int) -> None:
        """Add a vote (by 1), or take it back (by -1)."""
        if vote is not None:
            self._move(vote, self.choices(vote), by)

    def _move(self, vote: Vote, places: tuple[int, ...], by: int) -> None:
        self.voters += by
        self.total = (self.total + by * polls.number(vote.id)) & _IDS
        for place in places:
            self.counts[place] += by

    def add_first(self, vote: Vote, places: tuple[int, ...]) -> None:
        """Add the only vote of its key, which is for these options."""
        self._move(vote, places, 1)


def read_tally(record: bytes) -> Tally:
    """Return a `t` record."""
    options, is_multiple, ends_at, due, is_public, counts, voters, total, upto = orjson.loads(record)
    return Tally(options, is_multiple, ends_at, due, is_public, counts, voters, int(total, 16), upto)


def _write_tally(records: Records, poll: str, tally: Tally) -> bytes:
    fields = (
        *(tally.options, tally.is_multiple, tally.ends_at, tally.due, tally.is_public),
        *(tally.counts, tally.voters, f"{tally.total:x}", tally.upto),
    )
    record = orjson.dumps(fields)
    records.put(TALLY + poll, record)
    return record


def _read(records: Records, poll: str) -> Tally | None:
    record = records.get(TALLY + poll)
    return None if record is None else read_tally(record)


class _Latest:
    """The tally that was written last, as it was written: the next vote is mostly for the same poll."""

    __slots__ = ("_record", "_tally")

    def __init__(self) -> None:
        self._record = b""
        self._tally: Tally | None = None

    def read(self, records: Records, poll: str) -> Tally | None:
        """Return a poll's tally, for the caller to change and write."""
        record = records.get(TALLY + poll)
        if record is None:
            return None
        # By its bytes: whatever became of the transaction that wrote it, equal ones say the same.
        tally = self._tally if record == self._record else None
        self._tally = None
        return tally or read_tally(record)

    def write(self, records: Records, poll: str, tally: Tally) -> None:
        """Write a poll's tally."""
        self._record = _write_tally(records, poll, tally)
        self._tally = tally


def _short(digits: str) -> str:
    """Return 64 hex digits as 43 characters."""
    return urlsafe_b64encode(bytes.fromhex(digits))[:43].decode()


@lru_cache(maxsize=256)
def voters_prefix(poll: str) -> str:
    """Return what the keys of all voters of a poll begin with."""
    return "v" + _short(poll)


def voter_key(poll: str, voter: str) -> str:
    """Return the key of one voter's votes in a poll."""
    return voters_prefix(poll) + _short(voter)


def read_votes(record: bytes | None) -> list[Vote]:
    """Return a `v` record: the votes of one key, in the order in which they may count."""
    votes: list[Vote] = []
    at = 0
    while record is not None and at < len(record):
        created_at, id_, length = _HEAD.unpack_from(record, at)
        at += _HEAD.size
        choices = record[at : at + length].decode().split("\n")
        votes.append(Vote(created_at, EventId(id_.hex()), tuple(choices)))
        at += length
    return votes


def _write_votes(records: Records, key: str, votes: Sequence[Vote]) -> None:
    packed = bytearray()
    for vote in votes:
        choices = "\n".join(vote.choices).encode()
        packed += _HEAD.pack(vote.created_at, bytes.fromhex(vote.id), len(choices)) + choices
    if packed:
        records.put(key, bytes(packed))
    else:
        records.delete(key)


class Counting:
    """The functions of the table, for a relay with this key."""

    def __init__(self, relay_key: SecretKey, late_seconds: int, *, is_public: bool = True) -> None:
        """Votes are taken until they are `late_seconds` old; `is_public`: everybody may read them."""
        self._is_public = is_public
        self._relay_key = relay_key
        self._late_seconds = late_seconds
        self._latest = _Latest()

    def table(self) -> Table:
        """Return the table."""
        return Table(
            NAME, self.judge, forget=self.forget, command=self.command, followed=True, followed_prefix=TALLY
        )

    def judge(self, event: Event, records: Records, now: int) -> Ruling | Refusal:
        """Open a poll, or count a vote. See `Table.judge`."""
        if event.kind == kinds.POLL:
            self._open(parse_poll(event), event, records, now)
            return KEEP
        return _cast(event, records, self._latest)

    def _open(self, poll: Poll, event: Event, records: Records, now: int) -> None:
        options = [id_ for id_, _ in poll.options]
        tally = Tally(
            options,
            poll.is_multiple,
            poll.ends_at,
            due=None,
            is_public=self._is_public and all(tag[:1] != ("h",) for tag in event.tags),
            counts=[0] * len(options),
            upto="",
        )
        if poll.ends_at is not None and tally.is_public:
            due = poll.ends_at + self._late_seconds + SETTLE_SECONDS
            # Where it is over already, other relays have taken the votes: this one could not answer for them.
            if due > now:
                tally.due = due
                records.put(_due_key(due, poll.id), b"")
        if not _count_some(poll.id, tally, records):
            records.put(UNCOUNTED + poll.id, b"")
        _write_tally(records, poll.id, tally)

    def forget(self, event: Event, records: Records) -> None:
        """Close a poll, or take a vote back: the key's next best counts again. See `Table.forget`."""
        if event.kind == kinds.POLL:
            tally = _read(records, event.id)
            if tally is not None and tally.due is not None:
                records.delete(_due_key(tally.due, event.id))
            # The votes stay, and are counted anew should the poll come again.
            records.delete(TALLY + event.id)
            records.delete(UNCOUNTED + event.id)
            return
        poll, gone = parse_vote(event)
        key = voter_key(poll, event.pubkey)
        votes = read_votes(records.get(key))
        _replace(poll, key, votes, [vote for vote in votes if vote.id != gone.id], records)

    def command(self, payload: bytes, records: Records, now: int) -> Ruling | Refusal:
        """Do `count` or `sign`, a space and a poll's id. Answers `more` where another call is due."""
        verb, _, poll = payload.decode().partition(" ")
        tally = _read(records, poll)
        if tally is None:
            return invalid("there is no such poll")
        if verb == "count":
            done = tally.upto is None or _count_some(poll, tally, records)
            if done:
                records.delete(UNCOUNTED + poll)
            _write_tally(records, poll, tally)
            return Ruling(answer=b"" if done else b"more")
        if tally.due is None or tally.due > now or tally.upto is not None:
            return Refusal(Prefix.BLOCKED, "this tally is not signed now")
        records.delete(_due_key(tally.due, poll))
        tally.due = None
        _write_tally(records, poll, tally)
        if not self._is_public:
            return KEEP  # since then the settings have made it private
        tags = [["d", poll], *polls.tally_tags(poll, tally.options, tally.result())]
        signed = sign(self._relay_key, created_at=now, kind=kinds.TALLY, tags=tags)
        return Ruling(also=(Write(signed, encode(signed), address=signed.address),))


def _due_key(due: int, poll: str) -> str:
    return f"{DUE}{due:012}{poll}"


def due_of(key: str) -> tuple[int, str]:
    """Return the (time, poll) of a `d` record."""
    return int(key[1:13]), key[13:]


def _count_some(poll: str, tally: Tally, records: Records) -> bool:
    """Count some voters who came before their poll; whether that was all."""
    some = records.within(voters_prefix(poll), after=tally.upto or "", limit=COUNTED_AT_ONCE)
    for _, record in some:
        tally.move(tally.best(read_votes(record)), 1)
    tally.upto = some[-1][0] if len(some) == COUNTED_AT_ONCE else None
    return tally.upto is None


def _cast(event: Event, records: Records, latest: _Latest) -> Ruling | Refusal:
    poll, vote = parse_vote(event)
    tally = latest.read(records, poll)
    places = () if tally is None else tally.choices(vote)
    if tally is not None and not places:
        if tally.ends_at is not None and vote.created_at > tally.ends_at:
            return invalid("the poll has ended")
        return invalid("the poll has no such option")
    key = voter_key(poll, event.pubkey)
    record = records.get(key)
    if record is None and tally is not None and tally.upto is None:
        # What nearly every vote is.
        tally.add_first(vote, places)
        _write_votes(records, key, (vote,))
        latest.write(records, poll, tally)
        return KEEP
    votes = read_votes(record)
    if len(votes) >= MAX_VOTES_OF_ONE:
        return Refusal(Prefix.BLOCKED, f"one key votes {MAX_VOTES_OF_ONE} times at most in one poll")
    _replace(poll, key, votes, sorted([*votes, vote], key=order), records, tally)
    return KEEP


def _replace(
    poll: str,
    key: str,
    before: Sequence[Vote],
    after: Sequence[Vote],
    records: Records,
    tally: Tally | None = None,
) -> None:
    """Put other votes in the place of one key's, and move the tally if that changes what counts."""
    _write_votes(records, key, after)
    tally = tally or _read(records, poll)
    # Whoever is beyond the last one counted is counted when it is their turn.
    if tally is None or (tally.upto is not None and key > tally.upto):
        return
    was, becomes = tally.best(before), tally.best(after)
    if was != becomes:
        tally.move(was, -1)
        tally.move(becomes, 1)
        _write_tally(records, poll, tally)
