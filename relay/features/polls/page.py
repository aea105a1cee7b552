"""`GET /api/poll/<id>`: how a poll stands, as JSON; of some voters only, where a set or work is asked for."""

import asyncio
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import NamedTuple

import orjson

from relay.engine.desk import Desk
from relay.engine.feature import HttpRequest, HttpResponse
from relay.features.polls import counting
from relay.features.polls.counting import NAME, TALLY, Tally
from relay.nostr import kinds, nip19, polls
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.nip19 import InvalidEntity, Naddr, Nevent, Note
from relay.nostr.tags import HEX_64, Address, parse_address, values
from relay.nostr.work import ID_BITS, difficulty
from relay.store.api import MAX_SEQ, Seq

PATH = "/api/poll/"
MAX_KEYS_OF_A_SET = 10_000
"""Keys of a list that are looked up for one answer."""
MAX_VOTERS_READ = 100_000
"""Voters whose votes are read for one answer: about half a second's work, in slices."""
READINGS = 2
"""Answers that read votes at a time; others wait for their turn."""
_SLICE = 500

_CORS = {"Access-Control-Allow-Origin": "*", "Cache-Control": "no-cache"}


class _Mistake(Exception):
    """The request cannot be answered; the text is for who asked."""

    def __init__(self, text: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(text)
        self.status = status


class Curation(NamedTuple):
    """Whose votes are asked for."""

    keys: frozenset[str] | None
    """None: everybody's."""
    least_bits: int
    """Proof of work (NIP-13) of the vote, in leading zero bits of its id."""


class Page:
    """The route's answers."""

    def __init__(self, desk: Desk, relay_key: str, now: Callable[[], float]) -> None:
        """`now` gives unix seconds."""
        self._clock = now
        self._desk = desk
        self._relay_key = relay_key
        self._readings = asyncio.Semaphore(READINGS)

    def _now(self) -> int:
        return int(self._clock())

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer one request. Raises StoreError."""
        try:
            body = await self._found(request.path.removeprefix(PATH), request)
        except _Mistake as mistake:
            return _json({"error": str(mistake)}, mistake.status)
        return _json(body)

    async def _found(self, name: str, request: HttpRequest) -> dict[str, object]:
        now = self._now()
        id_ = _poll_id(name)
        record = self._desk.record(NAME, TALLY + id_)
        named = Filter(ids=frozenset([id_]), kinds=frozenset([kinds.POLL]))
        asked = await self._one(named, request, now)
        if record is None or asked is None or not (tally := counting.read_tally(record)).is_public:
            raise _Mistake("there is no such poll here", HTTPStatus.NOT_FOUND)
        curation = await self._curation(request)
        result, voters = tally.counts, tally.voters
        if curation is not None:
            result, voters = await self._curated(id_, tally, curation)
        ended = Filter(
            kinds=frozenset([kinds.TALLY]),
            authors=frozenset([self._relay_key]),
            tags={"d": frozenset([id_])},
        )
        signed = await self._one(ended, request, now)
        labels = [label for _, label in polls.parse_poll(asked).options]
        return {
            "id": id_,
            "pubkey": asked.pubkey,
            "created_at": asked.created_at,
            "question": asked.content,
            "polltype": "multiplechoice" if tally.is_multiple else "singlechoice",
            "options": [
                {"id": option, "label": label, "votes": votes}
                for option, label, votes in zip(tally.options, labels, result, strict=True)
            ],
            "voters": voters,
            "ends_at": tally.ends_at,
            "closed": tally.ends_at is not None and now > tally.ends_at,
            "complete": tally.upto is None,
            "curated": curation is not None,
            "fingerprint": None if curation is not None else tally.result().fingerprint,
            "tally": None if signed is None else signed._asdict(),
        }

    async def _one(self, wanted: Filter, request: HttpRequest, now: int) -> Event | None:
        """Return the newest event that matches, if who asks may see it."""
        scan = self._desk.store.scan(wanted.limited(1), upto=Seq(MAX_SEQ), now=now, veil=request.veil)
        async for page in scan:
            for row in await request.sift(page):
                return row.event()
        return None

    async def _curation(self, request: HttpRequest) -> Curation | None:
        bits, named = request.query.get("min_pow", "0"), request.query.get("set")
        if not bits.isascii() or not bits.isdigit() or len(bits) > 3 or int(bits) > ID_BITS:
            raise _Mistake("min_pow is a number of bits")
        if named is None:
            return Curation(None, int(bits)) if int(bits) else None
        address = _address(named)
        wanted = Filter(
            kinds=frozenset([address.kind]),
            authors=frozenset([address.pubkey]),
            tags={"d": frozenset([address.d])},
        )
        found = await self._one(wanted, request, self._now())
        if found is None:
            raise _Mistake("this relay does not have that set", HTTPStatus.NOT_FOUND)
        keys = frozenset(filter(HEX_64, values(found.tags, "p")))
        if len(keys) > MAX_KEYS_OF_A_SET:
            raise _Mistake(f"a set may hold {MAX_KEYS_OF_A_SET} keys")
        return Curation(keys, int(bits))

    async def _curated(self, poll: str, tally: Tally, curation: Curation) -> tuple[list[int], int]:
        """Count the votes of some; bounded, and in slices between which others get their turn."""
        if curation.keys is None and tally.voters > MAX_VOTERS_READ:
            raise _Mistake(f"more than {MAX_VOTERS_READ} people voted: name a set")
        counts, voters = [0] * len(tally.options), 0
        async with self._readings:
            for records in (
                self._everybody(poll) if curation.keys is None else self._some(poll, curation.keys)
            ):
                for record in records:
                    vote = tally.best(counting.read_votes(record))
                    if vote is not None and difficulty(vote.id) >= curation.least_bits:
                        voters += 1
                        for place in tally.choices(vote):
                            counts[place] += 1
                await asyncio.sleep(0)
        return counts, voters

    def _everybody(self, poll: str) -> Iterator[list[bytes]]:
        after = ""
        # Those who vote meanwhile do not make it endless.
        for _ in range(MAX_VOTERS_READ // _SLICE + 1):
            found = self._desk.records(NAME, counting.voters_prefix(poll), after=after, limit=_SLICE)
            yield [record for _, record in found]
            if len(found) < _SLICE:
                return
            after = found[-1][0]

    def _some(self, poll: str, keys: frozenset[str]) -> Iterator[list[bytes]]:
        ordered = sorted(keys)
        for start in range(0, len(ordered), _SLICE):
            found = [
                self._desk.record(NAME, counting.voter_key(poll, key))
                for key in ordered[start : start + _SLICE]
            ]
            yield [record for record in found if record is not None]


def _poll_id(name: str) -> str:
    if HEX_64(name):
        return name
    try:
        entity = nip19.decode(name)
    except InvalidEntity:
        entity = None
    if isinstance(entity, Note | Nevent):
        return entity.id
    raise _Mistake("name a poll by its id: 64 hex digits, note1… or nevent1…", HTTPStatus.NOT_FOUND)


def _address(named: str) -> Address:
    address = parse_address(named)
    if address is None:
        try:
            entity = nip19.decode(named)
        except InvalidEntity:
            entity = None
        address = entity.address if isinstance(entity, Naddr) else None
    if address is None or address.kind not in (kinds.FOLLOWS, kinds.FOLLOW_SET):
        raise _Mistake("set is a list of people: naddr1… or kind:pubkey:d, of kind 3 or 30000")
    return address


def _json(body: dict[str, object], status: HTTPStatus = HTTPStatus.OK) -> HttpResponse:
    return HttpResponse(orjson.dumps(body), "application/json", int(status), _CORS)
