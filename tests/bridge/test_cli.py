"""`torv bridge …`: the registration, the key, and what keeps the bridge from starting."""

import fcntl
import re
import socket
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.identities import load_seed, service_key
from bridge.ledger import Ledger
from bridge.networks.matrix.registration import registration, tokens
from bridge.networks.matrix.settings import MatrixConfig
from relay.nostr import nip19
from torv import main

MATRIX = """
[bridge.matrix]
homeserver = "http://127.0.0.1:1"
server_name = "example.org"
"""
CONFIG = MatrixConfig(homeserver="http://127.0.0.1:1", server_name="example.org")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def torv(data: Path, *arguments: str, matrix: str = MATRIX) -> Result:
    config = data.parent / "torv.toml"
    config.write_text(f'data = "{data}"\n{matrix}')
    return CliRunner().invoke(main, ["bridge", *arguments, "--config", str(config)])


def test_the_registration_names_what_the_homeserver_must_know() -> None:
    text = registration(tokens(bytes(32), CONFIG), CONFIG)

    assert 'url: "http://127.0.0.1:29377"\n' in text
    assert 'sender_localpart: "torv"\n' in text
    assert "rate_limited: false\n" in text
    assert "io.element.msc4190: true\n" in text
    assert r'regex: "@nostr_.*:example\\.org"' in text
    assert r'regex: "@torv:example\\.org"' in text
    assert len(set(re.findall(r'[ah]s_token: "([0-9a-f]{64})"', text))) == 2


def test_tokens_stay_until_they_are_renewed() -> None:
    renewed = CONFIG.model_copy(update={"token_generation": 2})

    assert tokens(bytes(32), CONFIG) == tokens(bytes(32), CONFIG)
    assert tokens(bytes(32), CONFIG) != tokens(bytes(32), renewed)
    assert tokens(bytes(32), CONFIG).as_token not in repr(tokens(bytes(32), CONFIG))


def test_the_registration_is_written_for_its_owners_eyes(data: Path) -> None:
    output = data.parent / "registration.yaml"
    output.write_text("an older one that everybody can read")

    result = torv(data, "registration", "--output", str(output))

    assert result.exit_code == 0
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert output.read_text() == torv(data, "registration").stdout
    assert "as_token" not in result.output


def test_the_bridges_key_is_printed(data: Path) -> None:
    result = torv(data, "key")

    assert nip19.public_key(result.stdout.strip()) == service_key(load_seed(data / "bridge.seed")).public


def test_without_a_network_there_is_nothing_to_bridge(data: Path) -> None:
    result = torv(data, "run", matrix="")

    assert result.exit_code == 2
    assert "[bridge.matrix]" in result.stderr


def test_a_second_bridge_on_the_same_data_does_not_start(data: Path) -> None:
    data.mkdir()
    with (data / "bridge.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        result = torv(data, "run")

    assert result.exit_code == 1
    assert f"the bridge cannot start: another bridge runs on {data}" in result.stderr


def test_a_port_in_use_stops_the_bridge_with_a_reason(data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        result = torv(data, "run", matrix=f"{MATRIX}port = {taken.getsockname()[1]}\n")

    assert result.exit_code == 1
    assert "the bridge cannot start: bridge.matrix.host and .port: " in result.stderr
    assert "address already in use" in result.stderr


def test_a_seed_that_is_not_the_ledgers_stops_the_bridge(data: Path) -> None:
    torv(data, "key")
    ledger = Ledger(data / "bridge.sqlite3")
    ledger.check_canary("another seed's")
    ledger.close()

    result = torv(data, "run")

    assert result.exit_code == 1
    assert "the seed is not the one this ledger was made with" in result.stderr
