"""One connection from the challenge to the last byte, on a socket that the test plays."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from time import monotonic
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.config import RelayConfig
from relay.engine import intake
from relay.engine.feature import Feature, Origin
from relay.net import connection as connections
from relay.net.board import Counter, Histogram
from relay.nostr.event import Event, EventId
from relay.nostr.filter import Filter
from relay.nostr.reasons import Refusal
from relay.store.api import Outcome, Seq, Stored, Veil, Write
from relay.store.memory import MemoryStore
from tests.events import ALICE, BOB, NOW, Clock, note, notes
from tests.net.house import Client, House, masked

TOO_SLOW = "error: too slow: you are not reading what you subscribed to"


class GatedStore(MemoryStore):
    """A store that reads and commits when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_read, self.may_look_up, self.may_commit = (asyncio.Event() for _ in range(3))
        for gate in (self.may_read, self.may_look_up, self.may_commit):
            gate.set()
        self.reading = self.most_reading = 0
        """Scans and counts that go on now, and the most there were at a time."""
        self.broken = False

    async def scan(
        self, wanted: Filter, *, upto: Seq, now: int, veil: Veil | None = None
    ) -> AsyncIterator[list[Stored]]:
        await self._wait()
        async for page in super().scan(wanted, upto=upto, now=now, veil=veil):
            yield page

    async def known(self, ids: Sequence[EventId]) -> set[EventId]:
        await self.may_look_up.wait()
        return await super().known(ids)

    async def count(self, wanted: Sequence[Filter], *, upto: Seq, now: int, veil: Veil | None = None) -> int:
        await self._wait()
        return await super().count(wanted, upto=upto, now=now, veil=veil)

    async def write(self, batch: Sequence[Write]) -> list[Outcome | Refusal]:
        await self.may_commit.wait()
        return await super().write(batch)

    async def _wait(self) -> None:
        if self.broken:
            raise ZeroDivisionError
        self.reading += 1
        self.most_reading = max(self.reading, self.most_reading)
        try:
            await self.may_read.wait()
        finally:
            self.reading -= 1


@pytest.fixture
async def store() -> GatedStore:
    return GatedStore()


@pytest.fixture
async def house(clock: Clock, store: GatedStore) -> AsyncIterator[House]:
    config = RelayConfig.model_validate(
        {
            "limits": {"max_outbox_bytes": 65_536, "max_pending_events": 10, "max_subscriptions": 10},
            "timeouts": {"stalled_seconds": 10, "idle_seconds": 600},
        }
    )
    async with House(clock, config, store=store) as running:
        yield running


async def turns() -> None:
    """Let everything happen that can happen now."""
    for _ in range(100):
        await asyncio.sleep(0)


def events_of(heard: list[list[Any]]) -> list[tuple[str, str]]:
    return [(message[1], message[2]["content"]) for message in heard if message[0] == "EVENT"]


async def test_closing_ends_a_subscription_without_an_answer(house: House, client: Client) -> None:
    await client.subscribe("s", {})

    client.send("CLOSE", "s")
    await client.publish(note(ALICE))

    assert await client.heard() == []
    assert len(house.relay.index) == 0


async def test_closing_what_was_never_open_is_silent(client: Client) -> None:
    client.send("CLOSE", "never")

    assert await client.heard() == []


async def test_closing_while_the_stored_part_is_read_stops_it(
    house: House, client: Client, store: GatedStore
) -> None:
    await client.publish(note(ALICE))
    store.may_read.clear()
    client.send("REQ", "s", {})
    await turns()
    assert store.reading == 1

    client.send("CLOSE", "s")
    await turns()
    assert store.reading == 0
    store.may_read.set()

    assert await client.heard() == []


async def test_closing_in_the_same_breath_is_as_good_as_not_asking(house: House, client: Client) -> None:
    client.send_at_once(["REQ", "s", {}], ["CLOSE", "s"])

    assert await client.heard() == []
    assert len(house.relay.index) == 0


async def test_a_replaced_subscription_sends_nothing_more_and_its_eose_comes_once(
    client: Client, store: GatedStore
) -> None:
    await client.publish(note(ALICE, "alice"))
    await client.publish(note(BOB, "bob"))
    store.may_read.clear()
    client.send("REQ", "s", {"authors": [ALICE.public]})
    await turns()
    client.send("REQ", "s", {"authors": [BOB.public]})
    await turns()

    store.may_read.set()
    await turns()

    heard = await client.heard()
    assert events_of(heard) == [("s", "bob")]
    assert heard[1:] == [["EOSE", "s", ["finish"]]]
    await client.publish(note(ALICE, "alice again"))
    assert await client.heard() == []


async def test_a_refused_replacement_ends_the_old_subscription(house: House, client: Client) -> None:
    await client.subscribe("s", {})

    assert (await client.request("REQ", "s", {"kinds": [4]}))[-1][0] == "CLOSED"
    await client.publish(note(ALICE))
    assert await client.heard() == []

    await client.subscribe("s", {})
    assert (await client.request("REQ", "s", {"search": "x"}))[-1][0] == "CLOSED"
    assert len(house.relay.index) == 0


async def test_refused_counts_do_not_make_room_for_more_subscriptions(house: House, client: Client) -> None:
    for n in range(15):
        client.send("REQ", f"{n}", {})
        client.send("COUNT", f"{n}", {"kinds": [4]})

    await client.heard()

    assert len(house.relay.index) <= 10


async def test_few_answers_are_read_at_a_time_and_all_are_given(client: Client, store: GatedStore) -> None:
    store.may_read.clear()
    for n in range(10):
        client.send("REQ", f"{n}", {})
    await turns()
    assert store.reading == 4

    store.may_read.set()

    names = [(await client.receive())[1] for _ in range(10)]
    assert sorted(names) == sorted(str(n) for n in range(10))
    assert store.most_reading == 4


async def test_small_questions_come_between_the_large_ones_of_others(house: House, client: Client) -> None:
    others = [await house.connect() for _ in range(5)]
    many = [f"{n:064x}" for n in range(1_000)]
    for other in others:
        for n in range(2):
            other.send("COUNT", f"large {n}", {"ids": many})
    client.send("COUNT", "small", {})
    answered = []

    async def hear(one: Client) -> None:
        answered.append((await one.receive())[1])

    await asyncio.gather(*(hear(one) for one in (*others, *others, client)))

    assert answered[0] == "small"
    assert sorted(answered[1:]) == ["large 0"] * 5 + ["large 1"] * 5


async def test_a_large_message_that_is_not_utf_8_closes_the_connection_with_1007(client: Client) -> None:
    client.send_text(b'["REQ","' + b"\xff" * 20_000 + b'",{}]')

    await client.ended()

    assert client.wire.closed == (1007, b"not UTF-8")


async def test_counts_that_pile_up_are_not_read_any_further(
    house: House, client: Client, store: GatedStore
) -> None:
    store.may_read.clear()
    for n in range(50):
        client.send("COUNT", f"{n}", {})
    await turns()
    assert house.board.total(Counter.COUNTS) == 11

    store.may_read.set()

    names = [(await client.receive())[1] for _ in range(50)]
    assert sorted(names) == sorted(str(n) for n in range(50))


async def test_a_client_with_many_unanswered_events_is_not_read_any_further(
    house: House, client: Client, store: GatedStore
) -> None:
    store.may_commit.clear()
    for one in notes(ALICE, 25):
        client.send_event(one)
    await turns()
    assert client.wire.unread == 15

    store.may_commit.set()

    answers = [await client.receive() for _ in range(25)]
    assert [answer[0] for answer in answers] == ["OK"] * 25
    assert house.board.total(Counter.EVENTS_ACCEPTED) == 25


async def test_when_many_events_wait_for_admission_no_connection_is_read_any_further(
    house: House, store: GatedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_ARRIVALS", 4)
    clients = [await house.connect() for _ in range(3)]
    store.may_look_up.clear()
    clients[0].send_event(note(ALICE, "first"))
    await turns()
    for client in clients:
        for n in range(5):
            client.send_event(note(ALICE, f"{id(client)} {n}"))
    await turns()
    # Each connection notices after a message of its own.
    assert sum(client.wire.unread for client in clients) >= 15 - 4 - len(clients)

    store.may_look_up.set()

    for client, count in zip(clients, (6, 5, 5), strict=True):
        assert [(await client.receive())[2] for _ in range(count)] == [True] * count


async def test_an_event_that_comes_while_the_stored_part_is_read_comes_once_after_eose(
    house: House, client: Client, store: GatedStore
) -> None:
    writer = await house.connect()
    await writer.publish(note(ALICE, "before"))
    store.may_read.clear()
    client.send("REQ", "s", {})
    await turns()
    await writer.publish(note(ALICE, "meanwhile", created_at=NOW + 1))

    store.may_read.set()
    await turns()

    heard = await client.heard()
    assert [message[0] for message in heard] == ["EVENT", "EOSE", "EVENT"]
    assert events_of(heard) == [("s", "before"), ("s", "meanwhile")]


async def test_a_subscription_that_gathers_too_much_before_eose_is_ended(
    house: House, client: Client, store: GatedStore
) -> None:
    writer = await house.connect()
    store.may_read.clear()
    client.send("REQ", "all", {})
    client.send("REQ", "bob", {"authors": [BOB.public]})
    await turns()
    for one in _large(8):
        await writer.publish(one)
    await turns()
    store.may_read.set()
    await turns()

    assert await client.heard() == [["CLOSED", "all", TOO_SLOW], ["EOSE", "bob", ["finish"]]]
    assert len(house.relay.index) == 1
    assert await client.count({}) == 8


async def test_a_reader_that_is_too_slow_loses_that_subscription_and_what_is_queued_for_it(
    house: House, client: Client
) -> None:
    writer = await house.connect()
    await client.subscribe("all", {"kinds": [1]})
    await client.subscribe("few", {"kinds": [7]})
    client.wire.stall(held=1000)
    for one in _large(8):
        await writer.publish(one)
    assert len(house.relay.index) == 1
    assert client.connection.origin.address == "192.0.2.1"

    client.wire.move()
    await turns()

    assert await client.heard() == [["CLOSED", "all", TOO_SLOW]]
    assert house.board.total(Counter.SUBSCRIPTIONS_TOO_SLOW) == 1
    assert await client.subscribe("all", {"kinds": [1], "limit": 0}) == []


async def test_a_reader_that_pauses_within_its_bound_loses_nothing(house: House, client: Client) -> None:
    writer = await house.connect()
    await client.subscribe("all", {})
    client.wire.stall()
    for one in _large(3):
        await writer.publish(one)
    await turns()
    assert client.wire.payloads.empty()

    client.wire.move()
    await turns()

    assert len(await client.live()) == 3


async def test_the_stored_part_is_read_no_faster_than_it_is_taken(house: House, client: Client) -> None:
    writer = await house.connect()
    large = [note(ALICE, f"{n}" + "x" * 100_000, created_at=NOW + n) for n in range(200)]
    await house.store.write([house.relay.admission.effects(one) for one in large])
    client.wire.stall()
    client.send("REQ", "s", {})
    await turns()

    queued = client.connection._outbox.unsent
    assert queued < 11_000_000, "one page of 100 rows"

    assert await writer.count({}) == 200
    client.wire.move()
    await turns()
    heard = await client.heard()
    assert len(events_of(heard)) == 200
    assert heard[-1] == ["EOSE", "s", ["finish"]]


async def test_answers_that_go_out_together_are_one_write(house: House, client: Client) -> None:
    for one in notes(ALICE, 50):
        await client.publish(one)
    before = client.wire.writes

    await client.subscribe("s", {})

    assert client.wire.writes == before + 1


async def test_binary_frames_get_a_notice(client: Client) -> None:
    client.wire.say(masked(2, b"\x00"))

    assert await client.heard() == [["NOTICE", "invalid: binary frames have no meaning here; send JSON text"]]


async def test_what_is_not_utf_8_closes_the_connection_with_1007(client: Client) -> None:
    client.send_text(b'["REQ","\xff",{}]')

    await client.ended()

    assert client.wire.closed == (1007, b"not UTF-8")


async def test_a_client_that_leaves_takes_its_subscriptions_and_questions_with_it(
    house: House, client: Client, store: GatedStore
) -> None:
    await client.subscribe("s", {})
    store.may_read.clear()
    client.send("REQ", "t", {})
    client.send("COUNT", "q", {})
    await turns()
    assert store.reading == 2

    await client.leave()
    await turns()

    assert len(house.relay.index) == 0
    assert store.reading == 0
    assert house.board.total(Counter.SUBSCRIPTIONS_OPEN) == 0


async def test_an_event_of_a_client_that_left_is_still_stored(
    house: House, client: Client, store: GatedStore
) -> None:
    store.may_commit.clear()
    client.send_event(note(ALICE, "last words"))
    await turns()
    await client.leave()

    store.may_commit.set()
    await turns()

    assert await (await house.connect()).find({}) == ["last words"]


async def test_a_mistake_of_ours_closes_that_connection_with_1011_and_no_other(
    house: House, client: Client, store: GatedStore
) -> None:
    other = await house.connect()
    store.broken = True
    client.send("REQ", "s", {})
    await client.ended()
    store.broken = False

    assert client.wire.closed == (1011, b"internal error")
    assert len(house.relay.index) == 0
    assert await other.find({}) == []


async def test_a_mistake_of_ours_in_taking_a_message_closes_that_connection_with_1011(clock: Clock) -> None:
    def broken(wanted: Filter, origin: Origin) -> Filter | Refusal:
        raise ZeroDivisionError

    async with House(clock, extra=[Feature("broken", gates=(broken,))]) as house:
        client, other = await house.connect(), await house.connect()

        client.send("REQ", "s", {})
        await client.ended()

        assert client.wire.closed == (1011, b"internal error")
        assert await other.publish(note(ALICE)) == (True, "")


async def test_a_socket_that_does_not_move_is_cut(house: House, client: Client) -> None:
    began = monotonic()
    client.wire.stall(held=5)
    client.connection.look_after(began)
    client.connection.look_after(began + 9.9)
    assert not client.wire.aborted

    client.connection.look_after(began + 10)

    assert client.wire.aborted
    assert house.board.total(Counter.CONNECTIONS_STALLED) == 1


async def test_a_socket_that_moves_a_little_is_not_cut(house: House, client: Client) -> None:
    began = monotonic()
    client.wire.stall(held=500)
    client.connection.look_after(began)

    for seconds in range(1, 100):
        client.wire.held = 500 - seconds
        client.connection.look_after(began + seconds)

    assert not client.wire.aborted


async def test_a_socket_that_has_nothing_to_take_is_not_cut(client: Client) -> None:
    client.connection.look_after(monotonic() + 500)

    assert not client.wire.aborted


async def test_a_silent_client_without_subscriptions_is_sent_away(client: Client) -> None:
    heard = monotonic()
    client.connection.look_after(heard + 590)
    await turns()
    assert client.wire.closed is None

    client.connection.look_after(heard + 601)
    await client.ended()

    assert client.wire.closed == (1000, b"idle")


async def test_a_silent_client_that_waits_for_events_may_stay(client: Client) -> None:
    await client.subscribe("s", {})

    client.connection.look_after(monotonic() + 10_000)
    await turns()

    assert client.wire.closed is None


async def test_a_paused_connection_takes_nothing_more_and_says_what_is_due(
    client: Client, store: GatedStore
) -> None:
    store.may_commit.clear()
    client.send_event(note(ALICE, "before"))
    await turns()
    client.connection.pause()
    client.send_event(note(ALICE, "after"))
    await turns()

    store.may_commit.set()
    await turns()
    client.connection.shut(1012, b"restarting")
    await client.ended()

    assert await client.receive() == ["OK", note(ALICE, "before").id, True, ""]
    assert client.wire.payloads.empty()
    assert client.wire.closed == (1012, b"restarting")


async def test_everything_is_counted(house: House, client: Client) -> None:
    await client.publish(note(ALICE))
    await client.publish(note(ALICE))
    await client.publish(note(ALICE, created_at=NOW + 10_000))
    await client.subscribe("s", {})
    await client.publish(note(BOB))
    await client.count({})
    await client.refusal("REQ", {"kinds": [4]})
    client.send("nonsense")
    await client.heard()

    board = house.board
    client.connection.look_after(monotonic())
    assert board.total(Counter.BYTES_RECEIVED) > 1_000 < board.total(Counter.BYTES_SENT)
    assert sum(board.distribution(Histogram.QUESTION)[0]) == 1
    uncounted = {Counter.BYTES_RECEIVED, Counter.BYTES_SENT}
    assert {
        counter.name: board.total(counter) for counter in set(Counter) - uncounted if board.total(counter)
    } == {
        "EVENTS_ACCEPTED": 2,
        "EVENTS_DUPLICATE": 1,
        "EVENTS_REFUSED": 1,
        "REQUESTS": 2,
        "COUNTS": 1,
        "REQUESTS_REFUSED": 1,
        "STORED_SENT": 1,
        "LIVE_SENT": 1,
        "MESSAGES_INVALID": 2,
        "SUBSCRIPTIONS_OPEN": 1,
        "REFUSED_INVALID": 1,
    }


async def test_slow_questions_are_noted_by_their_shape_alone(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with House(clock, RelayConfig(log_slow_queries_ms=1)) as house:
        client = await house.connect()
        await client.publish(note(ALICE, "a secret"))
        ticks = itertools.count()
        monkeypatch.setattr(connections, "monotonic", lambda: next(ticks) / 10)
        secret = "ab" * 32
        with capture_logs() as logs:
            await client.subscribe(
                "s", {"authors": [ALICE.public, secret], "kinds": [1, 7], "since": 5}, {"#t": ["secret"]}
            )
            await client.count({"ids": [secret]})

        assert [{**one, "ms": 0} for one in logs if one["event"] == "slow query"] == [
            {
                "event": "slow query",
                "log_level": "warning",
                "verb": verb,
                "filters": filters,
                "rows": rows,
                "ms": 0,
                "connection": 1,
            }
            for verb, filters, rows in (
                ("REQ", "authors:2 kinds:1,7 since:5 limit:500 | #t:1 limit:500", 1),
                ("COUNT", "ids:1 limit:500", 0),
            )
        ]
        assert [one["verb"] for one in house.slow.latest] == ["REQ", "COUNT"]
        assert secret not in str(house.slow.latest) + str(logs)
        assert house.board.total(Counter.QUESTIONS_SLOW) == 2


async def test_a_report_says_who_does_what_and_not_what_for(house: House, client: Client) -> None:
    await client.publish(note(ALICE, "hello"))
    await client.subscribe("a name", {"authors": [ALICE.public], "kinds": [1]}, {"#t": ["secret"]})

    report = client.connection.report()

    assert report["address"] == "192.0.2.1"
    assert (report["events_in"], report["events_out"], report["bytes_unsent"]) == (1, 1, 0)
    assert report["subscriptions"] == [[{"authors": 1, "kinds": [1], "limit": 500}, {"#t": 1, "limit": 500}]]
    assert report["keys"] == []
    assert "secret" not in str(report) and ALICE.public not in str(report)


async def test_limits_by_address_hold_over_connections(clock: Clock) -> None:
    config = RelayConfig.model_validate({"limits": {"events_per_minute": 2, "requests_per_minute": 2}})
    async with House(clock, config) as house:
        first, second = await house.connect(), await house.connect()
        elsewhere = await house.connect("2001:db8::1")

        assert (await first.publish(note(ALICE, "1")))[0]
        assert (await second.publish(note(ALICE, "2")))[0]
        refused = (False, "rate-limited: at most 2 events a minute from one address")
        assert await first.publish(note(ALICE, "3")) == refused
        assert (await elsewhere.publish(note(ALICE, "3")))[0]

        assert await first.count({}) == 3
        assert await second.find({"limit": 0}) == []
        too_many = "rate-limited: at most 2 requests a minute from one address"
        assert await first.refusal("REQ", {}) == too_many
        assert await second.refusal("COUNT", {}) == too_many


def _large(count: int) -> list[Event]:
    """Return notes of 10 kB."""
    return [note(ALICE, f"{n}" + "x" * 10_000, created_at=NOW + n) for n in range(count)]
