"""Whole seconds at the end of an answer: paging back loses nothing and repeats nothing."""

import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from relay.engine import boundary
from relay.engine.boundary import whole_seconds
from relay.nostr.event import Event, EventId, PubKey
from relay.nostr.filter import Filter
from relay.store.api import Store, Stored, Veil, Write
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from tests.events import ALICE, NOW, note, write

# Contents by age, newest first; "b" to "d" share a second, and so do "e" and "f".
SECONDS = {"a": 5, "b": 4, "c": 4, "d": 4, "e": 3, "f": 3, "g": 1}


async def kept(events: list[Event]) -> MemoryStore:
    store = MemoryStore()
    await store.write([write(event) for event in events])
    return store


def square() -> list[Event]:
    return [note(ALICE, content, created_at=NOW + at) for content, at in SECONDS.items()]


async def answer(store: Store, wanted: Filter, veil: Veil | None = None) -> tuple[list[Stored], bool]:
    """Return the rows and whether they are said to be all; also checks that it is said once."""
    said: list[bool] = []
    scan = partial(store.scan, upto=await store.head(), now=NOW, veil=veil)
    rows = [row async for page in whole_seconds(scan, wanted, said.append) for row in page]
    (complete,) = said
    return rows, complete


def contents(rows: list[Stored]) -> str:
    return "".join(sorted(row.event().content for row in rows))


@pytest.mark.parametrize(
    ("limit", "expected", "complete"),
    [
        (1, "a", False),
        (2, "abcd", False),
        (3, "abcd", False),
        (4, "abcd", False),
        (5, "abcdef", False),
        (6, "abcdef", False),
        (7, "abcdefg", True),
        (8, "abcdefg", True),
        (None, "abcdefg", True),
    ],
)
async def test_the_last_second_is_sent_whole(limit: int | None, expected: str, complete: bool) -> None:
    rows, said = await answer(await kept(square()), Filter(limit=limit))

    assert (contents(rows), said) == (expected, complete)


async def test_the_order_holds_beyond_the_limit() -> None:
    rows, _ = await answer(await kept(square()), Filter(limit=5))

    assert rows == sorted(rows, key=lambda row: (-row.created_at, row.id))


@pytest.mark.parametrize(
    ("wanted", "expected", "complete"),
    [
        (Filter(limit=2, since=NOW + 4), "abcd", True),
        (Filter(limit=2, since=NOW + 3), "abcd", False),
        (Filter(limit=1, until=NOW + 4, since=NOW + 4), "bcd", True),
        (Filter(limit=1, until=NOW + 3), "ef", False),
        (Filter(limit=1, until=NOW + 1), "g", True),
        (Filter(limit=1, until=NOW), "", True),
    ],
)
async def test_what_was_not_asked_for_is_not_missing(wanted: Filter, expected: str, complete: bool) -> None:
    rows, said = await answer(await kept(square()), wanted)

    assert (contents(rows), said) == (expected, complete)


async def test_what_a_reader_may_not_see_is_not_missing_either() -> None:
    veil = Veil(frozenset({1}), lambda event: event.content in "abe")

    for limit, expected, complete in ((1, "a", False), (2, "ab", False), (3, "abe", True), (4, "abe", True)):
        rows, said = await answer(await kept(square()), Filter(limit=limit), veil)
        assert (contents(rows), said) == (expected, complete)


async def test_the_second_at_the_beginning_of_time_is_the_last() -> None:
    store = await kept([note(ALICE, content, created_at=0) for content in "ab"])

    rows, complete = await answer(store, Filter(limit=1))

    assert (contents(rows), complete) == ("ab", True)


async def test_a_flooded_second_is_cut_and_never_called_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boundary, "MAX_BEYOND", 10)
    store = await kept([note(ALICE, f"{n}", created_at=NOW) for n in range(30)])

    rows, complete = await answer(store, Filter(limit=5))

    assert (len(rows), complete) == (15, False)
    assert [row.id for row in rows] == sorted(row.id for row in rows)


def crowd(count: int) -> list[Write]:
    """Return events, unsigned; about two in five share their second, with up to 399 others."""
    chance = random.Random(67)
    seconds: list[int] = []
    second = NOW
    while len(seconds) < count:
        second -= chance.randint(1, 9)
        seconds += [second] * (chance.choice((2, 3, 10, 60, 400)) if chance.random() < 0.0064 else 1)
    return [write(bare(chance.randbytes(32).hex(), at)) for at in seconds[:count]]


def bare(id_: str, created_at: int) -> Event:
    """Return an event that no signature vouches for: the store asks for none."""
    return Event(EventId(id_), PubKey(ALICE.public), created_at, 1, (), "", "0" * 128)


async def page_back(store: Store, limit: int, *, upto_page: int) -> list[str]:
    """Return the ids that a client gets that goes on below the oldest second it has, page by page."""
    ids: list[str] = []
    until = NOW
    for _ in range(upto_page):
        rows, complete = await answer(store, Filter(limit=limit, until=until))
        ids += [row.id for row in rows]
        if complete:
            break
        until = rows[-1].created_at - 1
    return ids


async def test_paging_through_100_000_events_loses_and_repeats_nothing(tmp_path: Path) -> None:
    writes = crowd(100_000)
    expected = [one.event.id for one in sorted(writes, key=lambda w: (-w.event.created_at, w.event.id))]
    shared = Counter(one.event.created_at for one in writes)
    assert 0.38 < sum(n for n in shared.values() if n > 1) / 100_000 < 0.42
    store = await SqliteStore.open(tmp_path / "torv.sqlite3")
    try:
        for start in range(0, len(writes), 5_000):
            await store.write(writes[start : start + 5_000])

        for limit in (100, 499, 500):
            assert await page_back(store, limit, upto_page=100_000) == expected
        # With smaller limits a page is a second, and there are very many: the newest of them.
        for limit in (1, 2, 3, 20):
            ids = await page_back(store, limit, upto_page=1_500)
            assert len(ids) > 1_500
            assert ids == expected[: len(ids)]
    finally:
        await store.close()
