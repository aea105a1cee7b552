"""A newcomer follows docs/operating/install.md from an empty machine to a proxied, backed-up relay.

What the document tells to type is typed, with this test's folders and ports in place of the machine's. What
Torv needs beside itself is taken from where the tests have it: its installation is what is tried, not the
network's.
"""

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.serving import ROOT
from tests.wire.client import dial, new_key, note
from tests.wire.test_proxies import answers, snippet

DOCUMENT = (ROOT / "docs/operating/install.md").read_text()
UNIT = (ROOT / "docs/operating/deploy/torv.service").read_text()
BLOCKS = re.findall(r"^```sh newcomer( service)?\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)
CHECKOUT = ("relay", "bridge", "docs", "torv.py", "pyproject.toml", "README.md", "LICENSE")
START_SECONDS = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


class Machine:
    """The newcomer's machine: a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, self.public = free_port(), free_port()
        self.url = f"ws://127.0.0.1:{self.public}"
        for name in ("opt", "etc", "var/lib", "var/backups"):
            (folder / name).mkdir(parents=True)
        checkout = folder / "checkout"
        checkout.mkdir()
        for name in CHECKOUT:
            source, target = ROOT / name, checkout / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        packages = next(path for path in sys.path if path.endswith("site-packages"))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}
        self.environment = kept | {"PYTHONPATH": packages, "PIP_NO_DEPS": "1"}
        # Or `python3 -m venv` would make one below the tests' own.
        self.environment["PATH"] = f"{Path(sys.base_prefix) / 'bin'}:/usr/local/bin:/usr/bin:/bin"

    def here(self, text: str) -> str:
        """Put this machine's places in place of the document's."""
        text = text.replace("wss://relay.example.com", self.url).replace("7777", str(self.port))
        text = re.sub(r"(?<![\w.-])/(opt|etc|var/lib|var/backups)/", rf"{self.folder}/\1/", text)
        # Whoever runs the tests is the only user here.
        return text.replace("sudo -u torv ", "").replace("chown torv ", ": ")

    def run(self, text: str) -> str:
        """Run a block of the document; return what it prints."""
        ended = subprocess.run(
            ["sh", "-eu", "-c", self.here(text)],
            cwd=self.folder / "checkout",
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert ended.returncode == 0, f"{text}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def start(self, held: ExitStack) -> None:
        """Start what the unit starts, as systemd does, and the proxy of the document about it."""
        (command,) = re.findall(r"^ExecStart=(.*)$", UNIT, re.MULTILINE)
        variables = dict(re.findall(r"^Environment=(\w+)=(.*)$", UNIT, re.MULTILINE))
        variables = {name: self.here(f"{value}/")[:-1] for name, value in variables.items()}
        manager = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        manager.bind(str(self.folder / "notify"))
        manager.settimeout(START_SECONDS)
        variables["NOTIFY_SOCKET"] = str(self.folder / "notify")
        log = held.enter_context((self.folder / "log").open("wb"))
        relay = subprocess.Popen(
            shlex.split(self.here(command)),
            env=self.environment | variables,
            cwd=self.folder,
            stdout=log,
            stderr=log,
        )
        self.manager = manager
        held.callback(self.stop, relay)
        assert manager.recv(100) == b"READY=1", (self.folder / "log").read_text()
        caddyfile = snippet("caddyfile").replace("relay.example.com {", f"http://127.0.0.1:{self.public} {{")
        (self.folder / "Caddyfile").write_text(f"{{\n\tadmin off\n}}\n{self.here(caddyfile)}")
        program = shutil.which("caddy")
        assert program is not None, "make test installs caddy"
        caddy = subprocess.Popen(
            [program, "run", "--adapter", "caddyfile", "--config", str(self.folder / "Caddyfile")],
            env={"HOME": str(self.folder), "PATH": "/usr/bin:/bin"},
            stdout=log,
            stderr=log,
        )
        held.callback(caddy.wait, 30)
        held.callback(caddy.terminate)
        wait_until(lambda: answers(self.public))

    def stop(self, first: subprocess.Popen[bytes]) -> None:
        """Stop the main process, whichever the service manager was told of last."""
        self.manager.setblocking(False)
        main = first.pid
        with contextlib.suppress(BlockingIOError):
            while said := self.manager.recv(200).decode():
                if found := re.search(r"MAINPID=(\d+)", said):
                    main = int(found[1])
        os.kill(main, signal.SIGTERM)
        assert first.wait(START_SECONDS) == 0
        wait_until(lambda: not runs(main))


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + START_SECONDS
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.timeout(1_200)  # it installs Torv, and asks the doctor
async def test_from_an_empty_machine_to_a_proxied_and_backed_up_relay(machine: Machine) -> None:
    printed: list[str] = []
    with ExitStack() as held:
        for service, block in BLOCKS:
            if service:
                machine.start(held)
                async with dial(machine.url) as wire:
                    assert await wire.publish(note(new_key(), "hello")) == (True, "")
            else:
                printed.append(machine.run(block))
        # It serves on, under its new name, after the restart.
        async with dial(machine.url) as wire:
            assert [event["content"] for event in await wire.query({"kinds": [1]})] == ["hello"]

    checked, examined, backed_up, changed = printed[1:]
    assert "the configuration is right" in checked
    assert " failed" not in examined.replace("0 failed", "")
    assert "relay.name" in changed
    assert "the new program serves" in changed
    assert "no damage found" in backed_up
    with contextlib.closing(sqlite3.connect(machine.folder / "var/backups/torv/first/torv.sqlite3")) as copy:
        found = copy.execute(
            "SELECT count(*) FROM event WHERE instr(json, ?)", [b'"content":"hello"']
        ).fetchone()
    assert found == (1,)
    assert 'name = "Our relay"' in (machine.folder / "etc/torv.toml").read_text()
