"""`torv doctor` as a command: what it prints, and the status that it ends with."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doctor.conftest import ADMIN
from tests.doctor.liar import lying
from tests.doctor.test_probes import SaysYes
from tests.serving import ROOT, Served


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}
    return subprocess.run(
        [sys.executable, "-m", "torv", "doctor", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "admin.key"
    file.write_text(ADMIN.secret_bytes().hex() + "\n")
    file.chmod(0o600)
    return file


def test_what_was_proved_is_shown_as_a_table(examined: Served, key_file: Path) -> None:
    done = doctor(examined.url, "--nip", "1", "--nip", "86", "--key", str(key_file))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "of a replaceable event the newest version stays" in done.stdout
    assert "who is banned cannot write, who is unbanned can" in done.stdout
    assert f"{examined.url}: 15 proved, 0 failed, 0 skipped" in done.stdout
    assert done.stderr == ""


def test_programs_are_given_json(examined: Served) -> None:
    done = doctor(examined.url, "--nip", "65", "--nip", "86", "--json")
    found = json.loads(done.stdout)

    assert done.returncode == 0
    assert found["url"] == examined.url
    assert found["counts"] == {"ok": 2, "failed": 0, "skipped": 3}
    assert found["left_behind"] == 0
    assert {finding["nip"]: finding["verdict"] for finding in found["findings"]} == {65: "ok", 86: "skipped"}
    assert "--key" in found["findings"][-1]["reason"]


def test_strictly_what_could_not_be_proved_has_failed(examined: Served) -> None:
    assert doctor(examined.url, "--nip", "86", "--strict").returncode == 1


def test_the_configured_relay_is_examined_by_default(examined: Served, tmp_path: Path) -> None:
    file = tmp_path / "torv.toml"
    file.write_text(f'[relay]\nhost = "0.0.0.0"\nport = {examined.port}\n')

    done = doctor("--config", str(file), "--nip", "9")

    assert done.returncode == 0, done.stderr
    assert f"ws://127.0.0.1:{examined.port}/: 4 proved, 0 failed, 0 skipped" in done.stdout


def test_a_relay_that_does_not_answer_is_status_2(unused_tcp_port: int) -> None:
    done = doctor(f"ws://127.0.0.1:{unused_tcp_port}")

    assert done.returncode == 2
    assert "the relay cannot be reached" in done.stderr


@pytest.mark.parametrize("url", ["https://relay.example.com", "relay.example.com", "ws://"])
def test_what_is_no_url_of_a_relay_is_a_mistake(url: str) -> None:
    done = doctor(url)

    assert done.returncode == 2
    assert "is no URL of a relay" in done.stderr


def test_a_key_that_others_can_read_is_not_used(examined: Served, key_file: Path) -> None:
    key_file.chmod(0o644)

    done = doctor(examined.url, "--key", str(key_file))

    assert done.returncode == 2
    assert f"{key_file} can be read by others" in done.stderr


def test_a_file_without_a_key_is_a_mistake(examined: Served, key_file: Path) -> None:
    key_file.write_text("a secret\n")

    done = doctor(examined.url, "--key", str(key_file))

    assert done.returncode == 2
    assert "does not hold a secret key" in done.stderr
    assert "a secret\n" not in done.stderr


async def test_a_relay_that_fails_is_status_1_and_told_why(examined: Served) -> None:
    async with lying(examined.http, SaysYes()) as url:
        done = await asyncio.to_thread(doctor, url, "--nip", "42")

    assert done.returncode == 1
    assert "NIP-42: wrong proofs are refused" in done.stdout
    assert "sent     AUTH with another challenge" in done.stdout
    assert "expected OK false" in done.stdout
    assert "but      OK true came" in done.stdout
