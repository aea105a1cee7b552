"""Backups: consistent while the relay serves, whole or not there, and restored as they were or not at all."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
import zstandard

from relay.client import Rejected, RelayClient
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.transfer import restoring
from relay.transfer.manifest import BadBackup, Manifest, read_manifest
from tests.commands.conftest import GONE, POLL, Torv, environment
from tests.events import author, note, notes
from tests.serving import ROOT, TorvServe

FILES = ["manifest.json", "relay.key", "torv.sqlite3"]


@pytest.fixture
def backup(torv: Torv, data: Path, tmp_path: Path) -> Path:
    """A backup of a stopped relay."""
    made = torv("backup", tmp_path / "backup", "--data", data)
    assert made.status == 0, made.errors
    return tmp_path / "backup"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("options", [(), ("--compress",)])
def test_what_was_backed_up_is_restored_elsewhere(
    options: tuple[str, ...], torv: Torv, data: Path, tmp_path: Path
) -> None:
    made = torv("backup", tmp_path / "backup", "--data", data, "--json", *options).value
    restored = torv("restore", tmp_path / "backup", "--data", tmp_path / "new", "--json").value

    assert (made["events"], made["fingerprint"]) == (restored["events"], restored["fingerprint"])
    assert made["events"] == 217
    for place, output in ((data, "before"), (tmp_path / "new", "after")):
        assert torv("export", "--data", place, "-o", tmp_path / output).status == 0
    assert (tmp_path / "before").read_bytes() == (tmp_path / "after").read_bytes()
    assert (tmp_path / "new/relay.key").read_text() == (data / "relay.key").read_text()
    verified = torv("verify", tmp_path / "new", "--json")
    assert (verified.status, verified.value["fingerprint"]) == (0, made["fingerprint"])
    assert verified.value["removals"] == 2


def test_what_was_deleted_stays_deleted_and_polls_stay_counted(
    torv: Torv, backup: Path, tmp_path: Path, torv_serve: TorvServe
) -> None:
    relay = torv_serve()
    relay.stop()
    assert torv("restore", backup, "--data", relay.data).status == 1  # it has served there
    assert torv("restore", backup, "--data", relay.data, "--replace").status == 0

    relay.restart()

    async def publish_again() -> list[Event]:
        async with RelayClient(relay.url) as client:
            with pytest.raises(Rejected, match="this event was deleted"):
                await client.publish(GONE)
            return await client.fetch([Filter(ids=frozenset([GONE.id]))])

    assert asyncio.run(publish_again()) == []
    with urlopen(f"{relay.http}/api/poll/{POLL.id}") as page:
        assert json.load(page)["voters"] == 2


def test_a_backup_is_for_its_owner_alone(backup: Path) -> None:
    assert names(backup) == FILES
    assert backup.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in backup.iterdir()} == {0o600}


def test_keys_are_left_out_and_the_configuration_is_taken_along(
    torv: Torv, data: Path, tmp_path: Path
) -> None:
    config = tmp_path / "torv.toml"
    config.write_text("[relay]\nname = 'square'\n")

    made = torv("backup", tmp_path / "b", "--data", data, "--no-keys", "--config", config)

    assert made.status == 0
    assert names(tmp_path / "b") == ["manifest.json", "torv.sqlite3", "torv.toml"]
    assert (tmp_path / "b/torv.toml").read_text() == config.read_text()


def test_nothing_is_overwritten(torv: Torv, backup: Path, data: Path) -> None:
    before = (backup / "manifest.json").read_bytes()

    again = torv("backup", backup, "--data", data)

    assert (again.status, again.output) == (1, "")
    assert "is there already: a backup overwrites nothing" in again.errors
    assert (backup / "manifest.json").read_bytes() == before


def flip(path: Path, place: int) -> None:
    text = bytearray(path.read_bytes())
    text[place] ^= 4
    path.write_bytes(text)


def edit(backup: Path, old: str, new: str) -> None:
    path = backup / "manifest.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def rename(backup: Path, name: str, new: str) -> None:
    (backup / name).rename(backup / Path(new).name)
    edit(backup, f'"{name}"', f'"{new}"')


TAMPERING: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit": (lambda b: flip(b / "torv.sqlite3", 9_000), "its sha256 differs"),
    "one bit of the key": (
        lambda b: flip(b / "relay.key", 3),
        "relay.key is not the file that was backed up",
    ),
    "truncated": (lambda b: os.truncate(b / "torv.sqlite3", 8_192), "has 8192 bytes, and should have"),
    "a file is missing": (lambda b: (b / "torv.sqlite3").unlink(), "torv.sqlite3 cannot be read"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "cannot read"),
    "half a manifest": (lambda b: os.truncate(b / "manifest.json", 100), "cannot read"),
    "another manifest": (lambda b: (b / "manifest.json").write_text("[]"), "is no manifest of a backup"),
    "a newer one": (lambda b: edit(b, '"format": 1', '"format": 2'), "was made by a newer Torv"),
    "other events": (lambda b: edit(b, '"events": 217', '"events": 218'), "holds 217 events"),
    "a way out": (lambda b: rename(b, "relay.key", "../relay.key"), "is no file of a backup"),
    "another's lock": (lambda b: rename(b, "relay.key", "torv.lock"), "is no file of a backup"),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_what_was_tampered_with_is_refused(name: str, torv: Torv, backup: Path, tmp_path: Path) -> None:
    tamper, reason = TAMPERING[name]
    tamper(backup)

    refused = torv("restore", backup, "--data", tmp_path / "new", "--json")

    assert refused.status == 1
    assert reason in refused.value["error"]
    assert not (tmp_path / "new").exists() or names(tmp_path / "new") == ["torv.lock"]


def test_a_file_that_unpacks_to_more_than_was_noted_is_refused(
    torv: Torv, data: Path, tmp_path: Path
) -> None:
    assert torv("backup", tmp_path / "b", "--data", data, "--compress").status == 0
    packed = tmp_path / "b/torv.sqlite3.zst"
    manifest = json.loads((tmp_path / "b/manifest.json").read_text())
    packed.write_bytes(zstandard.compress(bytes(50 * 2**20)))
    entry = manifest["files"][packed.name]
    entry["bytes"] = packed.stat().st_size
    entry["sha256"] = subprocess.run(
        ["sha256sum", packed], capture_output=True, check=True, text=True
    ).stdout.split()[0]
    (tmp_path / "b/manifest.json").write_text(json.dumps(manifest))

    refused = torv("restore", tmp_path / "b", "--data", tmp_path / "new")

    assert refused.status == 1
    assert "holds more than the" in refused.errors
    assert names(tmp_path / "new") == ["torv.lock"]


def test_a_folder_in_use_is_refused(torv: Torv, backup: Path, torv_serve: TorvServe) -> None:
    relay = torv_serve(workers=1)

    refused = torv("restore", backup, "--data", relay.data, "--replace")

    assert refused.status == 1
    assert "another process uses the data folder" in refused.errors


async def test_a_backup_of_a_busy_relay_is_one_moment_of_it(
    torv: Torv, torv_serve: TorvServe, tmp_path: Path
) -> None:
    relay = torv_serve()
    accepted: dict[str, list[str]] = {"one": [], "two": []}
    both_began, is_over = asyncio.Event(), asyncio.Event()

    async def publish(name: str) -> None:
        async with RelayClient(relay.url) as client:
            while not is_over.is_set():
                one = note(author(name), f"{len(accepted[name])}")
                await client.publish(one)
                accepted[name].append(one.id)
                if all(accepted.values()):
                    both_began.set()

    async with asyncio.TaskGroup() as tasks:
        for name in accepted:
            tasks.create_task(publish(name))
        await both_began.wait()
        before = {name: len(ids) for name, ids in accepted.items()}
        made = await asyncio.to_thread(torv, "backup", tmp_path / "b", "--data", relay.data, "--json")
        after = {name: len(ids) for name, ids in accepted.items()}
        verified = await asyncio.to_thread(torv, "verify", relay.data)
        is_over.set()

    assert (made.status, verified.status) == (0, 0), made.errors
    assert all(after[name] > before[name] for name in accepted)  # it was busy
    restored = await asyncio.to_thread(torv, "restore", tmp_path / "b", "--data", tmp_path / "new", "--json")
    assert restored.value["fingerprint"] == made.value["fingerprint"]
    verified = await asyncio.to_thread(torv, "verify", tmp_path / "new")
    assert verified.status == 0
    exported = await asyncio.to_thread(torv, "export", "--data", tmp_path / "new", "-o", tmp_path / "lines")
    assert exported.status == 0
    there = {line[7:71] for line in (tmp_path / "lines").read_text().splitlines()}
    assert len(there) == made.value["events"]
    for name, ids in accepted.items():
        # All up to one moment, and nothing after it; what was stored before the command is in.
        kept = [id_ in there for id_ in ids]
        assert kept == sorted(kept, reverse=True)
        assert sum(kept) >= before[name]


def run_and_kill(seconds: float, *words: object) -> None:
    """Begin a command, and kill it with all that it started."""
    process = subprocess.Popen(
        [sys.executable, "-m", "torv", "relay", *map(str, words)],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("seconds", [0.8, 1.2])
def test_a_killed_restore_leaves_all_or_nothing(
    seconds: float, torv: Torv, backup: Path, tmp_path: Path
) -> None:
    new = tmp_path / "new"

    run_and_kill(seconds, "restore", backup, "--data", new)

    if new.exists() and (new / "torv.sqlite3").exists():
        assert torv("verify", new, "--json").value["events"] == 217
    else:
        assert torv("restore", backup, "--data", new).status == 0
    assert not {"restoring", "restored", "restored.placing"} & set(names(new))


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours runs after it."""


def test_a_restore_that_is_killed_at_any_step_is_completed_or_never_was(
    backup: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = read_manifest(backup)
    (data / "torv.sqlite3").write_bytes(b"older")
    (data / "torv.sqlite3-wal").write_bytes(b"older")
    older = names(data)
    moved = 0
    for step in range(1, 20):
        folder = tmp_path / f"step {step}"
        shutil.copytree(data, folder)
        if restore_killed_at(step, backup, manifest, folder, monkeypatch):
            break
        whole = (folder / "restored").exists() or (folder / "restored.placing").exists()
        restoring.finish(folder)
        if whole:
            moved += 1
            assert (folder / "torv.sqlite3").read_bytes() == (backup / "torv.sqlite3").read_bytes()
            assert not (folder / "torv.sqlite3-wal").exists()
            (aside,) = folder.glob("replaced-*")
            assert names(aside) == [name for name in older if name != "torv.lock"]
        else:
            assert [name for name in names(folder) if name != "restoring"] == older
            assert (folder / "torv.sqlite3").read_bytes() == b"older"
    assert moved == 6


def restore_killed_at(
    step: int, backup: Path, manifest: Manifest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> bool:
    """Restore, and be killed before the step-th renaming; whether it came to its end."""
    left = step
    real = os.rename

    def counted(*names: Path) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed
        real(*names)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", counted)
        # Who is killed cleans nothing up.
        patched.setattr(shutil, "rmtree", lambda *_, **__: None)
        try:
            restoring.restore(
                backup, manifest, folder, check=lambda staged: None, on_advance=lambda more: None
            )
        except Killed:
            return False
    return True


def test_a_check_that_fails_leaves_the_folder_as_it_was(backup: Path, data: Path) -> None:
    before = {path.name: path.read_bytes() for path in data.iterdir()}

    def refuse(staged: Path) -> None:
        raise BadBackup("other events")

    with pytest.raises(BadBackup, match="other events"):
        restoring.restore(backup, read_manifest(backup), data, check=refuse, on_advance=lambda more: None)

    assert {path.name: path.read_bytes() for path in data.iterdir()} == before


def test_a_killed_backup_is_cleared_away_by_the_next_one(
    torv: Torv, torv_serve: TorvServe, tmp_path: Path
) -> None:
    relay = torv_serve(workers=1)

    async def publish() -> None:
        async with RelayClient(relay.url) as client:
            for one in notes(author("killed"), 20):
                await client.publish(one)

    asyncio.run(publish())
    (tmp_path / ".b.partial-stale").mkdir()
    run_and_kill(1.0, "backup", tmp_path / "b", "--data", relay.data)
    if (tmp_path / "b").exists():
        shutil.rmtree(tmp_path / "b")

    made = torv("backup", tmp_path / "b", "--data", relay.data, "--json")

    assert made.value["events"] == 20
    assert names(tmp_path) == ["b"]
    asyncio.run(publish())
    assert relay.stop() == 0


def test_what_is_no_folder_of_a_relay_is_told(torv: Torv, tmp_path: Path) -> None:
    assert torv("backup", tmp_path / "b", "--data", tmp_path / "none").status == 1
    assert torv("verify", tmp_path, "--json").value["error"].endswith("does not exist")
    assert torv("verify", tmp_path / "none").status == 2
    assert torv("restore", tmp_path / "none", "--data", tmp_path / "new").status == 2
