"""A relay with its bridge, as `torv serve` runs them, and a Synapse that has registered the bridge."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from bridge.networks.matrix.settings import MatrixConfig
from tests.peers.matrix.homeserver import SERVER_NAME, Homeserver, Person, environment, free_port
from tests.peers.matrix.notes import Account, connected
from tests.serving import UNLIMITED, Served, _start

BOT = f"@torv:{SERVER_NAME}"


@dataclass
class Square:
    """Everything that the tests of this folder talk to."""

    served: Served
    homeserver: Homeserver
    matrix: MatrixConfig

    def bridge_pid(self) -> int:
        """Return the pid of the bridge's process, once it is there."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for pid, line in self.served.children().items():
                if "bridge run" in line:
                    return pid
            time.sleep(0.05)
        raise AssertionError("the bridge is not running")

    def until_logged(self, text: str) -> None:
        """Wait until a line with this text is in the log."""
        deadline = time.monotonic() + 30
        while text not in self.served.log.read_text():
            assert time.monotonic() < deadline, f"not logged: {text}"
            time.sleep(0.05)

    def kill_bridge(self) -> None:
        """Kill the bridge's process; the supervisor starts another one."""
        os.kill(self.bridge_pid(), signal.SIGKILL)


@pytest.fixture(scope="session")
def square(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Square]:
    """The relay and the bridge come first, then Synapse: the bridge waits for it."""
    folder = tmp_path_factory.mktemp("square")
    registration, config = folder / "registration.yaml", folder / "torv.toml"
    homeserver = Homeserver(folder, registration)
    matrix = MatrixConfig(homeserver=homeserver.url, server_name=SERVER_NAME, port=free_port())
    config.write_text(
        f"""
data = "{folder}/data"
[relay]
port = {free_port()}
{UNLIMITED}
[bridge]
allow_private_addresses = true
[bridge.matrix]
homeserver = "{matrix.homeserver}"
server_name = "{matrix.server_name}"
port = {matrix.port}
"""
    )
    torv = [sys.executable, "-m", "torv"]
    write = [*torv, "bridge", "registration", "--config", str(config), "--output", str(registration)]
    subprocess.run(write, env=environment(), check=True, capture_output=True)
    served = _serve([*torv, "serve", "--config", str(config)], folder)
    try:
        homeserver.generate_keys()
        homeserver.start()
        yield Square(served, homeserver, matrix)
        homeserver.stop()
        assert served.stop() == 0, served.log.read_text()
        # Nothing that people write, and no outage, can cause a traceback.
        assert "Traceback" not in served.log.read_text(), served.log.read_text()
    finally:
        homeserver.stop()
        if served.process.poll() is None:
            served.kill()
        served.release()


def _serve(command: list[str], folder: Path) -> Served:
    log = folder / "stderr"
    process, url = _start(command, environment(), log)
    return Served(process, url, folder / "data", log, command, environment())


@pytest.fixture(scope="session")
def alice(square: Square) -> Person:
    """Somebody on Matrix who makes rooms."""
    person = square.homeserver.register("alice")
    person.show_name("Alice Ä.")
    return person


@pytest.fixture
def bob(square: Square) -> Iterator[Account]:
    """Somebody new on Nostr."""
    with connected(square.served.url) as account:
        yield account


@pytest.fixture
def linked(alice: Person, bob: Account) -> str:
    """A public room of Alice's that follows Bob."""
    room = alice.create_room()
    with alice.reading(room) as timeline:
        alice.invite(room, BOT)
        timeline.until_text("Hello")
        alice.say(room, f"!torv link {bob.npub}")
        timeline.until_text("This room is now linked")
    return room


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on loopback that has one picture, at /picture.png under the URL."""
    (tmp_path / "picture.png").write_bytes(PICTURE)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


# One transparent pixel.
PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360606060000000050001a5f645400000000049454e44ae426082"
)
