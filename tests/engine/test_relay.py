"""What the relay does with gates and veils of any feature, and with a store that fails."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from relay.engine.feature import Feature, Origin, VeilRule
from relay.nostr import filter as filters
from relay.nostr.event import Event, encode
from relay.nostr.messages import Auth
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Seq, Stored, StoreError, Veil
from relay.store.memory import MemoryStore
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import Client, House

FAILED = "error: the relay could not read its database; try again later"


def only_notes(wanted: filters.Filter, origin: Origin) -> filters.Filter | Refusal:
    if wanted.kinds is None:
        return replace(wanted, kinds=frozenset({1}))
    return wanted if wanted.kinds == {1} else Refusal(Prefix.BLOCKED, "notes only")


def no_more_than_one(wanted: filters.Filter, origin: Origin) -> filters.Filter | Refusal:
    return replace(wanted, limit=1)


async def test_a_gate_narrows_what_is_stored_live_and_counted(clock: Clock) -> None:
    async with House(clock, extra=[Feature("gate", gates=(only_notes,))]) as house:
        writer, reader = await house.connect(), await house.connect()
        await writer.publish(note(ALICE, "note"))
        await writer.publish(event(ALICE, 7, "reaction"))

        assert await reader.subscribe("s", {}) == ["note"]
        assert await reader.count({}) == 1

        await writer.publish(event(BOB, 7, "reaction"))
        await writer.publish(note(BOB, "live note"))
        assert await reader.live() == [("s", "live note")]


async def test_a_gate_refuses_a_question_and_no_subscription_stays(clock: Clock) -> None:
    async with House(clock, extra=[Feature("gate", gates=(only_notes,))]) as house:
        client = await house.connect()

        assert await client.refusal("REQ", {}, {"kinds": [7]}) == "blocked: notes only"
        assert await client.refusal("COUNT", {"kinds": [7]}) == "blocked: notes only"
        assert len(house.relay.index) == 0


async def test_gates_apply_in_order_and_each_sees_what_the_one_before_left(clock: Clock) -> None:
    gates = Feature("gates", gates=(only_notes, no_more_than_one, only_notes))
    async with House(clock, extra=[gates]) as house:
        client = await house.connect()
        for n in range(3):
            await client.publish(note(ALICE, str(n), created_at=NOW + n))

        assert await client.find({"limit": 3}) == ["2"]


async def test_limits_are_capped_also_behind_a_gate(clock: Clock) -> None:
    gate = Feature("gate", gates=(lambda wanted, origin: replace(wanted, limit=10**6),))
    async with House(clock, extra=[gate]) as house:
        (wanted,) = _asked(house, filters.Filter(limit=1))

        assert wanted.limit == 500


@pytest.mark.parametrize(("asked", "given"), [(None, 500), (0, 0), (1, 1), (500, 500), (501, 500)])
async def test_a_filters_limit_is_capped(house: House, asked: int | None, given: int) -> None:
    (wanted,) = _asked(house, filters.Filter(limit=asked))

    assert wanted.limit == given


async def test_an_event_must_pass_every_veil_of_its_kind(clock: Clock) -> None:
    def short(shown: Event, origin: Origin) -> bool:
        return len(shown.content) < 6

    def no_x(shown: Event, origin: Origin) -> bool:
        return "x" not in shown.content

    extra = [
        Feature("short", veils=(VeilRule(frozenset({1, 7}), short),)),
        Feature("no x", veils=(VeilRule(frozenset({1}), no_x),)),
    ]
    async with House(clock, extra=extra) as house:
        client = await house.connect()
        await client.authenticate(ALICE, NOW)
        await client.subscribe("s", {})
        for shown in (note(BOB, "ok"), note(BOB, "x"), note(BOB, "too long"), event(BOB, 7, "x")):
            await client.publish(shown)

        assert await client.live() == [("s", "ok"), ("s", "x")]
        assert sorted(await client.find({})) == ["ok", "x"]
        assert await client.count({"kinds": [1]}) == 1


async def test_a_filter_for_veiled_and_other_kinds_is_not_refused(house: House) -> None:
    stranger = Origin(address="", url="")

    assert isinstance(house.relay.ask([filters.Filter(kinds=frozenset({4}))], stranger), Refusal)
    assert isinstance(house.relay.ask([filters.Filter(kinds=frozenset({4, 1}))], stranger), list)
    assert isinstance(house.relay.ask([filters.Filter(kinds=frozenset())], stranger), list)
    assert isinstance(house.relay.ask([filters.Filter()], stranger), list)


async def test_a_handler_is_found_by_the_type_of_message(house: House) -> None:
    assert list(house.relay.handlers) == [Auth]


async def test_among_several_processes_nobody_is_muted(clock: Clock) -> None:
    async with House(clock, alone=False) as house:
        client = await house.connect()

        assert await client.publish(event(ALICE, 20_001)) == (True, "")


async def test_two_relays_on_one_store_feed_each_others_subscribers(clock: Clock) -> None:
    store = MemoryStore()
    async with (
        House(clock, store=store, alone=False) as first,
        House(clock, store=store, alone=False) as second,
    ):
        reader, writer = await first.connect(), await second.connect()
        await reader.subscribe("s", {})

        await writer.publish(note(ALICE, "stored"))
        await writer.publish(event(ALICE, 20_001, "ephemeral"))

        assert await reader.live() == [("s", "stored"), ("s", "ephemeral")]


async def test_imported_events_are_found_and_not_sent_live(house: House, client: Client) -> None:
    await client.subscribe("s", {})

    await house.store.write([house.relay.admission.effects(note(ALICE, "imported"), live=False)])

    assert await client.heard() == []
    assert await client.find({}) == ["imported"]


class FailingStore(MemoryStore):
    """A store that cannot be read as the test says."""

    fails_at = ""

    async def head(self) -> Seq:
        self._fail("head")
        return await super().head()

    async def scan(
        self, wanted: filters.Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        self._fail("scan")
        async for page in super().scan(wanted, upto=upto, now=now, veil=veil):
            yield page
            self._fail("next page")

    async def count(
        self, wanted: Sequence[filters.Filter], *, upto: Seq, now: int, veil: Veil | None = None
    ) -> int:
        self._fail("count")
        return await super().count(wanted, upto=upto, now=now, veil=veil)

    def _fail(self, at: str) -> None:
        if self.fails_at == at:
            raise StoreError("the disk is gone; this text is for the operator")


@pytest.mark.parametrize("fails_at", ["head", "scan", "next page"])
async def test_a_store_that_cannot_be_read_ends_the_subscription_and_nothing_else(
    clock: Clock, fails_at: str
) -> None:
    store = FailingStore()
    async with House(clock, store=store) as house:
        client = await house.connect()
        await client.publish(note(ALICE, "stored"))
        await client.subscribe("before", {"limit": 0})

        store.fails_at = fails_at
        *_, last = await client.request("REQ", "s", {})
        store.fails_at = ""

        assert last == ["CLOSED", "s", FAILED]
        assert len(house.relay.index) == 1
        assert await client.subscribe("s", {}) == ["stored"]


@pytest.mark.parametrize("fails_at", ["head", "count"])
async def test_a_store_that_cannot_be_read_refuses_a_count(clock: Clock, fails_at: str) -> None:
    store = FailingStore()
    async with House(clock, store=store) as house:
        client = await house.connect()

        store.fails_at = fails_at
        reason = await client.refusal("COUNT", {})
        store.fails_at = ""

        assert reason == FAILED
        assert await client.count({}) == 0


def _asked(house: House, *wanted: filters.Filter) -> list[filters.Filter]:
    answer = house.relay.ask(wanted, Origin(address="", url=""))
    assert isinstance(answer, list)
    return answer


class QuickStore(MemoryStore):
    """A store that has every answer at once: one note of its own."""

    def at_once(
        self, wanted: filters.Filter, *, now: int, veil: Veil | None = None
    ) -> tuple[Seq, list[Stored]] | None:
        return Seq(0), [Stored(Seq(0), NOW, encode(note(BOB, "quick")))]


async def test_a_small_question_has_the_answer_that_the_store_has_at_once(clock: Clock) -> None:
    async with House(clock, store=QuickStore()) as house:
        client = await house.connect()

        assert await client.find({"kinds": [1]}) == ["quick"]


@pytest.mark.parametrize(
    "question", [[{"kinds": [1]}, {"kinds": [7]}], [{"limit": 0}], [{"since": NOW, "until": NOW - 1}]]
)
async def test_what_needs_more_than_the_store_is_not_answered_at_once(
    clock: Clock, question: list[dict[str, object]]
) -> None:
    async with House(clock, store=QuickStore()) as house:
        client = await house.connect()

        assert await client.find(*question) == []


async def test_what_somebody_pays_for_is_not_answered_at_once(clock: Clock) -> None:
    toll = Feature(title="nobody pays, but who does is asked", toll=lambda origin: None)
    async with House(clock, store=QuickStore(), extra=[toll]) as house:
        client = await house.connect()

        assert await client.find({"kinds": [1]}) == []
