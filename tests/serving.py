"""The real `torv serve` as a process, for tests that talk to it over the wire.

`torv_serve` starts relays with their own settings; `relay_url` is one relay that many tests share,
with the rate limits lifted: use keys of your own, and leave other authors' events alone.
"""

import os
import re
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parent.parent
START_SECONDS = 60
"""Generous: the machine may be busy with other tests."""
STOP_SECONDS = 30

UNLIMITED = """
[relay.limits]
events_per_minute = 0
requests_per_minute = 0
others_per_minute = 0
connections_per_address = 0
http_connections_per_address = 0
"""
"""Configuration without the limits that count by address: all tests come from 127.0.0.1."""

TorvServe = Callable[..., "Served"]


@dataclass
class Served:
    """A running relay: supervisor, writer and workers."""

    process: subprocess.Popen[bytes]
    url: str
    """ws://127.0.0.1:PORT/"""
    data: Path
    log: Path
    """What it wrote to standard error."""
    command: list[str]
    environment: dict[str, str]

    @property
    def http(self) -> str:
        """http://127.0.0.1:PORT, without a slash at the end."""
        return "http" + self.url.removeprefix("ws").rstrip("/")

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def stop(self) -> int:
        """Stop it gracefully (SIGTERM); return its exit status."""
        self.process.terminate()
        return self.process.wait(STOP_SECONDS)

    def kill(self) -> None:
        """Kill every one of its processes at once, as a power cut would."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_SECONDS)

    def restart(self) -> None:
        """Start it anew after `stop` or `kill`: same data, same port."""
        assert self.process.poll() is not None
        self.release()
        self.process, self.url = _start([*self.command, "--port", str(self.port)], self.environment, self.log)

    def release(self) -> None:
        """Close the pipe of an ended process."""
        assert self.process.stdout is not None
        self.process.stdout.close()

    def children(self) -> dict[int, str]:
        """Return its processes below the supervisor: pid, and name with the command line behind it."""
        return {pid: _name(pid) for pid in _descendants(self.process.pid)}

    def workers(self) -> list[int]:
        """Return the pids of the worker processes."""
        return [pid for pid, name in self.children().items() if name.startswith("torv worker ")]

    def writer(self) -> int:
        """Return the pid of the writer process."""
        (pid,) = (pid for pid, name in self.children().items() if name.startswith("torv writer "))
        return pid


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it ended while we looked
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *_descendants(child)]
    return found


def _name(pid: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        process = Path(f"/proc/{pid}")
        line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return f"{(process / 'comm').read_text().strip()} {line}"
    return ""


def _start(command: list[str], environment: dict[str, str], log: Path) -> tuple[subprocess.Popen[bytes], str]:
    with log.open("ab") as stderr:
        # A session of its own, so that `kill` reaches all of it and nothing else.
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
    try:
        return process, _announced_url(process, log)
    except BaseException:
        with process:
            os.killpg(process.pid, signal.SIGKILL)
        raise


def _announced_url(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the relay prints that it is ready; return the ws:// URL beside its http:// one.

    The ws:// URL that it prints is the public one, which may name another host.
    """
    assert process.stdout is not None
    printed = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not (found := re.search(rb"http(s?://\S+)", printed)) or b"\n" not in printed[found.end() :]:
            if not selector.select(START_SECONDS):
                raise TimeoutError(f"torv serve printed no URL in {START_SECONDS} s: {log.read_text()}")
            chunk = os.read(process.stdout.fileno(), 65_536)
            if not chunk:
                raise RuntimeError(f"torv serve ended before it was ready: {log.read_text()}")
            printed += chunk
    return "ws" + found[1].decode()


@pytest.fixture(scope="session")
def _serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorvServe]:
    yield from _servers(tmp_path_factory)


def _servers(paths: pytest.TempPathFactory) -> Iterator[TorvServe]:
    started: list[Served] = []

    def serve(
        config: str = UNLIMITED,
        *,
        workers: int = 2,
        wrap: Callable[[Path], list[str]] = lambda folder: [],
    ) -> Served:
        folder = paths.mktemp("torv")
        (folder / "torv.toml").write_text(config)
        command = [*wrap(folder), sys.executable, "-m", "torv", "serve"]
        command += ["--config", str(folder / "torv.toml"), "--data", str(folder / "data")]
        command += ["--workers", str(workers)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}
        log = folder / "stderr"
        process, url = _start([*command, "--port", "0"], environment, log)
        started.append(Served(process, url, folder / "data", log, command, environment))
        return started[-1]

    yield serve

    for served in started:
        try:
            if served.process.poll() is None:
                assert served.stop() == 0, served.log.read_text()
            # No client can cause a traceback.
            assert "Traceback" not in served.log.read_text(), served.log.read_text()
        finally:
            if served.process.poll() is None:
                served.kill()
            served.release()


@pytest.fixture
def torv_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorvServe]:
    """Start relays with `torv_serve(config, workers=2)`: each on its own port and data; stopped at the end.

    `config` is TOML, `UNLIMITED` when left out; `wrap` is a command to run the relay under (strace).
    """
    yield from _servers(tmp_path_factory)


@pytest.fixture(scope="session")
def relay(_serving: TorvServe) -> Served:
    """A relay with two workers that all tests of a run share: never stop it."""
    return _serving()


@pytest.fixture
def relay_url(relay: Served) -> str:
    """The ws:// URL of the shared relay."""
    return relay.url
