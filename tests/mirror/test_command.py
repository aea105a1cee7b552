"""`torv relay sync` as operators have it: beside a relay that runs, and with one that runs."""

import asyncio
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from relay.commands.opening import opened
from relay.commands.syncing import sync as sync_command
from relay.config import RelayConfig
from tests.events import ALICE, BOB, note
from tests.mirror.houses import write_key
from tests.serving import TorvServe
from tests.test_cli import Run, lines, torv
from tests.wire.client import dial, new_key
from tests.wire.client import note as fresh_note


def sync(url: str, data: Path, *arguments: str | Path) -> Run:
    return torv("relay", "sync", url, "--data", data, *arguments)


def report_of(done: Run) -> Any:
    return json.loads(done.stdout)


async def test_two_relays_are_brought_together_while_both_run(torv_serve: TorvServe) -> None:
    here, there = torv_serve(workers=1), torv_serve(workers=1)
    key = new_key()
    ours, theirs = fresh_note(key, "ours"), fresh_note(key, "theirs")
    letter = fresh_note(key, "sealed", kind=1059, tags=[["p", BOB.public]])
    async with dial(here.url) as wire:
        for one in (ours, letter):
            assert await wire.publish(one) == (True, "")
    async with dial(there.url) as wire:
        assert await wire.publish(theirs) == (True, "")

    dry = sync(there.url, here.data, "--direction", "both", "--dry-run")
    done = sync(there.url, here.data, "--direction", "both")

    assert dry.stdout.decode() == "1 to receive, 1 to send; nothing was moved\n"
    assert done.stdout.decode().splitlines()[0] == "1 received, 1 sent"
    assert (dry.returncode, done.returncode) == (0, 0)
    async with dial(there.url) as wire:
        assert {one["content"] for one in await wire.query({"authors": [key.public]})} == {"ours", "theirs"}
        # Not even its receiver finds the letter there.
        assert await wire.authenticate(BOB, relay=there.url) == (True, "")
        assert await wire.query({"kinds": [1059], "#p": [BOB.public]}) == []


async def test_a_key_is_proved_where_the_partner_asks_for_one(torv_serve: TorvServe, tmp_path: Path) -> None:
    there = torv_serve("[relay.auth]\nread = true\nwrite = true\n", workers=1)
    theirs = note(ALICE, "for those with a key")
    file = write_key(tmp_path, "a friend")
    (tmp_path / "events").write_bytes(lines(note(BOB, "ours")))
    assert torv("relay", "import", tmp_path / "events", "--data", tmp_path / "data").returncode == 0
    async with dial(there.url) as wire:
        await wire.authenticate(ALICE)
        assert await wire.publish(theirs) == (True, "")

    stranger = sync(there.url, tmp_path / "data", "--json")
    friend = sync(there.url, tmp_path / "data", "--direction", "both", "--key", file, "--json")

    assert stranger.returncode == 1
    assert "auth-required" in report_of(stranger)["failure"]
    assert friend.returncode == 0, friend.stdout
    assert (report_of(friend)["received"], report_of(friend)["sent"]) == (1, 1)


class Configured:
    """What the command needs of the configuration."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.relay = RelayConfig()


def test_wrong_use_is_told_before_anything_is_moved(tmp_path: Path) -> None:
    readable = write_key(tmp_path, "careless")
    readable.chmod(0o644)
    nowhere = "ws://127.0.0.1:1/"
    mistakes: list[tuple[list[str], int, str]] = [
        (["http://127.0.0.1/"], 2, "isn't a valid URI"),
        ([nowhere, "--filter", "{"], 2, "--filter"),
        ([nowhere, "--filter", '{"kind":1}'], 2, "unknown elements"),
        ([nowhere, "--filter", '{"search":"x"}'], 2, "cannot be compared"),
        ([nowhere, "--key", str(readable)], 1, "can be read by others"),
        ([nowhere, "--key", str(tmp_path / "none")], 1, "No such file"),
        ([nowhere, "--direction", "both", "--filter", '{"kinds":[1059]}'], 1, "may leave"),
    ]
    for folder, arguments, status, complaint in [
        *((tmp_path / "data", *one) for one in mistakes),
        (tmp_path / "empty", [nowhere, "--direction", "up"], 1, "there is no database"),
    ]:
        if folder.name == "data":
            asyncio.run(_make(folder))

        done = CliRunner().invoke(sync_command, arguments, obj=lambda *_, folder=folder: Configured(folder))

        assert done.exit_code == status, done.output
        assert complaint in done.output


async def _make(folder: Path) -> None:
    async with opened(Configured(folder), make=True):
        pass
