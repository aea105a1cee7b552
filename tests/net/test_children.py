"""Processes that are forked from one that has imported everything."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.net.children import execute, fork


async def ended(main: Callable[[], None], *, keep: tuple[int, ...] = ()) -> int:
    """Return the exit code of a fork that does this."""
    async with asyncio.timeout(20):
        return await fork("torv test", main, keep).wait()


@pytest.fixture
def told() -> "Told":
    return Told()


class Told:
    """What a fork says to its parent, by a pipe."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def tell(self, what: object) -> None:
        os.write(self.writing, str(what).encode())

    async def by(self, main: Callable[[], object]) -> str:
        """Return what a fork finds, once it has ended."""
        assert await ended(lambda: self.tell(main()), keep=(self.writing,)) == 0
        os.close(self.writing)
        found = os.read(self.reading, 65_536)
        os.close(self.reading)
        return found.decode()


async def test_a_fork_that_returns_exits_with_0() -> None:
    assert await ended(lambda: None) == 0


async def test_a_fork_that_raises_exits_with_1_and_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        _write_to_descriptor_2()
        raise ValueError("something else")

    assert await ended(main) == 1
    assert capfd.readouterr().err.endswith("ValueError: something else\n")


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (3, 3)])
async def test_a_fork_may_exit(given: int | None, code: int) -> None:
    assert await ended(lambda: sys.exit(given)) == code


async def test_a_fork_may_exit_with_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        _write_to_descriptor_2()
        sys.exit("no room")

    assert await ended(main) == 1
    assert capfd.readouterr().err == "no room\n"


async def test_a_fork_bears_its_name(told: Told) -> None:
    assert await told.by(lambda: Path("/proc/self/comm").read_text()) == "torv test\n"


async def test_a_fork_keeps_no_descriptors_but_those_it_is_given(told: Told) -> None:
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        left = await told.by(lambda: sorted(filter(_is_open, range(3, 1000))))
    finally:
        os.close(other)

    assert left == f"[{told.writing}]"


async def test_a_fork_reads_nothing_from_its_parents_input(told: Told) -> None:
    assert await told.by(lambda: os.read(0, 10)) == "b''"


async def test_a_fork_is_alone_and_may_run_a_loop_of_its_own(told: Told) -> None:
    async def one() -> int:
        await asyncio.sleep(0)
        return threading.active_count()

    assert await told.by(lambda: asyncio.run(one())) == "1"


async def test_a_signal_to_a_fork_does_not_reach_its_parent() -> None:
    heard: list[str] = []
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, heard.append, "SIGTERM")
    try:
        child = fork("torv test", lambda: time.sleep(60), ())
        child.send(signal.SIGTERM)

        assert await child.wait() == -signal.SIGTERM
        await asyncio.sleep(0)
        assert heard == []
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def test_a_fork_leads_a_process_group_of_its_own(told: Told) -> None:
    assert await told.by(lambda: os.getpgrp() == os.getpid()) == "True"


async def test_several_may_wait_for_a_child_and_signals_after_its_end_are_nothing() -> None:
    child = fork("torv test", lambda: sys.exit(7), ())

    first, second = await asyncio.gather(child.wait(), child.wait())
    assert (first, second) == (7, 7)
    child.send(signal.SIGKILL)
    assert child.returncode == 7


async def test_a_child_that_is_another_program_is_waited_for_too() -> None:
    assert await execute([sys.executable, "-c", "raise SystemExit(5)"], {}, ()).wait() == 5


async def test_a_child_that_cannot_be_watched_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def refuse(pid: int) -> int:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)

    with pytest.raises(OSError, match="Too many open files"):
        fork("torv test", lambda: time.sleep(60), ())

    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_forks_and_programs_die_with_a_parent_that_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=os.getcwd())
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]

    parent.kill()

    # The pipe ends when nobody holds it any more.
    assert parent.stdout.read() == b""
    parent.wait(20)
    parent.stdout.close()
    assert len(pids) == 2


PARENT = """
import asyncio, sys, time
from relay.net.children import execute, fork
async def main():
    forked = fork("torv test", lambda: time.sleep(60), ())
    executed = execute([sys.executable, "-c", "import time; time.sleep(60)"], {}, ())
    print(forked.pid, executed.pid, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _write_to_descriptor_2() -> None:
    # Here standard error is a file of pytest's, with a descriptor that a fork does not keep.
    sys.stderr = os.fdopen(2, "w", closefd=False)
