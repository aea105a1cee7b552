"""Crowds: registers that the store raises with the events, once they are kept."""

from contextlib import closing
from pathlib import Path

import orjson
import pytest

from relay.engine import crowds
from relay.engine.crowds import TABLE
from relay.nostr.crowds import Crowd
from relay.nostr.hyperloglog import Registers, offset_of
from relay.nostr.keys import SecretKey
from relay.store.api import Outcome, RemoveEvent, Store, StoreError, Write
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteWriter, prepare
from tests.events import ALICE, BOB, CAROL, author, event, pubkey, write
from tests.store.backends import DURABLE
from tests.store.tables import TABLES
from tests.store.writers import Writers

TARGET = "5" * 64
LIKES = Crowd(7, "e", TARGET)
BUILDING, READY, SPOILED = b"\0", b"\1", b"\2"


def like(key: SecretKey, content: str = "+", target: str = TARGET) -> Write:
    return write(event(key, 7, content, tags=[["e", target]]))


def registers_of(*keys: SecretKey, value: str = TARGET) -> bytes:
    registers = Registers(offset_of(value))
    for key in keys:
        registers.add(key.public)
    return bytes(registers)


def keeping(crowd: Crowd = LIKES) -> bytes:
    return orjson.dumps({"do": "keep", "crowd": str(crowd)})


def merging(*keys: SecretKey, crowd: Crowd = LIKES, is_spoiled: bool = False) -> bytes:
    known = {"registers": registers_of(*keys).hex(), "is_spoiled": is_spoiled}
    return orjson.dumps({"do": "merge", "crowd": str(crowd), **known})


def kept(store: Store, crowd: Crowd = LIKES) -> bytes | None:
    return store.record(TABLE, str(crowd))


async def test_nobody_is_counted_before_somebody_has_asked(store: Store) -> None:
    await store.write([like(ALICE)])

    assert kept(store) is None


async def test_who_writes_joins(store: Store) -> None:
    await store.command(TABLE, keeping())
    await store.write([like(ALICE), like(ALICE, "again"), like(BOB), like(CAROL, target="6" * 64)])
    await store.write([write(event(CAROL, 1, tags=[["e", TARGET]]))])

    assert kept(store) == BUILDING + registers_of(ALICE, BOB)


async def test_what_was_there_before_is_merged(store: Store) -> None:
    await store.command(TABLE, keeping())
    await store.write([like(BOB)])
    await store.command(TABLE, merging(ALICE))
    await store.write([like(CAROL)])
    await store.command(TABLE, keeping())

    assert kept(store) == READY + registers_of(ALICE, BOB, CAROL)


async def test_one_event_joins_several_crowds(store: Store) -> None:
    friends = [author(f"friend {n}").public for n in range(30)]
    for friend in friends:
        await store.command(TABLE, keeping(Crowd(3, "p", friend)))

    await store.write([write(event(ALICE, 3, tags=[["p", friend] for friend in friends]))])

    for friend in friends:
        assert kept(store, Crowd(3, "p", friend)) == BUILDING + registers_of(ALICE, value=friend)


async def test_a_comment_joins_those_who_quote(store: Store) -> None:
    quotes = Crowd(1, "q", TARGET)
    await store.command(TABLE, keeping(quotes))

    await store.write(
        [write(event(key, kind, tags=[["q", TARGET]])) for key, kind in ((ALICE, 1), (BOB, 1111))]
    )

    assert kept(store, quotes) == BUILDING + registers_of(ALICE, BOB)


async def test_what_is_not_stored_joins_nothing(store: Store) -> None:
    unwanted = like(ALICE)
    await store.command(TABLE, keeping())
    await store.write([write(event(ALICE, 5), removals=(RemoveEvent(unwanted.event.id, pubkey(ALICE)),))])

    assert await store.write([unwanted]) == [Outcome.DELETED]
    assert kept(store) == BUILDING + bytes(256)


async def test_nobody_leaves_a_crowd(store: Store) -> None:
    gone = like(ALICE)
    await store.command(TABLE, keeping())
    await store.write([gone, like(BOB)])
    await store.write([write(event(ALICE, 5), removals=(RemoveEvent(gone.event.id, pubkey(ALICE)),))])

    assert kept(store) == BUILDING + registers_of(ALICE, BOB)


async def test_a_crowd_is_spoiled_by_what_may_be_for_some(store: Store) -> None:
    await store.command(TABLE, keeping())
    await store.write([write(event(BOB, 7, tags=[["e", TARGET], ["h", "pizza"]]))])
    await store.command(TABLE, merging(ALICE))

    assert kept(store) == SPOILED + registers_of(ALICE, BOB)


async def test_a_large_crowd_is_counted_as_a_client_would(store: Store) -> None:
    keys = [author(f"fan {n}") for n in range(400)]
    await store.command(TABLE, keeping())

    for start in range(0, 400, 80):
        await store.write([like(key) for key in keys[start : start + 80]])

    assert kept(store) == BUILDING + registers_of(*keys)


async def test_so_many_are_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowds, "MAX_CROWDS", 3)
    monkeypatch.setattr(crowds, "DROPPED_AT_ONCE", 2)
    store = MemoryStore(TABLES)
    for n in range(4):
        await store.command(TABLE, keeping(Crowd(7, "e", f"{n}")))

    assert [key for key, _ in store.records(TABLE, "7")] == ["7 e 2", "7 e 3"]
    assert store.record(TABLE, "size") == b"2"


@pytest.mark.parametrize("backend", DURABLE)
async def test_crowds_go_on_after_a_restart(backend: str, tmp_path: Path, writers: Writers) -> None:
    async with DURABLE[backend](tmp_path, writers) as store:
        await store.command(TABLE, keeping())
        await store.write([like(ALICE)])
    async with DURABLE[backend](tmp_path, writers) as store:
        await store.write([like(BOB)])
        assert kept(store) == BUILDING + registers_of(ALICE, BOB)


def test_a_batch_that_failed_joined_nothing(tmp_path: Path) -> None:
    with closing(SqliteWriter(tmp_path / "torv.sqlite3", tables=TABLES)) as writer:
        writer.command(TABLE, keeping())
        writer.commit([prepare(like(ALICE), writer.hashes)])
        pages = writer._connection.execute("PRAGMA page_count").fetchone()[0]
        # SQLite refuses to grow the file, as it does when the disk is full.
        writer._connection.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="full"):
            writer.commit([prepare(like(BOB, "x" * 60_000), writer.hashes)])
        writer._connection.execute("PRAGMA max_page_count = 1000000")

        writer.commit([prepare(like(CAROL), writer.hashes)])

        (record,) = writer._connection.execute(
            "SELECT value FROM record WHERE tab = 'crowds' AND key LIKE '7%'"
        ).fetchone()
        assert record == BUILDING + registers_of(ALICE, CAROL)
