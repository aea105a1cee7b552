"""NIP-50: searches are answered by rank, through the same doors as every other question."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp.test_utils import make_mocked_request

from relay.config import RelayConfig, SearchConfig
from relay.engine.feature import Context
from relay.features import nip50
from relay.net.http import Pages
from relay.nostr.event import Event
from relay.search.searcher import MAX_WAITING
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import RELAY_KEY, URL, Client, House
from tests.search.library import Library, opened


@pytest.fixture
async def library(tmp_path: Path, clock: Clock) -> AsyncIterator[Library]:
    async with opened(tmp_path, clock) as made:
        yield made


@pytest.fixture
async def house(library: Library, clock: Clock) -> AsyncIterator[House]:
    """A relay that searches."""
    async with House(clock, store=library.store, search=library.searcher) as running:
        yield running


async def publish(client: Client, library: Library, *events: Event) -> None:
    for published in events:
        assert (await client.publish(published))[0]
    library.catch_up()


async def test_results_come_by_rank_and_the_limit_after_ranking(client: Client, library: Library) -> None:
    best, good = (
        "pie, and more pie",
        "a pie among very many other things that one may eat " + "and drink " * 20,
    )
    await publish(
        client, library, note(ALICE, best, created_at=NOW - 100), note(ALICE, good), note(ALICE, "apples")
    )

    assert await client.find({"search": "pie"}) == [best, good]
    assert await client.find({"search": "pie", "limit": 1}) == [best]
    assert await client.find({"search": "PIE nsfw:false", "kinds": [1], "authors": [ALICE.public]}) == [
        best,
        good,
    ]
    assert await client.find({"search": "pie", "authors": [BOB.public]}) == []


async def test_several_searches_come_one_after_the_other_and_each_event_once(
    client: Client, library: Library
) -> None:
    both, orange = note(ALICE, "orange and purple"), note(ALICE, "orange", created_at=NOW - 5)
    purple, plain = note(BOB, "purple", created_at=NOW - 9), note(BOB, "plain", created_at=NOW + 1)
    await publish(client, library, both, orange, purple, plain)

    found = await client.find({"search": "orange"}, {"kinds": [1]}, {"kinds": [1, 2], "search": "purple"})

    assert found == ["orange and purple", "orange", "purple", "plain"]


async def test_a_search_for_nothing_is_a_plain_filter(client: Client, library: Library) -> None:
    await publish(client, library, note(ALICE, "older", created_at=NOW - 1), note(ALICE, "newer"))

    assert await client.find({"search": "", "kinds": [1]}) == ["newer", "older"]
    assert await client.count({"search": "include:spam", "kinds": [1]}) == 2


async def test_new_events_reach_those_whose_search_finds_them(client: Client) -> None:
    assert await client.subscribe("pies", {"search": "pie", "kinds": [1]}) == []
    await client.subscribe("mixed", {"search": "pie"}, {"authors": [BOB.public]})

    for published in (
        note(ALICE, "a pie"),
        note(ALICE, "a tree"),
        note(BOB, "a stone"),
        event(ALICE, 7, "pie"),
    ):
        await client.publish(published)

    assert sorted(await client.live()) == [("mixed", "a pie"), ("mixed", "a stone"), ("pies", "a pie")]
    client.send("CLOSE", "pies")
    client.send("CLOSE", "mixed")
    await client.publish(note(ALICE, "one more pie"))
    assert await client.live() == []


async def test_a_limit_of_zero_asks_for_live_events_alone(client: Client, library: Library) -> None:
    await publish(client, library, note(ALICE, "old pie"))

    assert await client.subscribe("live", {"search": "pie", "limit": 0}) == []
    await client.publish(note(ALICE, "new pie"))

    assert await client.live() == [("live", "new pie")]


async def test_a_search_is_not_said_to_be_all(client: Client, library: Library) -> None:
    await publish(client, library, note(ALICE, "pie"))

    (*_, end) = await client.request("REQ", "a", {"search": "pie"})
    (*_, end_of_plain) = await client.request("REQ", "b", {"kinds": [1]})

    assert end == ["EOSE", "a"]
    assert end_of_plain == ["EOSE", "b", ["finish"]]


async def test_what_a_search_finds_is_neither_counted_nor_reconciled(client: Client) -> None:
    client.send("NEG-OPEN", "x", {"search": "pie"}, "6100000200")

    assert (await client.receive())[2].startswith("unsupported: ")
    assert await client.refusal("COUNT", {"search": "pie"}) == (
        "unsupported: what a search finds is sent, but neither counted nor reconciled"
    )


async def test_without_an_index_searches_are_refused(clock: Clock) -> None:
    async with House(clock, RelayConfig(search=SearchConfig(enabled=False))) as house:
        client = await house.connect()

        assert await client.refusal("REQ", {"search": "pie"}) == "unsupported: this relay does not search"
        assert nip50.feature(house.config, Context(key=RELAY_KEY)).nip is None


async def test_gift_wraps_and_what_only_members_may_see_are_never_found(
    client: Client, library: Library
) -> None:
    await publish(
        client, library, event(ALICE, 1059, "pie", tags=[["p", BOB.public]]), note(ALICE, "pie for all")
    )

    assert await client.find({"search": "pie"}) == ["pie for all"]
    assert await client.find({"search": "pie", "kinds": [1, 1059]}) == ["pie for all"]


async def test_what_was_deleted_is_not_found_though_it_is_still_indexed(
    client: Client, library: Library
) -> None:
    pie = note(ALICE, "pie")
    await publish(client, library, pie, note(ALICE, "pie too"))

    await client.publish(event(ALICE, 5, tags=[["e", pie.id]]))

    assert await client.find({"search": "pie"}) == ["pie too"]


async def test_who_vanishes_is_not_found_and_leaves_the_index(client: Client, library: Library) -> None:
    await publish(client, library, note(ALICE, "pie of alice", created_at=NOW - 1), note(BOB, "pie of bob"))
    vanishing = event(ALICE, 62, created_at=NOW, tags=[["relay", "ALL_RELAYS"]])

    assert (await client.publish(vanishing))[0]

    assert await client.find({"search": "pie"}) == ["pie of bob"]
    library.catch_up()
    assert [id_ for _, id_ in library.index.after(0, limit=9)] == [note(BOB, "pie of bob").id]


async def test_too_many_searches_at_once_are_refused(
    client: Client, library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library.searcher, "_waiting", MAX_WAITING)

    assert await client.refusal("REQ", {"search": "pie"}) == (
        "rate-limited: too many searches at once; try again later"
    )
    assert await client.find({"kinds": [1]}) == []


async def test_a_damaged_index_closes_the_question_and_nothing_else(client: Client, library: Library) -> None:
    await publish(client, library, note(ALICE, "pie"))
    library.close()
    library.path.unlink()
    library.path.write_bytes(b"no database at all" * 1_000)

    assert await client.refusal("REQ", {"search": "pie"}) == (
        "error: the relay could not read its database; try again later"
    )
    assert await client.find({"kinds": [1]}) == ["pie"]
    library.path.unlink()
    library.open()
    library.catch_up()
    assert await client.find({"search": "pie"}) == ["pie"]


async def test_metrics_say_how_far_the_index_lags(
    house: House, client: Client, library: Library, tmp_path: Path
) -> None:
    pages = Pages(
        house.config, house.relay.features, library.store, house.board, tmp_path, veil=house.relay.veil
    )
    await client.publish(note(ALICE, "pie"))

    before = (await pages.answer(make_mocked_request("GET", "/metrics"), URL)).body
    library.catch_up()
    after = (await pages.answer(make_mocked_request("GET", "/metrics"), URL)).body

    assert isinstance(before, bytes) and isinstance(after, bytes)
    assert b"\ntorv_search_lag_events 1.0\n" in before
    assert b"\ntorv_search_lag_events 0.0\n" in after
    assert b"\ntorv_search_lag_seconds 1.0\n" in after
