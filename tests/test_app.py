"""The relay's own key, and the folder that only one relay may use."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from relay import policies
from relay.app import locked
from relay.assembly import CannotRead, read_key, relay_features
from relay.config import RelayConfig
from relay.net.workers import CannotStart
from relay.nostr.keys import SecretKey

IMPORTS = "import os, sys; from pathlib import Path; from relay.app import locked\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "relay.key"


def test_a_key_is_made_once_and_kept(path: Path) -> None:
    made = read_key(path)

    assert read_key(path).secret_bytes() == made.secret_bytes()
    assert re.fullmatch(r"[0-9a-f]{64}\n", path.read_text())


def test_every_relay_makes_its_own_key(tmp_path: Path) -> None:
    assert read_key(tmp_path / "one").public != read_key(tmp_path / "two").public


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_key_is_for_its_owners_eyes_only(path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        read_key(path)
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o610])
def test_a_key_that_others_can_get_at_is_refused(path: Path, mode: int) -> None:
    read_key(path)
    path.chmod(mode)

    with pytest.raises(CannotRead, match=f"^{re.escape(str(path))} can be read by others; run: chmod 600 "):
        read_key(path)


def test_a_key_that_its_owner_cannot_write_is_fine(path: Path) -> None:
    key = read_key(path)
    path.chmod(0o400)

    assert read_key(path).public == key.public


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"00" * 32, b"ff" * 32, b"11" * 31, b"11" * 33, b"nsec1x", b"zz" * 32, b"\xff" * 64],
)
def test_a_malformed_key_is_refused_and_not_shown(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)

    with pytest.raises(CannotRead) as raised:
        read_key(path)

    assert str(raised.value) == f"{path} does not hold a secret key: 64 hex digits, or nsec1…"
    assert raised.value.__suppress_context__


def test_a_key_may_be_written_by_hand(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_text("  " + "11" * 32 + "  \n\n")

    assert read_key(path).public == SecretKey(b"\x11" * 32).public


def test_a_key_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    missing = tmp_path / "no folder" / "relay.key"

    with pytest.raises(CannotRead, match=r"^cannot write .*: No such file or directory$"):
        read_key(missing)


def test_a_data_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    data = tmp_path / "a" / "data"

    with locked(data):
        assert data.stat().st_mode & 0o777 == 0o700


def test_a_data_folder_in_use_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(
            CannotStart, match=f"^another process uses the data folder {re.escape(str(tmp_path))}$"
        ),
        locked(tmp_path),
    ):
        pass

    with locked(tmp_path):
        pass


def test_a_data_folder_is_free_when_its_process_was_killed(tmp_path: Path) -> None:
    holding = "with locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"

    killed = subprocess.run([sys.executable, "-c", IMPORTS + holding, str(tmp_path)], timeout=60, check=False)

    assert killed.returncode == -9
    with locked(tmp_path):
        pass


def test_a_data_folder_that_another_process_uses_is_refused(tmp_path: Path) -> None:
    trying = "with locked(Path(sys.argv[1])): pass"

    with locked(tmp_path):
        refused = subprocess.run(
            [sys.executable, "-c", IMPORTS + trying, str(tmp_path)],
            timeout=60,
            check=False,
            capture_output=True,
        )

    assert b"another process uses the data folder" in refused.stderr


def test_a_file_in_place_of_the_data_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.touch()

    with (
        pytest.raises(CannotStart, match=f"^cannot use the data folder {re.escape(str(path))}: File exists$"),
        locked(path),
    ):
        pass


def test_policies_and_features_come_in_order() -> None:
    titles = [feature.title for feature in relay_features(RelayConfig(), SecretKey(b"\x11" * 32))]

    assert titles[1:3] == ["Size of events", "Window of created_at"]
    assert titles[len(policies.ALL)] == "Basic protocol flow"
    assert titles[-1] == "Relay information document"
