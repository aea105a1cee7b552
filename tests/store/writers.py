"""Real writer processes, quickly: one process that has imported everything forks one for each test.

`python -m tests.store.writers` reads lines `database<TAB>socket` and answers each with the pid of a
writer process that serves there; it ends, with all its writers, when its standard input does.
"""

import os
import select
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import uvloop

from relay.logs import start_logging
from relay.settings import LogConfig
from relay.store.sqlite import Tuning
from relay.store.writer_process import run_until_terminated
from tests.store.tables import TABLES

# So small that a few events run through all tiers, and every purge takes several slices.
TINY = Tuning(
    tail_rows=64,
    middle_rows=256,
    hot_rows=4,
    dead_postings=32,
    slice_rows=16,
    free_pages=64,
    given_back=16,
)


class Writers:
    """Starts writer processes, and ends them."""

    def __init__(self) -> None:
        self._forker = subprocess.Popen(
            [sys.executable, "-m", "tests.store.writers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def start(self, database: Path, socket_path: Path) -> int:
        """Start a writer with tiny tiers; return its pid once it serves."""
        assert self._forker.stdin is not None and self._forker.stdout is not None
        print(database, socket_path, sep="\t", file=self._forker.stdin, flush=True)
        return int(self._forker.stdout.readline())

    def stop(self, pid: int, how: signal.Signals = signal.SIGTERM) -> None:
        """End a writer and wait until it is gone, as its supervisor does."""
        process = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(process, how)
            ended, _, _ = select.select([process], [], [], 20)
            assert ended, f"the writer process did not end within 20 s of {how.name}"
        finally:
            os.close(process)

    def close(self) -> None:
        with self._forker:
            pass  # closes its standard input and waits


def main() -> None:
    """Fork writers for who writes to standard input."""
    start_logging(LogConfig())  # to standard error: standard output is for the pids
    # The kernel reaps the writers.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        database, socket_path = line.rstrip("\n").split("\t")
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            sys.stdin.close()
            uvloop.run(
                run_until_terminated(
                    Path(database), Path(socket_path), partial(os.close, writing), tables=TABLES, tuning=TINY
                )
            )
            os._exit(0)
        os.close(writing)
        os.read(reading, 1)  # until the writer is ready, or has died
        os.close(reading)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    main()
