"""The way in: one answer for every event, after its commit or its refusal."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from relay.engine.admission import Admission
from relay.engine.feature import Feature, Origin
from relay.engine.intake import (
    BATCHES_IN_FLIGHT,
    CHECKED_AT_ONCE,
    MAX_ARRIVALS,
    MOST_TOGETHER,
    TAKEN_AT_ONCE,
    Arrival,
    Intake,
)
from relay.engine.repetition import WINDOW
from relay.features.nip01 import set_address
from relay.nostr.event import Event, EventId, PubKey, compute_id, encode
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Outcome, Seq, StoreError, Write
from relay.store.memory import MemoryStore
from tests.events import ALICE, BOB, NOW, author, event, note, notes

ORIGIN = Origin(address="192.0.2.1", url="ws://relay.test/")
DUPLICATE = (True, "duplicate: already have this event")
FAILED = (False, "error: the event could not be stored; try again later")
MUTE = (False, "mute: no one was listening for this event")


class SlowStore(MemoryStore):
    """A store whose commits and look-ups wait or fail as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.may_commit = asyncio.Event()
        self.may_commit.set()
        self.waiting = 0
        """Commits that wait now."""
        self.batches: list[int] = []
        """Sizes of the batches that were committed, in order."""
        self.write_fails = self.known_fails = False
        self.asked = 0
        """Look-ups for known events."""
        self.announced: list[bytes] = []

    async def write(self, batch: Sequence[Write]) -> list[Outcome | Refusal]:
        self.waiting += 1
        await self.may_commit.wait()
        self.waiting -= 1
        if self.write_fails:
            raise StoreError("the disk is full")
        self.batches.append(len(batch))
        return await super().write(batch)

    async def known(self, ids: Sequence[EventId]) -> set[EventId]:
        self.asked += 1
        if self.known_fails:
            raise StoreError("the database is gone")
        return await super().known(ids)

    async def announce(self, rows: Sequence[bytes]) -> None:
        self.announced += rows


class Doorway:
    """An intake that runs, and the answers it gave."""

    def __init__(
        self, *features: Feature, is_heard: Callable[[Event], bool] | None = lambda event: True
    ) -> None:
        self.store = SlowStore()
        self.intake = Intake(
            self.store,
            Admission([Feature("addresses", effects=(set_address,)), *features]),
            now=lambda: NOW,
            is_heard=is_heard,
        )
        self.answers: list[tuple[str, bool, str]] = []
        """(content, accepted, reason) in the order of the answers."""

    def take(self, *events: Event) -> None:
        for one in events:
            self.intake.take(Arrival(one, encode(one), ORIGIN, self._reply(one)))

    def _reply(self, one: Event) -> Callable[[str, bool, str], None]:
        def reply(event_id: str, accepted: bool, reason: str) -> None:
            assert event_id == one.id
            self.answers.append((one.content, accepted, reason))

        return reply

    async def publish(self, one: Event) -> tuple[bool, str]:
        """Take one event, wait, and return its answer."""
        self.take(one)
        await self.settle()
        content, accepted, reason = self.answers.pop()
        assert (content, self.answers) == (one.content, [])
        return accepted, reason

    async def settle(self) -> None:
        async with asyncio.timeout(10):
            await self.intake.drain()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Doorway"]:
        running = asyncio.create_task(self.intake.run())
        yield self
        running.cancel()
        await asyncio.wait([running])


@pytest.fixture
async def door() -> AsyncIterator[Doorway]:
    async with Doorway().open() as opened:
        yield opened


async def publish_new(door: Doorway) -> None:
    """Publish events that nobody has sent before, so many that none is looked up in the end."""
    door.take(*notes(BOB, 3 * WINDOW))
    await door.settle()
    door.answers.clear()


async def turns() -> None:
    """Let everything happen that can happen now."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_an_event_is_answered_after_its_commit(door: Doorway) -> None:
    door.store.may_commit.clear()
    door.take(note(ALICE, "hello"))
    await turns()
    assert (door.answers, door.store.waiting) == ([], 1)

    door.store.may_commit.set()
    await door.settle()

    assert door.answers == [("hello", True, "")]


async def test_a_stored_event_is_a_duplicate(door: Doorway) -> None:
    assert await door.publish(note(ALICE)) == (True, "")

    assert await door.publish(note(ALICE)) == DUPLICATE
    assert door.store.batches == [1]


async def test_where_few_events_are_known_the_commit_finds_them(door: Doorway) -> None:
    assert await door.publish(note(ALICE, "old")) == (True, "")
    await publish_new(door)
    asked = door.store.asked

    assert await door.publish(note(ALICE, "old")) == DUPLICATE

    assert door.store.asked == asked
    assert door.store.batches[-1] == 1


async def test_known_events_are_looked_up_again_once_they_are_many(door: Doorway) -> None:
    await publish_new(door)
    old = notes(ALICE, 200)
    door.take(*old)
    await door.settle()
    door.answers.clear()
    committed = len(door.store.batches)

    for _ in range(3):
        door.take(*old)
        await door.settle()

    assert {answer[1:] for answer in door.answers} == {DUPLICATE}
    assert len(door.answers) == 600
    # The first time over they are written to find out.
    assert sum(door.store.batches[committed:]) <= 200


async def test_a_duplicate_of_an_event_in_flight_is_answered_with_its_commit(door: Doorway) -> None:
    door.store.may_commit.clear()
    door.take(note(ALICE, "x"))
    await turns()
    door.take(note(ALICE, "x"), note(ALICE, "x"))
    await turns()
    assert door.answers == []

    door.store.may_commit.set()
    await door.settle()

    assert door.answers == [("x", True, ""), ("x", *DUPLICATE), ("x", *DUPLICATE)]
    assert door.store.batches == [1]


async def test_two_copies_in_one_batch_are_stored_once(door: Doorway) -> None:
    door.take(note(ALICE, "x"), note(BOB, "y"), note(ALICE, "x"))
    await door.settle()

    assert sorted(door.answers) == [("x", True, ""), ("x", *DUPLICATE), ("y", True, "")]
    assert door.store.batches == [2]


async def test_a_duplicate_of_an_event_whose_commit_fails_fails_too(door: Doorway) -> None:
    door.store.may_commit.clear()
    door.store.write_fails = True
    door.take(note(ALICE, "x"), note(ALICE, "x"))
    await turns()
    door.take(note(ALICE, "x"))
    await turns()

    door.store.may_commit.set()
    await door.settle()

    assert door.answers == [("x", *FAILED)] * 3


async def test_after_a_failure_the_same_event_may_come_again(door: Doorway) -> None:
    door.store.write_fails = True
    assert await door.publish(note(ALICE)) == FAILED

    door.store.write_fails = False

    assert await door.publish(note(ALICE)) == (True, "")


async def test_a_duplicate_of_a_superseded_event_in_flight_is_superseded_too(door: Doorway) -> None:
    await door.publish(event(ALICE, 0, "newer", created_at=NOW + 1))
    older = event(ALICE, 0, "older")
    door.take(older, older)
    await door.settle()

    assert door.answers == [("older", False, "duplicate: a newer version of this event is stored")] * 2


async def test_a_wrong_id_is_refused(door: Doorway) -> None:
    assert await door.publish(note(ALICE)._replace(id=EventId("0" * 64))) == (
        False,
        "invalid: id is not the hash of the event",
    )


async def test_a_wrong_id_with_a_right_signature_of_it_is_refused(door: Doorway) -> None:
    wrong = EventId("0" * 64)

    accepted, reason = await door.publish(note(ALICE)._replace(id=wrong, sig=ALICE.sign(wrong)))

    assert (accepted, reason) == (False, "invalid: id is not the hash of the event")


async def test_a_stored_id_over_other_content_is_no_duplicate(door: Doorway) -> None:
    stored = note(ALICE, "stored")
    await door.publish(stored)

    assert await door.publish(stored._replace(content="forged")) == (
        False,
        "invalid: id is not the hash of the event",
    )


@pytest.mark.parametrize(
    "sig", ["0" * 128, "f" * 128, note(ALICE, "other").sig, BOB.sign(note(ALICE).id)], ids=str
)
async def test_a_wrong_signature_is_refused(door: Doorway, sig: str) -> None:
    assert await door.publish(note(ALICE)._replace(sig=sig)) == (False, "invalid: signature does not verify")
    assert await door.store.head() == 0


async def test_a_key_that_is_not_on_the_curve_is_refused(door: Doorway) -> None:
    nobody = PubKey("f" * 64)
    id_ = compute_id(nobody, NOW, 1, (), "")

    assert await door.publish(Event(id_, nobody, NOW, 1, (), "", "0" * 128)) == (
        False,
        "invalid: signature does not verify",
    )


async def test_the_same_event_with_another_signature_is_a_duplicate_and_the_first_stays(
    door: Doorway,
) -> None:
    first = note(ALICE, "x")
    await door.publish(first)

    assert await door.publish(first._replace(sig="0" * 128)) == DUPLICATE

    (page,) = [page async for page in door.store.log(after=Seq(0), upto=Seq(9), now=NOW)]
    assert page[0].event() == first


async def test_a_bad_copy_does_not_keep_a_good_one_in_its_batch_out(door: Doorway) -> None:
    good = note(ALICE, "x")
    door.take(good._replace(sig="0" * 128), good)
    await door.settle()

    assert door.answers == [("x", False, "invalid: signature does not verify"), ("x", True, "")]


async def test_every_event_of_a_mixed_batch_gets_its_own_answer(door: Doorway) -> None:
    await door.publish(note(ALICE, "stored"))
    door.take(
        note(ALICE, "good"),
        note(ALICE, "bad id")._replace(id=EventId("0" * 64)),
        note(ALICE, "bad signature")._replace(sig="0" * 128),
        note(ALICE, "stored"),
        event(ALICE, 20_001, "ephemeral"),
    )
    await door.settle()

    assert {content: (accepted, reason[:9]) for content, accepted, reason in door.answers} == {
        "good": (True, ""),
        "bad id": (False, "invalid: "),
        "bad signature": (False, "invalid: "),
        "stored": (True, "duplicate"),
        "ephemeral": (True, ""),
    }


async def test_rules_before_the_signature_run_before_it_and_the_others_after() -> None:
    def refuse_bob(one: Event, origin: Origin, now: int) -> Refusal | None:
        return Refusal(Prefix.BLOCKED, "no bobs") if one.pubkey == BOB.public else None

    forged = note(BOB)._replace(sig="0" * 128)

    async with Doorway(Feature("cheap", before_signature=(refuse_bob,))).open() as door:
        assert await door.publish(forged) == (False, "blocked: no bobs")
    async with Doorway(Feature("trusting", after_signature=(refuse_bob,))).open() as door:
        assert await door.publish(forged) == (False, "invalid: signature does not verify")
        assert await door.publish(note(BOB)) == (False, "blocked: no bobs")
        assert await door.publish(note(ALICE)) == (True, "")


async def test_a_failing_look_up_of_duplicates_stops_nothing(door: Doorway) -> None:
    await door.publish(note(ALICE, "stored"))
    door.store.known_fails = True

    assert await door.publish(note(ALICE, "new")) == (True, "")
    assert await door.publish(note(ALICE, "stored")) == DUPLICATE


async def test_ephemeral_events_are_announced_and_not_stored(door: Doorway) -> None:
    ephemeral = event(ALICE, 20_001)

    assert await door.publish(ephemeral) == (True, "")

    assert door.store.announced == [encode(ephemeral)]
    assert (await door.store.head(), door.store.batches) == (0, [])


async def test_an_ephemeral_event_with_a_wrong_signature_is_not_announced(door: Doorway) -> None:
    assert (await door.publish(event(ALICE, 20_001)._replace(sig="0" * 128)))[0] is False

    assert door.store.announced == []


async def test_mute_is_said_only_where_it_can_be_known() -> None:
    async with Doorway(is_heard=lambda one: one.pubkey == BOB.public).open() as alone:
        assert await alone.publish(event(ALICE, 20_001)) == MUTE
        assert await alone.publish(event(BOB, 20_001)) == (True, "")
        assert alone.store.announced == [encode(event(BOB, 20_001))]
    async with Doorway(is_heard=None).open() as one_of_many:
        assert await one_of_many.publish(event(ALICE, 20_001)) == (True, "")
        assert one_of_many.store.announced == [encode(event(ALICE, 20_001))]


async def test_what_arrives_together_is_written_together(door: Doorway) -> None:
    door.take(*notes(ALICE, 65))
    await door.settle()

    assert door.store.batches == [64, 1]
    assert [accepted for _, accepted, _ in door.answers] == [True] * 65


async def test_the_more_wait_the_more_are_written_together(door: Doorway) -> None:
    door.take(*notes(ALICE, 1_500))
    await door.settle()

    # Half of what waits, 512 at most: the other half is checked while it is written.
    assert door.store.batches == [512, 494, 247, 123, 64, 60]


async def test_events_of_one_author_are_written_in_the_order_they_came(door: Doorway) -> None:
    door.take(*(event(ALICE, 0, str(n), created_at=NOW + n) for n in range(150)))
    await door.settle()

    assert [accepted for _, accepted, _ in door.answers] == [True] * 150


async def test_only_so_many_batches_wait_for_their_commit(door: Doorway) -> None:
    door.store.may_commit.clear()
    more = 3
    for n in range(BATCHES_IN_FLIGHT + more):
        door.take(note(ALICE, str(n)))
        await turns()
    assert door.store.waiting == BATCHES_IN_FLIGHT

    door.store.may_commit.set()
    await door.settle()

    assert sum(door.store.batches) == BATCHES_IN_FLIGHT + more


async def test_a_failed_commit_makes_room_for_the_next(door: Doorway) -> None:
    door.store.write_fails = True
    for n in range(2 * BATCHES_IN_FLIGHT):
        assert await door.publish(note(ALICE, str(n))) == FAILED


async def test_the_door_is_full_at_its_bound_and_open_again_at_half() -> None:
    door = Doorway()
    forged = note(ALICE)._replace(id=EventId("0" * 64))
    door.take(*[forged] * (MAX_ARRIVALS - 1))
    assert not door.intake.is_full
    door.take(forged)
    assert door.intake.is_full

    async with door.open():
        async with asyncio.timeout(30):
            await door.intake.room()
        assert MAX_ARRIVALS // 2 <= len(door.answers) <= MAX_ARRIVALS // 2 + MOST_TOGETHER
        assert not door.intake.is_full
        await door.settle()

    assert len(door.answers) == MAX_ARRIVALS


async def test_who_waits_for_room_goes_on_in_turn() -> None:
    door = Doorway()
    forged = note(ALICE)._replace(id=EventId("0" * 64))
    door.take(*[forged] * MAX_ARRIVALS)
    went_on: list[int] = []

    async def bring(number: int) -> None:
        await door.intake.room()
        went_on.append(number)
        door.take(*[forged] * TAKEN_AT_ONCE)

    async with asyncio.timeout(30), asyncio.TaskGroup() as clients:
        for number in range(100):
            clients.create_task(bring(number))
        leaving = clients.create_task(bring(100))
        await turns()
        leaving.cancel()
        async with door.open():
            while len(went_on) < 100:
                # Room is given to as many as will not overfill it.
                assert len(door.intake._arrivals) <= MAX_ARRIVALS
                await asyncio.sleep(0)

    assert went_on == list(range(100))


async def test_an_empty_door_leaves_nobody_waiting() -> None:
    door = Doorway()
    forged = note(ALICE)._replace(id=EventId("0" * 64))
    door.take(*[forged] * MAX_ARRIVALS)

    async with asyncio.timeout(30), asyncio.TaskGroup() as clients:
        # More of them than places, and none brings anything.
        for _ in range(MAX_ARRIVALS):
            clients.create_task(door.intake.room())
        await turns()
        async with door.open():
            await door.intake.drain()


async def test_drain_waits_for_what_is_in_flight_and_is_quick_when_there_is_nothing(door: Doorway) -> None:
    await door.settle()
    door.store.may_commit.clear()
    door.take(*notes(author("drain"), 3 * CHECKED_AT_ONCE))
    draining = asyncio.create_task(door.intake.drain())
    await turns()
    assert not draining.done()

    door.store.may_commit.set()
    async with asyncio.timeout(10):
        await draining

    assert len(door.answers) == 3 * CHECKED_AT_ONCE


async def test_a_mistake_of_ours_ends_the_intake_instead_of_leaving_clients_without_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    door = Doorway()

    async def broken(batch: Sequence[Write]) -> list[Outcome | Refusal]:
        raise ZeroDivisionError

    monkeypatch.setattr(door.store, "write", broken)
    running = asyncio.create_task(door.intake.run())
    door.take(note(ALICE))

    await asyncio.wait([running], timeout=10)

    with pytest.raises(ExceptionGroup) as raised:
        running.result()
    assert raised.group_contains(ZeroDivisionError)
