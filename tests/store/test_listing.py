"""Listing what matches by id, as reconciliations need it: of few hashes, of many, of several tags."""

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.store.sqlite import SqliteStore
from tests.events import ALICE, BOB, CAROL, NOW, event, write

KINDS = range(40, 80)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    chance = random.Random(1)
    return [
        event(
            chance.choice([ALICE, BOB, CAROL]),
            # Half of them of one kind, as on most relays.
            chance.choice([1, chance.choice(KINDS)]),
            created_at=NOW - chance.randrange(900),
            tags=[["t", chance.choice("abc")], ["t", chance.choice("abc")], ["n", str(n)]],
        )
        for n in range(3_000)
    ]


@pytest.fixture
async def store(tmp_path: Path, events: list[Event]) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(tmp_path / "torv.sqlite3")
    await store.write([write(one) for one in events])
    yield store
    await store.close()


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(kinds=frozenset({1})),
        Filter(kinds=frozenset({1, 41, 42, 43})),
        Filter(kinds=frozenset({1, *range(40, 70)})),
        Filter(kinds=frozenset({2, *range(70, 90)})),
        Filter(tags={"t": frozenset({"a", "b"})}),
        Filter(tags={"t": frozenset({"a", "b"})}, kinds=frozenset({1, 41})),
        Filter(authors=frozenset({ALICE.public, BOB.public}), kinds=frozenset({1, 41, 42})),
        Filter(authors=frozenset({ALICE.public, BOB.public}), since=NOW - 500, until=NOW - 100),
        Filter(authors=frozenset({ALICE.public}), kinds=frozenset(KINDS)),
    ],
)
async def test_what_matches_is_listed_once_the_newest_first(
    store: SqliteStore, events: list[Event], wanted: Filter
) -> None:
    head = await store.head()
    pages = [page async for page in store.items(wanted, upto=head, now=NOW) if page]

    expected = sorted((one.created_at, bytes.fromhex(one.id)) for one in events if wanted.matches(one))
    assert sorted(item for page in pages for item in page) == expected
    oldest = [min(page)[0] for page in pages]
    assert all(max(page)[0] <= before for page, before in zip(pages[1:], oldest, strict=False))


async def test_slices_are_small_whatever_is_asked(store: SqliteStore) -> None:
    """Others get their turn after each."""
    for wanted in (
        Filter(kinds=frozenset({1, 41, 42, 43})),
        Filter(kinds=frozenset({1, *KINDS})),
        Filter(tags={"t": frozenset({"a", "b"})}),
    ):
        sizes = [len(page) async for page in store.items(wanted, upto=await store.head(), now=NOW)]
        assert len(sizes) > 1
        assert max(sizes) <= 2_500
