"""A child process: forked, or executed; watched by descriptor, without threads or signals.

A forked child begins with all that its parent has imported, in 10 ms where a new interpreter takes 700 ms,
and shares that memory for as long as neither writes to it. So the parent must have no threads and no open
database; its event loop is left behind, never used nor closed.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """A process that was started by this one. Make it on a running loop, which learns when it ends."""

    def __init__(self, pid: int, reap: Callable[[], int]) -> None:
        """`reap` is called once, after the end; it returns the exit code, negative for a signal.

        Raises OSError if it cannot be watched; then it is killed.
        """
        self.pid = pid
        self.returncode: int | None = None
        self._reap = reap
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError:
            # No descriptor is free. Nobody would watch it, and another would be started beside it.
            os.kill(pid, signal.SIGKILL)
            reap()
            raise
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._end)

    async def wait(self) -> int:
        """Return the exit code once it has ended; several may wait."""
        return await asyncio.shield(self._ended)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it has not ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = self._reap()
        self._ended.set_result(self.returncode)


def execute(argv: Sequence[str], env: Mapping[str, str], fds: Iterable[int]) -> Child:
    """Run another program, which inherits these descriptors. Raises OSError."""
    parent = os.getpid()
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
        pass_fds=tuple(fds),
        # Ctrl-C in a terminal is for the supervisor, which stops the others in order.
        process_group=0,
        preexec_fn=lambda: _die_with(parent),
    )
    return Child(process.pid, process.wait)


def fork(name: str, main: Callable[[], None], fds: Iterable[int]) -> Child:
    """Run `main` in a copy of this process that keeps only these descriptors and the standard ones.

    `name` is what `ps -o comm` shows, up to 15 bytes. When `main` returns, the child exits 0; SystemExit is
    heeded, and whatever else it raises is printed and makes it exit 1. Raises OSError.
    """
    parent = os.getpid()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or both would write what is buffered
    # Until the child has let go of the parent's handlers, a signal to it would be taken as one to the parent.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _live(name, main, fds, parent, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return Child(pid, lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


def _live(
    name: str, main: Callable[[], None], fds: Iterable[int], parent: int, signals: Iterable[int]
) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        _die_with(parent)
        _libc.prctl(_PR_SET_NAME, name.encode()[:15])
        _reset_signals(signals)
        _close_all_but(fds)
        main()
        code = 0
    except SystemExit as leaving:
        code = _exit_code(leaving)
    except BaseException:
        traceback.print_exc()
    finally:
        # The parent's stack is below this frame: nothing of it may run here.
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _reset_signals(mask: Iterable[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _close_all_but(fds: Iterable[int]) -> None:
    # Else it would hold the lock on the data folder, and the sockets of workers that are gone.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    lowest = 3
    for fd in sorted(fds):
        os.closerange(lowest, fd)
        lowest = fd + 1
    os.closerange(lowest, os.sysconf("SC_OPEN_MAX"))


def _exit_code(leaving: SystemExit) -> int:
    match leaving.code:
        case None:
            return 0
        case int(code):
            return code
    sys.stderr.write(f"{leaving.code}\n")
    return 1


def _die_with(parent: int) -> None:
    # A killed supervisor leaves nobody behind who holds the port or the database.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it was killed before it was said
