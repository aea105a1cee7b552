"""The index follows the log: what came, what is gone, and what happened while nobody looked."""

import sqlite3

import pytest

from relay.nostr.tags import Address
from relay.search import indexer
from relay.search.index_file import MAX_TS, IndexFile
from relay.search.indexer import BATCH, ENTRIES_AT_ONCE
from relay.store.api import RemoveAddress, RemoveEvent, RemoveOwned, Seq, StoreError
from tests.events import ALICE, BOB, NOW, event, note, notes, pubkey
from tests.search.library import SEARCHED, Library


def entries(library: Library) -> int:
    """Return how many events the index holds."""
    return len(library.index.after(0, limit=100_000))


async def test_a_long_log_is_indexed_in_batches(library: Library) -> None:
    await library.keep(*notes(ALICE, BATCH + 10))

    assert library.indexer.step()
    assert entries(library) == BATCH
    assert not library.indexer.step()
    assert entries(library) == BATCH + 10
    assert not library.indexer.step()


async def test_imported_events_are_indexed_too(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"), live=False)

    assert await library.find("apple") == ["apple pie"]


async def test_the_indexer_goes_on_where_it_stopped(library: Library) -> None:
    await library.publish(*notes(ALICE, 5))
    library.close()
    await library.keep(note(ALICE, "apple pie"))

    library.open()
    library.catch_up()

    assert await library.find("apple") == ["apple pie"]
    assert entries(library) == 6


async def test_a_batch_that_was_cut_off_is_indexed_once(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    await library.keep(*notes(ALICE, 3))

    def fail(name: str, value: object) -> None:
        raise sqlite3.OperationalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(library.index, "_set", fail)
        with pytest.raises(sqlite3.OperationalError):
            library.indexer.step()
    assert entries(library) == 0

    library.catch_up()

    assert entries(library) == 3
    assert len(await library.find("note")) == 3


async def test_without_its_file_the_index_is_made_anew(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"))
    assert await library.find("apple") == ["apple pie"]
    library.close()
    for path in library.folder.glob("torv-search*"):
        path.unlink()

    library.open()
    assert await library.find("apple") == []
    library.catch_up()

    assert await library.find("apple") == ["apple pie"]


async def test_a_damaged_file_is_made_anew(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"))
    library.close()
    library.path.write_bytes(b"this is no database" * 1_000)

    library.open()
    library.catch_up()

    assert await library.find("apple") == ["apple pie"]


async def test_other_kinds_or_another_database_begin_a_new_index(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"))
    library.close()

    for source, kinds in ((library.log.key, frozenset({1})), (b"another", frozenset({1}))):
        index = IndexFile(library.path, source=source, kinds=kinds)
        assert index.cursor == 0
        index.put([], Seq(7), 0.0)
        index.close()
    library.open()
    assert library.index.cursor == 0


async def test_a_file_that_cannot_be_opened_is_a_store_error(library: Library) -> None:
    with pytest.raises(StoreError, match="cannot open"):
        IndexFile(library.folder / "missing" / "x.sqlite3", source=b"", kinds=SEARCHED)


async def test_a_database_put_back_to_an_older_state_is_indexed_anew(library: Library) -> None:
    await library.publish(*notes(ALICE, 3))
    library.index.put([], Seq(1_000_000), 0.0)
    library.close()

    library.open()
    library.catch_up()

    assert library.index.cursor == await library.store.head()
    assert len(await library.find("note")) == 3


async def test_what_its_author_deletes_leaves_the_index(library: Library) -> None:
    gone, kept = note(ALICE, "apple pie"), note(ALICE, "apple tree")
    await library.publish(gone, kept)

    await library.publish(
        event(ALICE, 5, tags=[["e", gone.id]]), removals=(RemoveEvent(gone.id, pubkey(ALICE)),)
    )

    assert entries(library) == 1
    assert await library.find("apple") == ["apple tree"]
    assert await library.find("pie") == []


async def test_all_that_vanishes_leaves_the_index(library: Library) -> None:
    await library.publish(*notes(ALICE, ENTRIES_AT_ONCE + 5), note(BOB, "note of bob"))

    await library.publish(event(ALICE, 62), owners=(), removals=(RemoveOwned(pubkey(ALICE), NOW),))

    assert entries(library) == 1
    assert await library.find("note") == ["note of bob"]


async def test_what_vanishes_after_the_log_tells_of_it_leaves_the_index_too(library: Library) -> None:
    late = note(ALICE, "gone a little later")
    await library.publish(late, event(ALICE, 62))
    assert entries(library) == 1

    await library.remove(RemoveEvent(late.id, pubkey(ALICE)))
    library.index.set_patrolled(MAX_TS - 1)
    library.indexer.patrol()

    assert entries(library) == 0


async def test_older_versions_leave_the_index(library: Library) -> None:
    for version in range(3):
        await library.publish(
            event(ALICE, 30_023, f"version {version}", created_at=NOW + version, tags=[["d", "a"]]),
            event(ALICE, 0, f'{{"about":"version {version}"}}', created_at=NOW + version),
        )

    assert entries(library) == 2
    assert await library.find("version", kinds=[30_023]) == ["version 2"]


async def test_the_patrol_finds_what_went_without_a_word(library: Library) -> None:
    silent = note(BOB, "silently removed")
    await library.publish(silent, *notes(ALICE, ENTRIES_AT_ONCE, step=1))
    await library.publish(note(ALICE, "soon expired"), expires_at=NOW + 10)
    await library.remove(RemoveEvent(silent.id, pubkey(BOB)))
    library.clock.advance(10)
    await library.store.sweep(library.clock())
    library.catch_up()
    assert entries(library) == ENTRIES_AT_ONCE + 1

    for _ in range(4):
        library.indexer.patrol()

    assert entries(library) == ENTRIES_AT_ONCE
    assert len(await library.find("note", limit=1_000)) == ENTRIES_AT_ONCE


async def test_what_the_operator_removed_leaves_the_index_at_once(library: Library) -> None:
    gone, kept = note(BOB, "a word that goes"), note(ALICE, "a word that stays")
    await library.publish(gone, kept)

    await library.store.remove([gone.id])
    library.catch_up()

    assert entries(library) == 1
    assert await library.find("word") == ["a word that stays"]
    library.close()
    library.open()
    assert not library.indexer.step()  # it knows that it did this


async def test_the_index_gets_shorter_when_much_is_removed(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("relay.search.index_file._LEAST_REMOVED", 50)
    monkeypatch.setattr("relay.search.index_file._LEAST_FREE_PAGES", 32)
    words = [f"w{n:04}" for n in range(3_000)]
    written = [note(ALICE, " ".join(words[n * 7 :][:200]), created_at=NOW + n) for n in range(300)]
    await library.publish(*written)
    library.close()
    library.open()
    before = library.path.stat().st_size

    await library.store.remove([one.id for one in written[:280]])
    library.catch_up()
    for _ in range(20):
        library.indexer.patrol()
    library.close()

    connection = sqlite3.connect(library.path)
    connection.execute("INSERT INTO word(word) VALUES ('integrity-check')")
    connection.close()
    library.open()
    assert entries(library) == 20
    assert library.path.stat().st_size < before // 3
    assert len(await library.find(words[290 * 7])) > 0


async def test_an_entry_that_is_taken_out_leaves_nothing_behind(library: Library) -> None:
    await library.publish(event(ALICE, 0, '{"name":"alice","about":"rødgrød 日本語"}'), note(BOB, "other"))
    (alice,) = [ts for ts, _ in library.index.of_author(pubkey(ALICE), 0, below=MAX_TS, limit=9)]

    library.index.remove([alice])

    connection = sqlite3.connect(library.path)
    connection.execute("CREATE VIRTUAL TABLE temp.term USING fts5vocab('main', 'word', 'row')")
    terms = {term for (term,) in connection.execute("SELECT term FROM term")}
    connection.execute("INSERT INTO word(word) VALUES ('integrity-check')")
    connection.close()
    assert "other" in terms
    assert not terms & {"alice", "rodgrod", "日本", "語"}


async def test_events_of_one_second_are_told_apart(library: Library) -> None:
    await library.publish(*notes(ALICE, 50), *notes(BOB, 50))

    assert entries(library) == 100
    assert len(await library.find("note", limit=200)) == 100


async def test_an_address_removed_by_its_author_leaves_the_index(library: Library) -> None:
    await library.publish(event(ALICE, 30_023, "an article", tags=[["d", "a"]]))

    await library.publish(
        event(ALICE, 5, created_at=NOW + 1, tags=[["a", f"30023:{ALICE.public}:a"]]),
        removals=(RemoveAddress(Address(30_023, ALICE.public, "a"), NOW + 1),),
    )

    assert entries(library) == 0


async def test_much_text_ends_a_batch_early(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexer, "BATCH_CHARS", 10)
    await library.keep(*notes(ALICE, 300))

    assert library.indexer.step()
    assert entries(library) == 128
    library.catch_up()
    assert entries(library) == 300
