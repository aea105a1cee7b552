"""One exchange with a partner: an honest one that reconciles, one that does not, and liars."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from websockets.asyncio.server import ServerConnection

from relay.client import Misbehaved, Rejected, Unreachable
from relay.mirror import exchange as exchanging
from relay.mirror.exchange import Acquaintance, Direction
from relay.nostr import negentropy
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.messages import (
    ClientMessage,
    Closed,
    Delivered,
    Eose,
    NegMsg,
    NegOpen,
    Ok,
    Publish,
    Req,
)
from tests.events import ALICE, BOB, NOW, event, note, notes
from tests.mirror.houses import exchange, held, house_of, ids, keep
from tests.small_relay import SmallRelay, say

BY_ALICE = Filter(authors=frozenset({ALICE.public}))
BOTH_WAYS = [True, False]


def published(relay: SmallRelay) -> set[str]:
    return {message.event.id for message in relay.heard if isinstance(message, Publish)}


@pytest.mark.parametrize("reconciles", BOTH_WAYS, ids=["negentropy", "paging"])
@pytest.mark.parametrize("direction", Direction)
async def test_events_move_in_the_direction_that_is_asked_for(direction: Direction, reconciles: bool) -> None:
    events = notes(ALICE, 700, step=1, created_at=NOW - 10_000)
    house = house_of()
    await keep(house, events[:500])

    async with SmallRelay(events[200:], reconciles=reconciles, cap=100) as relay:
        report = await exchange(house, relay.url, direction)

        assert await held(house) == ids(events if direction.is_down else events[:500])
        assert ids(relay.events) == ids(events if direction.is_up else events[200:])
        assert (report.received, report.sent) == (200 * direction.is_down, 200 * direction.is_up)
        assert (report.by_paging is None) is reconciles
        assert report.is_fine
        # Equal now: nothing moves any more.
        again = await exchange(house, relay.url, direction)
        assert (again.received, again.sent, again.is_fine) == (0, 0, True)


@pytest.mark.parametrize("reconciles", BOTH_WAYS, ids=["negentropy", "paging"])
async def test_only_what_the_filter_says_moves(reconciles: bool) -> None:
    house = house_of()
    ours = [note(ALICE, "ours"), note(BOB, "ours too"), event(ALICE, 7)]
    theirs = [note(ALICE, "theirs"), note(BOB, "theirs too"), event(ALICE, 7, "+")]
    await keep(house, ours)
    wanted = replace(BY_ALICE, kinds=frozenset({1}))

    async with SmallRelay(theirs, reconciles=reconciles) as relay:
        report = await exchange(house, relay.url, wanted=wanted)

        assert await held(house) == ids([*ours, theirs[0]])
        assert published(relay) == {ours[0].id}
        assert report.is_fine


@pytest.mark.parametrize("reconciles", BOTH_WAYS, ids=["negentropy", "paging"])
async def test_a_dry_run_moves_nothing_and_counts(reconciles: bool) -> None:
    house = house_of()
    await keep(house, [*notes(ALICE, 3), note(ALICE, "protected", tags=[["-"]])])

    async with SmallRelay(notes(BOB, 5), reconciles=reconciles) as relay:
        report = await exchange(house, relay.url, dry_run=True)

        assert (report.to_receive, report.to_send) == (5, 3)
        assert report.withheld == {"protected by their authors (NIP-70)": 1}
        assert published(relay) == set()
        assert len(await held(house)) == 4


@pytest.mark.parametrize("reconciles", BOTH_WAYS, ids=["negentropy", "paging"])
async def test_what_is_not_for_everybody_never_leaves(reconciles: bool) -> None:
    house = house_of()
    public = note(ALICE, "hello")
    to_bob = [["p", BOB.public]]
    await keep(
        house,
        [
            public,
            event(ALICE, 4, tags=to_bob),
            event(ALICE, 1059, tags=to_bob),
            note(ALICE, "protected", tags=[["-"]]),
            note(ALICE, "in a group", tags=[["h", "elsewhere"]]),
        ],
    )

    async with SmallRelay(reconciles=reconciles) as relay:
        report = await exchange(house, relay.url, Direction.UP)

        assert published(relay) == {public.id}
        # Nor is there a word of the letters in what was compared.
        said = "".join(m.frame.hex() for m in relay.heard if isinstance(m, NegOpen | NegMsg))
        assert event(ALICE, 1059, tags=to_bob).id not in said
        assert report.withheld.total == 2


async def test_what_either_side_refuses_is_told_and_not_tried_again() -> None:
    class Choosy(SmallRelay):
        async def answer(self, connection: ServerConnection, message: ClientMessage, refusal: str) -> None:
            if isinstance(message, Publish):
                await say(connection, Ok(message.event.id, False, "blocked: not here"))
            else:
                await super().answer(connection, message, refusal)

    house, known = house_of(), Acquaintance()
    await keep(house, [note(ALICE), event(BOB, 5, tags=[["e", note(BOB).id]])])
    wanted = Filter(kinds=frozenset({1}))

    async with Choosy([note(BOB), note(BOB, tags=[["-"]])]) as relay:
        report = await exchange(house, relay.url, wanted=wanted, acquaintance=known)

        assert report.refused_there == {"blocked: not here": 1}
        assert report.refused_here == {
            "deleted here": 1,
            "restricted: a protected event is accepted only from its author": 1,
        }
        assert (report.left_here, report.left_there) == (2, 1)
        assert report.is_fine
        relay.heard.clear()
        await exchange(house, relay.url, wanted=wanted, acquaintance=known)
        assert not any(isinstance(message, Publish | Req) for message in relay.heard)


async def test_what_is_put_off_is_sent_again() -> None:
    class Busy(SmallRelay):
        left = 3

        async def answer(self, connection: ServerConnection, message: ClientMessage, refusal: str) -> None:
            if isinstance(message, Publish) and self.left:
                self.left -= 1
                await say(connection, Ok(message.event.id, False, "rate-limited: slow down"))
            else:
                await super().answer(connection, message, refusal)

    house = house_of()
    await keep(house, [note(ALICE)])

    async with Busy() as relay:
        report = await exchange(house, relay.url, Direction.UP)
        assert (report.sent, report.given_up, report.is_fine) == (1, 0, True)
        await keep(house, [note(BOB)])
        relay.left = 1_000
        report = await exchange(house, relay.url, Direction.UP)
        assert (report.sent, report.given_up, report.left_there, report.is_fine) == (0, 1, 1, False)


async def test_a_question_that_is_put_off_is_asked_again_and_does_not_end_the_reconciling() -> None:
    class Busy(SmallRelay):
        left = 3

        async def answer(self, connection: ServerConnection, message: ClientMessage, refusal: str) -> None:
            if isinstance(message, Req) and self.left:
                self.left -= 1
                await say(connection, Closed(message.subscription, "rate-limited: slow down"))
            else:
                await super().answer(connection, message, refusal)

    house = house_of()
    async with Busy([theirs := note(BOB)]) as relay:
        report = await exchange(house, relay.url)
        assert (report.received, report.by_paging, report.is_fine) == (1, None, True)
        assert await held(house) == {theirs.id}
        relay.left = 1_000
        relay.events.append(note(ALICE))
        with pytest.raises(Rejected, match="slow down"):
            await exchange(house, relay.url)


async def test_windows_are_made_smaller_for_a_partner_that_takes_less() -> None:
    events = notes(ALICE, 400, step=10, created_at=NOW - 10_000)
    house = house_of()
    await keep(house, events[:300])

    async with SmallRelay(events[100:]) as relay:
        relay.most = 50
        report = await exchange(house, relay.url)

        assert await held(house) == ids(events) == ids(relay.events)
        assert (report.received, report.sent, report.by_paging) == (100, 100, None)


async def test_sets_are_compared_in_windows() -> None:
    events = notes(ALICE, 1_000, step=1, created_at=NOW - 10_000)
    house = house_of()
    await keep(house, events[:900])
    done: list[int] = []

    async with SmallRelay(events[50:]) as relay:
        report = await exchange(house, relay.url, window_events=200, on_done=done.append)

        assert await held(house) == ids(events) == ids(relay.events)
        assert (report.received, report.sent) == (100, 50)
        assert done == sorted(done, reverse=True) and len(done) >= 4


async def test_more_claims_than_are_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanging, "_CLAIMS_AT_ONCE", 50)
    events = notes(ALICE, 1_500, step=1, created_at=NOW - 10_000)
    house = house_of()

    async with SmallRelay(events) as relay:
        dry = await exchange(house, relay.url, dry_run=True)
        assert dry.to_receive == 1_500
        report = await exchange(house, relay.url, Direction.DOWN)
        assert await held(house) == ids(events)
        assert report.is_fine


# Liars


class Liar(SmallRelay):
    """Answers as `lie` says; where that says False, as it should."""

    def __init__(self, lie: Callable[[ServerConnection, ClientMessage], object], *events: Event) -> None:
        super().__init__(events)
        self._lie = lie

    async def answer(self, connection: ServerConnection, message: ClientMessage, refusal: str) -> None:
        lied = self._lie(connection, message)
        if asyncio.iscoroutine(lied):
            lied = await lied
        if lied is False:
            await super().answer(connection, message, refusal)


def claiming(*claimed: bytes) -> Callable[[ServerConnection, ClientMessage], object]:
    """Claim to have these ids, and nothing else."""
    vector = negentropy.Vector.of((NOW, id_) for id_ in claimed)

    def lie(connection: ServerConnection, message: ClientMessage) -> object:
        if isinstance(message, NegOpen | NegMsg):
            server = negentropy.Server(vector)
            return say(connection, NegMsg(message.name, negentropy.exhaust(server.answer(message.frame))))
        return False

    return lie


async def test_ids_that_are_claimed_and_not_given() -> None:
    house = house_of()

    async with Liar(claiming(b"\x01" * 32, b"\x02" * 32)) as relay:
        report = await exchange(house, relay.url, Direction.DOWN)

    assert (report.not_given, report.left_here, report.is_fine) == (2, 2, False)


async def test_events_that_were_not_asked_for_are_not_stored() -> None:
    house = house_of()
    asked, other = note(ALICE), note(BOB, "advertisement")

    async def lie(connection: ServerConnection, message: ClientMessage) -> bool:
        if isinstance(message, Req):
            await say(connection, Delivered(message.subscription, other))
        return False

    async with Liar(lie, asked) as relay:
        report = await exchange(house, relay.url, Direction.DOWN)

    assert await held(house) == {asked.id}
    assert report.broken == {"an event that was not asked for": 1}
    assert not report.is_fine


@pytest.mark.parametrize(
    "forge",
    [
        lambda real: real._replace(sig="0" * 128),
        lambda real: real._replace(sig=note(BOB).sig),
        lambda real: real._replace(content="something else"),
        lambda real: real._replace(pubkey=BOB.public),
    ],
    ids=["no signature", "another's signature", "another content", "another author"],
)
@pytest.mark.parametrize("reconciles", BOTH_WAYS, ids=["negentropy", "paging"])
async def test_forged_events_are_not_stored(forge: Callable[[Event], Event], reconciles: bool) -> None:
    house = house_of()
    good, real = note(BOB, "good"), note(ALICE)

    async with SmallRelay([forge(real), good], reconciles=reconciles) as relay:
        report = await exchange(house, relay.url, Direction.DOWN)

    assert await held(house) == {good.id}
    assert report.broken.total >= 1
    assert not report.is_fine


async def test_events_that_the_filter_excludes_are_not_stored() -> None:
    house = house_of()
    other = note(BOB)

    async with Liar(claiming(bytes.fromhex(other.id)), other) as relay:
        report = await exchange(house, relay.url, Direction.DOWN, BY_ALICE)

    assert await held(house) == set()
    assert (report.not_wanted, report.is_fine) == (1, False)


async def test_a_partner_that_says_it_has_everything() -> None:
    house = house_of()
    await keep(house, notes(ALICE, 30, step=1))

    def lie(connection: ServerConnection, message: ClientMessage) -> object:
        if isinstance(message, NegOpen):
            return say(connection, NegMsg(message.name, bytes([negentropy.VERSION])))
        return False

    async with Liar(lie) as relay:
        report = await exchange(house, relay.url, Direction.UP)

    assert (report.sent, report.not_had, report.is_fine) == (0, 20, False)


async def test_a_partner_that_takes_everything_and_keeps_nothing() -> None:
    house = house_of()
    await keep(house, notes(ALICE, 3))

    def lie(connection: ServerConnection, message: ClientMessage) -> object:
        if isinstance(message, Publish):
            return say(connection, Ok(message.event.id, True, ""))
        return False

    async with Liar(lie) as relay:
        report = await exchange(house, relay.url, Direction.UP)

    assert (report.sent, report.not_had, report.left_there, report.is_fine) == (3, 3, 3, False)


async def test_claims_without_end_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanging, "_CLAIMS_AT_ONCE", 20)
    monkeypatch.setattr(exchanging, "_SPLITS", 3)
    house = house_of()
    serial = 0

    def lie(connection: ServerConnection, message: ClientMessage) -> object:
        nonlocal serial
        if not isinstance(message, NegOpen | NegMsg):
            return False
        serial += 1
        # A new id each time, and a range below it that "differs".
        frame = bytes([negentropy.VERSION]) + b"\x02\x00\x01" + bytes(16)
        frame += b"\x00\x00\x02\x01" + serial.to_bytes(32, "big")
        return say(connection, NegMsg(message.name, frame))

    async with Liar(lie) as relay:
        with pytest.raises(Misbehaved, match="it claims 20 events and gives none"):
            await exchange(house, relay.url)


@pytest.mark.parametrize("silent", [Req, NegMsg, Publish])
async def test_a_partner_that_says_nothing_more_is_unreachable(silent: type[ClientMessage]) -> None:
    house = house_of()
    # So many that they take more than one round.
    events = notes(ALICE, 700, step=1, created_at=NOW - 1_000)
    await keep(house, [note(BOB), *events])

    async with Liar(lambda _, message: isinstance(message, silent), *events[:-1]) as relay:
        relay.events.append(event(ALICE, 7))
        with pytest.raises(Unreachable):
            await exchange(house, relay.url, answer_seconds=0.2)


async def test_an_answer_that_drips_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanging, "ANSWER_SECONDS", 0.5)
    house = house_of()

    async def drip(connection: ServerConnection, message: ClientMessage) -> bool:
        if isinstance(message, Req):
            while True:
                await say(connection, Delivered(message.subscription, note(ALICE)))
                await asyncio.sleep(0.05)
        return False

    async with Liar(drip, note(ALICE), note(BOB)) as relay:
        with pytest.raises(Unreachable, match="no whole answer"):
            await exchange(house, relay.url)


async def test_a_partner_that_answers_nobody_is_rejected() -> None:
    async with SmallRelay(challenge="who?") as relay:
        relay.refusal = "restricted: members only"

        with pytest.raises(Rejected, match="members only"):
            await exchange(house_of(), relay.url)


async def test_seconds_without_end_are_not_read_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanging, "_SECOND_EVENTS", 60)
    house = house_of()
    serial = 0

    async def endless(connection: ServerConnection, message: ClientMessage) -> bool:
        nonlocal serial
        if not isinstance(message, Req):
            return False
        for _ in range(50):
            serial += 1
            await say(connection, Delivered(message.subscription, note(ALICE, f"{serial}")))
        await say(connection, Eose(message.subscription))
        return True

    async with Liar(endless) as relay:
        relay.reconciles = False
        with pytest.raises(Misbehaved, match="more than 60 events of one second"):
            await exchange(house, relay.url)
