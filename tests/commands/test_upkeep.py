"""The database as such: counted, made compact, and brought up to date after a copy of it."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay.store.api import StoreError
from relay.store.sqlite import SqliteWriter
from relay.store.sqlite.audit import contents_of
from tests.commands.conftest import Torv
from tests.events import ALICE, BOB, CAROL
from tests.serving import TorvServe


def test_events_are_counted_by_kind_age_and_author(torv: Torv, data: Path) -> None:
    counted = torv("stats", "--data", data, "--top", 2, "--json").value

    assert counted["events"] == 217
    assert counted["kinds"] == {
        **{"1": 201, "30023": 9},
        **{"1018": 2, "5": 2, "0": 1, "1059": 1, "1068": 1},
    }
    assert (counted["older"], counted["younger_than_days"]["1"]) == (217, 0)
    assert counted["authors"] == [
        {"pubkey": ALICE.public, "events": 204},
        {"pubkey": CAROL.public, "events": 10},
    ]
    assert (counted["authors_of_a_sample"], counted["can_shrink"], counted["deletions"]) == (False, True, 2)
    assert counted["files"]["torv.sqlite3"] == (data / "torv.sqlite3").stat().st_size


def test_the_table_is_for_people(torv: Torv, data: Path) -> None:
    lines = torv("stats", "--data", data).output.splitlines()

    assert lines[:2] == ["217 events", "  kind 1                   201"]
    assert any(line.startswith(f"  {BOB.public}") for line in lines)


def test_a_running_relay_is_counted_too(torv: Torv, torv_serve: TorvServe) -> None:
    relay = torv_serve(workers=1)

    assert torv("stats", "--data", relay.data, "--json").value["events"] == 0
    assert torv("compact", "--data", relay.data).status == 1
    assert torv("migrate", "--data", relay.data, "--check").status == 0


def run(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def make_older(database: Path) -> None:
    """Turn a database into one of the version before the last."""
    run(
        database,
        "DROP TABLE removal",
        "DELETE FROM _sqlite_migrations WHERE name = '0003_removals'",
        "PRAGMA wal_checkpoint(TRUNCATE)",
    )


def test_a_database_without_the_map_can_shrink_after_it_was_made_compact(torv: Torv, data: Path) -> None:
    database = data / "torv.sqlite3"
    run(database, "PRAGMA journal_mode = DELETE", "PRAGMA auto_vacuum = NONE", "VACUUM")
    assert torv("stats", "--data", data, "--json").value["can_shrink"] is False
    before = contents_of(database, lambda events: None)
    (data / "torv.sqlite3.compact").write_bytes(b"of one that was killed")

    done = torv("compact", "--data", data, "--json")

    assert done.status == 0, done.errors
    assert done.value["files"]["torv.sqlite3"]["after"] == database.stat().st_size
    assert contents_of(database, lambda events: None) == before
    assert torv("stats", "--data", data, "--json").value["can_shrink"] is True
    assert torv("verify", data).status == 0
    assert sorted(path.name for path in data.iterdir()) == ["relay.key", "torv.lock", "torv.sqlite3"]


def test_an_older_database_is_copied_before_it_is_brought_up_to_date(torv: Torv, data: Path) -> None:
    database = data / "torv.sqlite3"
    make_older(database)

    checked = torv("migrate", "--data", data, "--check", "--json")
    assert (checked.status, checked.value["missing"]) == (1, ["0003_removals"])
    done = torv("migrate", "--data", data, "--json")

    copy = data / "torv.sqlite3.version-0002"
    assert (done.status, done.value["applied"], done.value["copies"]) == (0, ["0003_removals"], [str(copy)])
    assert copy.stat().st_mode & 0o777 == 0o600
    assert contents_of(copy, lambda events: None).migrations[-1] == "0002_tables_and_owners"
    assert contents_of(copy, lambda events: None).total == contents_of(database, lambda events: None).total
    assert torv("migrate", "--data", data, "--check").output == "the database is up to date\n"
    assert torv("verify", data).status == 0


def test_a_copy_of_an_earlier_try_is_made_anew(data: Path) -> None:
    make_older(data / "torv.sqlite3")
    for name in ("torv.sqlite3.version-0002", "torv.sqlite3.version-0002.partial"):
        (data / name).write_bytes(b"older")

    SqliteWriter(data / "torv.sqlite3").close()

    assert contents_of(data / "torv.sqlite3.version-0002", lambda events: None).events == 217
    assert not (data / "torv.sqlite3.version-0002.partial").exists()


def test_without_room_for_a_copy_nothing_is_changed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_older(data / "torv.sqlite3")
    usage = shutil.disk_usage(data)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000))

    with pytest.raises(StoreError, match="too little room to bring"):
        SqliteWriter(data / "torv.sqlite3")

    assert contents_of(data / "torv.sqlite3", lambda events: None).migrations[-1] == "0002_tables_and_owners"
    assert "torv.sqlite3.version-0002" not in os.listdir(data)


def test_a_newer_database_is_refused_by_every_command(torv: Torv, data: Path) -> None:
    run(
        data / "torv.sqlite3",
        "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) "
        "VALUES ('torv.store', '0999_from_the_future', '2031-01-01')",
    )

    for words in (("migrate",), ("migrate", "--check"), ("stats",), ("backup", data / "b")):
        refused = torv(*words, "--data", data)
        assert refused.status == 1
        assert "written by a newer Torv" in refused.errors
