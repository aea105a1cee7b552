"""`torv relay import`, measured as a command: it verifies every signature."""

import resource
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.results import Result
from benchmarks.server import ROOT, RelayFailed, Spent, environment, fresh_data, machine_cpu_seconds, torv
from relay.nostr.event import Event, encode


def import_events(events: Sequence[Event], config: Path) -> tuple[Result, float]:
    """Import the events into an empty store; also return the seconds that an import of nothing takes."""
    with tempfile.TemporaryDirectory(prefix="torv-benchmark-") as folder:
        full, empty = Path(folder) / "full.jsonl", Path(folder) / "empty.jsonl"
        full.write_bytes(b"".join(encode(event) + b"\n" for event in events))
        empty.touch()
        return Result(len(events), _run(full, config)), _run(empty, config).seconds


def _run(file: Path, config: Path) -> Spent:
    with fresh_data() as data:
        command = torv("relay", "import", "--config", str(config), "--data", str(data), str(file))
        before, machine, began = _children_cpu_seconds(), machine_cpu_seconds(), perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
        seconds = perf_counter() - began
        if done.returncode:
            raise RelayFailed(f"import ended with {done.returncode}: {done.stderr or done.stdout}")
        used = _children_cpu_seconds() - before
        return Spent(seconds, used, 0.0, max(0.0, machine_cpu_seconds() - machine - used))


def _children_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
