"""The relay under test: started on fresh data, watched from outside by /proc."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time

ROOT = Path(__file__).parent.parent
CONFIG = Path(__file__).parent / "relay.toml"
DATABASE = "torv.sqlite3"
STOP_SECONDS = 60
LOGGED_BYTES = 4_000
"""So much of a relay's log is shown when it failed."""
_TICKS = os.sysconf("SC_CLK_TCK")


class RelayFailed(Exception):
    """The relay did not answer as it should; the text says how."""


@dataclass(frozen=True)
class Relay:
    """A running relay."""

    url: str
    pid: int
    """Of the process all others descend from."""
    data: Path
    began: float
    """When it was started, by perf_counter."""

    @property
    def log_bytes(self) -> int:
        """The size of the database's write-ahead log; it never shrinks while the relay runs."""
        path = self.data / f"{DATABASE}-wal"
        return path.stat().st_size if path.exists() else 0


def torv(*arguments: str) -> list[str]:
    """Return the command line of this tree's torv."""
    return [sys.executable, "-m", "torv", *arguments]


def environment(*, search: bool = True) -> dict[str, str]:
    """Return the environment without settings of Torv's but this one: relay.toml alone is measured."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}
    return plain if search else plain | {"TORV_RELAY__SEARCH__ENABLED": "false"}


@contextmanager
def fresh_data() -> Iterator[Path]:
    """Make an empty data folder, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="torv-benchmark-") as folder:
        yield Path(folder) / "data"


@contextmanager
def serve(config: Path, data: Path, *, workers: int = 0, search: bool = True) -> Iterator[Relay]:
    """Run `torv serve` on a data folder, made if missing; stop it at the end.

    `workers` 0: the default. Without `search` no index is made, which takes minutes for a large database.
    """
    command = torv("serve", "--config", str(config), "--data", str(data), "--port", "0")
    if workers:
        command += ["--workers", str(workers)]
    with tempfile.TemporaryFile() as log:
        began = perf_counter()
        with subprocess.Popen(
            command, cwd=ROOT, env=environment(search=search), stdout=subprocess.PIPE, stderr=log
        ) as process:
            try:
                assert process.stdout is not None
                url = process.stdout.readline().decode().strip()
                if not url.startswith("ws"):
                    log.seek(0)
                    raise RuntimeError(f"torv serve did not start: {log.read().decode()}")
                yield Relay(url, process.pid, data, began)
            except RelayFailed as error:
                log.seek(0)
                raise RelayFailed(f"{error}; it logged: {log.read()[-LOGGED_BYTES:].decode()}") from error
            finally:
                process.terminate()
                process.wait(STOP_SECONDS)


@dataclass(frozen=True)
class Usage:
    """What one process or several have used so far."""

    cpu_seconds: float
    anonymous_bytes: int
    """Memory of its own; mapped files do not count."""
    resident_bytes: int


def usage(pid: int) -> Usage:
    """Read what a process and all its descendants use."""
    found = [usage_of(member) for member in tree(pid)]
    return Usage(
        sum(one.cpu_seconds for one in found),
        sum(one.anonymous_bytes for one in found),
        sum(one.resident_bytes for one in found),
    )


def usage_of(pid: int) -> Usage:
    """Read what one process uses; nothing, if it has ended."""
    memory = {"RssAnon": 0, "VmRSS": 0}
    ticks = 0
    with suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        ticks = int(fields[11]) + int(fields[12])
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name = line.split(":", 1)[0]
            if name in memory:
                memory[name] = int(line.split()[1]) * 1024
    return Usage(ticks / _TICKS, memory["RssAnon"], memory["VmRSS"])


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += tree(int(child))
    return found


def machine_cpu_seconds() -> float:
    """Return the CPU time that the whole machine has spent, idling apart."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, *interrupts = map(int, fields[:8])
    return (user + nice + system + sum(interrupts)) / _TICKS


@dataclass(frozen=True)
class Spent:
    """What a measured stretch cost."""

    seconds: float
    server_cpu_seconds: float
    client_cpu_seconds: float
    other_cpu_seconds: float
    """Spent by anything else on the machine: if it is not near 0, the figures are too low."""


class Watch:
    """Measures from its making to `stop`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._server, self._machine = usage(pid), machine_cpu_seconds()
        self._client, self._began = process_time(), perf_counter()

    def stop(self) -> Spent:
        seconds = perf_counter() - self._began
        client = process_time() - self._client
        server = usage(self._pid).cpu_seconds - self._server.cpu_seconds
        machine = machine_cpu_seconds() - self._machine
        return Spent(seconds, server, client, max(0.0, machine - server - client))
