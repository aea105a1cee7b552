"""NIP-62: what vanishes, what is welcome afterwards, and which requests a relay follows."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from relay.config import RelayConfig
from relay.features.nip62 import names, remove_all
from relay.nostr.event import Event, encode
from relay.nostr.keys import SecretKey
from relay.store.sqlite import SqliteWriter, prepare
from tests.events import ALICE, BOB, NOW, Clock, event, note, notes, write
from tests.net.house import Client, House

DELETED = (False, "blocked: this event was deleted")
ROOT = Path(__file__).parents[2]


def request(key: SecretKey, *relays: str, created_at: int = NOW, content: str = "farewell") -> Event:
    return event(key, 62, content, created_at=created_at, tags=[["relay", relay] for relay in relays])


async def test_everything_up_to_its_time_goes_and_what_is_newer_is_welcome(client: Client) -> None:
    old, at = note(ALICE, "old", created_at=NOW - 1), note(ALICE, "at", created_at=NOW)
    new, later = note(ALICE, "new", created_at=NOW + 1), note(ALICE, "later", created_at=NOW + 2)
    for one in (old, at, new, note(BOB, "other")):
        await client.publish(one)

    assert await client.publish(request(ALICE, "ALL_RELAYS")) == (True, "")

    assert await client.publish(later) == (True, "")
    assert sorted(await client.find({"kinds": [1]})) == ["later", "new", "other"]
    assert await client.count({"authors": [ALICE.public], "kinds": [1]}) == 2


async def test_what_vanished_is_refused_when_it_is_sent_again(client: Client) -> None:
    old = note(ALICE, "old")
    await client.publish(old)
    await client.publish(request(ALICE, "ALL_RELAYS"))

    assert await client.publish(old) == DELETED
    assert await client.find({"kinds": [1]}) == []


async def test_deletion_requests_go_and_what_they_deleted_stays_deleted(client: Client) -> None:
    mistake = note(ALICE, "mistake", created_at=NOW - 9)
    deletion = event(ALICE, 5, "deletion", created_at=NOW - 8, tags=[["e", mistake.id]])
    for one in (mistake, deletion, request(ALICE, "ALL_RELAYS")):
        await client.publish(one)

    assert await client.find({"kinds": [5]}) == []
    assert await client.publish(deletion) == DELETED
    assert await client.publish(mistake) == DELETED


async def test_gift_wraps_to_the_key_go(client: Client) -> None:
    wrap = event(BOB, 1059, "wrap", tags=[["p", ALICE.public]], created_at=NOW - 5)
    await client.authenticate(ALICE, NOW)
    await client.publish(wrap)

    await client.publish(request(ALICE, "ALL_RELAYS"))

    assert await client.find({"kinds": [1059]}) == []
    assert await client.publish(wrap) == DELETED


async def test_the_request_is_kept_and_cannot_be_deleted(client: Client) -> None:
    asked = request(ALICE, "ALL_RELAYS")
    await client.publish(asked)

    await client.publish(event(ALICE, 5, created_at=NOW + 1, tags=[["e", asked.id]]))
    await client.publish(request(ALICE, "ALL_RELAYS", created_at=NOW + 5, content="again"))

    assert await client.find({"kinds": [62]}) == ["again", "farewell"]


async def test_an_expiration_does_not_end_a_request() -> None:
    tags = [["relay", "ALL_RELAYS"], ["expiration", str(NOW + 60)]]

    kept = remove_all(write(event(ALICE, 62, tags=tags), expires_at=NOW + 60))

    assert kept.expires_at is None


async def test_a_request_without_a_relay_is_refused(client: Client) -> None:
    assert await client.publish(request(ALICE)) == (
        False,
        "invalid: a request to vanish names a relay, or ALL_RELAYS",
    )


OTHERS = (False, "blocked: this request to vanish names other relays")


async def test_a_request_that_names_other_relays_is_refused(clock: Clock) -> None:
    async with House(clock, RelayConfig(url="wss://relay.example.com")) as house:
        client = await house.connect()
        await client.publish(note(ALICE, "stays", created_at=NOW - 1))

        assert await client.publish(request(ALICE, "wss://other.example.com", "all_relays")) == OTHERS
        assert await client.find({"kinds": [1]}) == ["stays"]
        assert await client.publish(
            request(ALICE, "wss://other.example.com", "WSS://Relay.example.com:443")
        ) == (
            True,
            "",
        )
        assert await client.find({"kinds": [1]}) == []


async def test_a_relay_without_a_url_follows_who_proves_the_key(client: Client) -> None:
    stays = note(ALICE, "stays", created_at=NOW - 1)
    await client.publish(stays)

    assert await client.publish(request(ALICE, "wss://other.example.com")) == OTHERS
    accepted, reason = await client.publish(request(ALICE, "wss://relay.test"))
    assert (accepted, reason.partition(":")[0]) == (False, "auth-required")
    assert await client.find({"kinds": [1]}) == ["stays"]

    await client.authenticate(ALICE, NOW)
    assert await client.publish(request(ALICE, "wss://relay.test")) == (True, "")
    assert await client.publish(stays) == DELETED


@pytest.mark.parametrize(
    ("named", "url", "meant"),
    [
        ("wss://a.example", "wss://a.example/", True),
        ("ws://a.example:80", "wss://A.example", True),
        ("wss://a.example/room/", "wss://a.example/room", True),
        ("wss://a.example/room", "wss://a.example/", False),
        ("wss://a.example:444", "wss://a.example", False),
        ("ALL_RELAYS", "", True),
        ("", "", False),
        ("a.example", "wss://a.example", False),
    ],
)
def test_one_relay_has_several_names(named: str, url: str, meant: bool) -> None:
    assert names(request(ALICE, named), url) is meant


def test_a_kill_in_the_middle_of_the_removal_does_not_end_it(tmp_path: Path) -> None:
    database = tmp_path / "torv.sqlite3"
    with closing(SqliteWriter(database)) as writer:
        writer.commit([prepare(write(one), writer.hashes) for one in notes(ALICE, 900)])
        writer.commit([prepare(write(note(BOB, "other")), writer.hashes)])
        writer.commit([prepare(remove_all(write(request(ALICE, "ALL_RELAYS"))), writer.hashes)])
        writer.remove_slice()
        assert writer.is_removing

    with closing(SqliteWriter(database)) as writer:
        assert writer.is_removing
        while writer.is_removing:
            writer.remove_slice()
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT seq FROM event").fetchall() == [(901,), (902,)]


def torv(*arguments: str | Path, given: bytes = b"") -> bytes:
    """Run `torv relay …` to its end; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}
    command = [sys.executable, "-m", "torv", "relay", *map(str, arguments)]
    return subprocess.run(
        command, input=given, capture_output=True, env=environment, cwd=ROOT, timeout=60, check=True
    ).stdout


def test_vanishing_survives_export_and_import_in_any_order(tmp_path: Path) -> None:
    old, new, other = (
        note(ALICE, "old", created_at=NOW - 1),
        note(ALICE, "new", created_at=NOW + 1),
        note(BOB),
    )
    asked = request(ALICE, "wss://old.example.com")
    stored = [encode(one) + b"\n" for one in (other, asked, new)]

    for name, given in (
        ("before", [old, asked, new, other]),
        ("after", [asked, new, other, old]),
    ):
        torv("import", "--data", tmp_path / name, given=b"".join(encode(one) + b"\n" for one in given))
        first = torv("export", "--data", tmp_path / name)
        assert sorted(first.splitlines(keepends=True)) == sorted(stored)

        torv("import", "--data", tmp_path / f"{name} again", given=first)
        torv("import", "--data", tmp_path / f"{name} again", given=encode(old) + b"\n")
        assert torv("export", "--data", tmp_path / f"{name} again") == first
