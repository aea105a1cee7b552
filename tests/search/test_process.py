"""The indexer as it runs: it follows, pauses, patrols, and outlives a damaged file."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from relay.search import process
from relay.search.index_file import IndexFile
from relay.store.api import RemoveEvent, StoreError
from tests.events import ALICE, note, pubkey
from tests.search.library import SEARCHED, Library


def paused(*doing: Callable[[], None]) -> Callable[[float], bool]:
    """Do one thing after the other each time the process has nothing to do; then tell it to end."""
    left: Iterator[Callable[[], None]] = iter(doing)

    def is_ending(seconds: float) -> bool:
        if seconds == 0:
            return False
        act = next(left, None)
        if act is not None:
            act()
        return act is None

    return is_ending


def run(library: Library, *doing: Callable[[], None]) -> None:
    process.run(library.database, library.path, SEARCHED, paused(*doing))


async def test_it_indexes_what_is_there_and_ends_when_told(library: Library) -> None:
    await library.keep(note(ALICE, "apple pie"))
    library.close()

    run(library)

    assert await library.find("apple") == ["apple pie"]
    library.open()


async def test_it_looks_after_old_entries_while_there_is_nothing_new(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    pie = note(ALICE, "apple pie")
    await library.publish(pie)
    await library.remove(RemoveEvent(pie.id, pubkey(ALICE)))
    monkeypatch.setattr(process, "PATROL_SECONDS", 0.0)

    run(library, lambda: None)

    assert library.index.after(0, limit=9) == []


async def test_a_file_that_is_damaged_while_it_runs_is_made_anew(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    await library.publish(note(ALICE, "apple pie"))
    library.close()
    sound, troubles = IndexFile.after, iter([sqlite3.DatabaseError("database disk image is malformed")])

    def after(index: IndexFile, ts: int, *, limit: int) -> object:
        for trouble in troubles:
            raise trouble
        return sound(index, ts, limit=limit)

    monkeypatch.setattr(IndexFile, "after", after)
    monkeypatch.setattr(process, "PATROL_SECONDS", 0.0)
    with structlog.testing.capture_logs() as logs:
        run(library, lambda: None, lambda: None)

    assert [entry["event"] for entry in logs] == ["the search index is damaged; making it anew"]
    library.open()
    assert await library.find("apple") == ["apple pie"]


async def test_a_full_disk_is_waited_for(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    await library.keep(note(ALICE, "apple pie"))
    library.close()
    sound, troubles = IndexFile.put, iter([sqlite3.OperationalError("database or disk is full")])

    def put(index: IndexFile, *arguments: object) -> None:
        for trouble in troubles:
            raise trouble
        sound(index, *arguments)  # type: ignore[arg-type]  # its own

    monkeypatch.setattr(IndexFile, "put", put)
    with structlog.testing.capture_logs() as logs:
        run(library, lambda: None)

    assert [entry["error"] for entry in logs] == ["database or disk is full"]
    assert await library.find("apple") == ["apple pie"]
    library.open()


def test_without_a_database_it_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        process.run(tmp_path / "torv.sqlite3", tmp_path / "index", SEARCHED, paused())
