"""What stores that outlive their process keep when they are closed and opened again."""

import asyncio
from pathlib import Path

import pytest

from relay.store.api import RemoveEvent
from tests.events import ALICE, BOB, NOW, note, notes, pubkey, write
from tests.store.backends import DURABLE, Backend
from tests.store.reading import EVERYTHING, contents, count, found, keep, log, logged, named
from tests.store.writers import Writers

FAR = 4_000_000_000


@pytest.fixture(params=DURABLE)
def durable(request: pytest.FixtureRequest) -> Backend:
    """Opens a durable store."""
    return DURABLE[request.param]


async def test_what_was_stored_is_there_after_reopening(
    durable: Backend, tmp_path: Path, writers: Writers
) -> None:
    history = notes(ALICE, 300, step=1)
    async with durable(tmp_path, writers) as store:
        await keep(store, *map(write, history[:200]))
        await keep(store, *(write(one, live=False) for one in history[200:]))
        rows, head = await log(store), await store.head()

    async with durable(tmp_path, writers) as store:
        assert await store.head() == head
        assert await log(store) == rows
        assert await logged(store) == contents(history[:200])
        assert await found(store) == contents(history[::-1])
        assert await count(store, EVERYTHING) == 300


async def test_what_was_removed_stays_removed_after_reopening(
    durable: Backend, tmp_path: Path, writers: Writers
) -> None:
    removed, absent, foreign = note(ALICE, "removed"), note(ALICE, "absent"), note(ALICE, "foreign")
    removals = (
        RemoveEvent(removed.id, pubkey(ALICE)),
        RemoveEvent(absent.id, pubkey(ALICE)),
        RemoveEvent(foreign.id, pubkey(BOB)),
    )
    async with durable(tmp_path, writers) as store:
        await keep(store, write(removed), write(note(ALICE, "bearer"), removals=removals))

    async with durable(tmp_path, writers) as store:
        assert await keep(store, write(removed), write(absent), write(foreign)) == [
            "DELETED",
            "DELETED",
            "STORED",
        ]
        assert await count(store, EVERYTHING) == 2


async def test_a_seq_is_not_used_again_after_reopening(
    durable: Backend, tmp_path: Path, writers: Writers
) -> None:
    async with durable(tmp_path, writers) as store:
        await keep(store, write(note(ALICE, "newest"), expires_at=FAR))
        head = await store.head()
        assert await store.sweep(FAR) == 1

    async with durable(tmp_path, writers) as store:
        assert await store.head() == head
        await keep(store, write(note(ALICE, "next", created_at=NOW - 1)))
        (row,) = await log(store)
        assert row.seq > head


async def test_closing_finishes_what_was_begun(durable: Backend, tmp_path: Path, writers: Writers) -> None:
    async with asyncio.TaskGroup() as tasks, durable(tmp_path, writers) as store:
        begun = [tasks.create_task(store.write([write(one)])) for one in notes(ALICE, 20)]
        await asyncio.sleep(0)  # each has begun, none has ended

    assert [named(outcome) for task in begun for outcome in task.result()] == ["STORED"] * 20
    async with durable(tmp_path, writers) as store:
        assert await count(store, EVERYTHING) == 20
