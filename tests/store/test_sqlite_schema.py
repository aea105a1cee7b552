"""Which files the SQLite store opens, and how."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay.store import open_store
from relay.store.api import StoreError, StoreTooNew
from relay.store.memory import MemoryStore
from relay.store.sqlite import Reading, SqliteStore, SqliteWriter
from tests.events import ALICE, note, write
from tests.store.reading import found, keep


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A path at which nothing is yet."""
    return tmp_path / "torv.sqlite3"


def run(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_a_database_of_a_newer_version_is_refused(database: Path) -> None:
    SqliteWriter(database).close()
    run(
        database,
        "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) "
        "VALUES ('torv.store', '0999_from_the_future', '2031-01-01')",
    )

    with pytest.raises(StoreTooNew, match=r"written by a newer Torv \(it has 0999_from_the_future\)"):
        SqliteWriter(database)
    with pytest.raises(StoreTooNew):
        Reading(database)


def test_another_programs_database_is_refused_and_left_alone(database: Path) -> None:
    run(database, "CREATE TABLE event(id)")

    with pytest.raises(StoreError, match="is not a Torv database"):
        SqliteWriter(database)

    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("event",)]


def test_a_file_that_is_no_database_is_refused(database: Path) -> None:
    database.write_bytes(b"not a database, and longer than a header\n" * 100)

    with pytest.raises(StoreError, match="file is not a database"):
        SqliteWriter(database)


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="unable to open database file"):
        SqliteWriter(tmp_path / "nowhere" / "torv.sqlite3")


def test_a_reader_makes_no_database(database: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        Reading(database)

    assert not database.exists()


def test_a_reader_waits_for_the_writer_to_migrate(database: Path) -> None:
    database.touch()

    with pytest.raises(StoreError, match="its writer has not opened it"):
        Reading(database)


def test_the_hash_key_is_random_and_stays(tmp_path: Path) -> None:
    keys = []
    for name in ("one", "one", "two"):
        writer = SqliteWriter(tmp_path / name)
        keys.append(writer.key)
        writer.close()

    assert len(keys[0]) == 16
    assert keys[0] == keys[1] != keys[2]


def test_migrating_again_changes_nothing(database: Path) -> None:
    def applied() -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(database)) as connection:
            return connection.execute("SELECT * FROM _sqlite_migrations").fetchall()

    SqliteWriter(database).close()
    before = applied()
    SqliteWriter(database).close()

    assert [row[2] for row in before] == [
        "0001_events_and_postings",
        "0002_tables_and_owners",
        "0003_removals",
    ]
    assert applied() == before


def test_commits_reach_the_disk_and_checkpoints_are_our_own(database: Path) -> None:
    writer = SqliteWriter(database)
    pragmas = ("journal_mode", "synchronous", "wal_autocheckpoint")

    found = [writer._connection.execute(f"PRAGMA {pragma}").fetchone()[0] for pragma in pragmas]

    assert found == ["wal", 2, 0]
    writer.close()


def test_closing_leaves_one_file(database: Path) -> None:
    SqliteWriter(database).close()

    assert [path.name for path in database.parent.iterdir()] == ["torv.sqlite3"]


async def test_a_store_is_opened_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in (f"sqlite:///{tmp_path}/a%20b.sqlite3", "sqlite:///a b.sqlite3"):
        store = await open_store(url)
        assert isinstance(store, SqliteStore)
        await keep(store, write(note(ALICE, "kept")))
        assert await found(store) == ["kept"]
        await store.close()
    assert (tmp_path / "a b.sqlite3").exists()


async def test_a_store_in_memory_is_opened_by_its_url() -> None:
    assert isinstance(await open_store("memory:"), MemoryStore)


@pytest.mark.parametrize(
    "url", ["", "sqlite:", "sqlite:///", "sqlite://host/file", "mysql:///x", "memory://x"]
)
async def test_a_url_that_names_no_store_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="names no store"):
        await open_store(url)
