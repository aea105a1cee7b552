"""The supervisor, with tiny programs; and the sockets that it binds."""

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay.net import workers
from relay.net.workers import CannotStart, Program, Supervisor, bind, say_ready

READY = """
import os, signal, sys, time
journal, name, ready = int(sys.argv[1]), sys.argv[2], int(sys.argv[-1])
def note(what):
    os.write(journal, f"{name} {what} {os.getpid()}\\n".encode())
def leave(*_):
    note("stops")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
note("starts")
"""
"""Notes its start and its stop; says that it is ready in one of the ways below."""

SERVE = "os.write(ready, b'ready\\n'); os.close(ready)\nwhile True: time.sleep(60)\n"
STUBBORN = "signal.signal(signal.SIGTERM, lambda *_: note('stays'))\n" + SERVE
SILENT = "while True: time.sleep(60)\n"
DIE_AT_ONCE = "sys.exit(3)\n"
DIE_AFTER = "os.write(ready, b'ready\\n'); os.close(ready)\nnote('dies')\nsys.exit(1)\n"


class Journal:
    """What the programs noted, in order: they all write to one pipe."""

    def __init__(self) -> None:
        self._reading, self.writing = os.pipe()
        os.set_blocking(self._reading, False)
        self._read = b""

    @property
    def lines(self) -> list[str]:
        """`name what`, without pids."""
        return [line.rsplit(" ", 1)[0] for line in self._lines()]

    def pids(self, what: str) -> list[int]:
        """Return the pids of the lines `name what`."""
        parts = (line.rsplit(" ", 1) for line in self._lines())
        return [int(pid) for said, pid in parts if said == what]

    async def wait_for(self, count: int, line: str) -> None:
        """Wait until `line` has been noted so many times."""
        more = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._reading, more.set)
        try:
            async with asyncio.timeout(20):
                while self.lines.count(line) < count:
                    more.clear()
                    await more.wait()
        finally:
            asyncio.get_running_loop().remove_reader(self._reading)

    def close(self) -> None:
        os.close(self._reading)
        os.close(self.writing)

    def _lines(self) -> list[str]:
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._reading, 65_536):
                self._read += chunk
        return self._read.decode().splitlines()


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal()
    yield made
    made.close()


@pytest.fixture
def program(journal: Journal) -> Callable[..., Program]:
    def make(name: str, behaviour: str = SERVE, *, fds: tuple[int, ...] = (), **more: Any) -> Program:
        argv = [sys.executable, "-c", READY + behaviour, str(journal.writing), name]
        return Program(name, argv, fds=(*fds, journal.writing), **more)

    return make


@asynccontextmanager
async def supervised(*groups: list[Program]) -> AsyncIterator[asyncio.Event]:
    """Run the programs; inside, all are ready. Setting the event stops them."""
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(Supervisor(groups).run(stop, ready.set))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=30)
    waiting.cancel()
    try:
        if not running.done():
            yield stop
    finally:
        stop.set()
        async with asyncio.timeout(30):
            await running


async def start_error(*groups: list[Program]) -> str:
    """Return what the operator reads when the programs cannot start."""
    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.timeout(30):
            await Supervisor(groups).run(asyncio.Event(), lambda: None)
    (error,) = raised.value.exceptions
    assert isinstance(error, CannotStart)
    return str(error)


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


async def test_groups_start_in_order_and_stop_in_reverse(
    program: Callable[..., Program], journal: Journal
) -> None:
    async with supervised([program("a")], [program("b")], [program("c")]):
        assert journal.lines == ["a starts", "b starts", "c starts"]

    assert journal.lines[3:] == ["c stops", "b stops", "a stops"]


async def test_programs_of_one_group_start_and_stop_together(
    program: Callable[..., Program], journal: Journal
) -> None:
    async with supervised([program("a"), program("b")], [program("c")]):
        assert sorted(journal.lines[:2]) == ["a starts", "b starts"]

    assert journal.lines[3] == "c stops"
    assert sorted(journal.lines[4:]) == ["a stops", "b stops"]


async def test_a_program_that_dies_is_started_anew(program: Callable[..., Program], journal: Journal) -> None:
    deaths: list[str] = []
    async with supervised([program("a", on_death=lambda: deaths.append("a"))], [program("b")]):
        (pid,) = journal.pids("a starts")

        os.kill(pid, 9)
        await journal.wait_for(2, "a starts")

        assert journal.lines.count("b starts") == 1
        assert deaths == ["a"]
        assert len(set(journal.pids("a starts"))) == 2

    assert journal.lines[-2:] == ["b stops", "a stops"]
    assert deaths == ["a"]


async def test_the_pause_before_a_restart_doubles_up_to_a_bound(
    program: Callable[..., Program], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    real_sleep = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds in (0.001, 0.002, 0.004):
            pauses.append(seconds)
        await real_sleep(seconds)

    monkeypatch.setattr(workers, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(workers, "LAST_RETRY_SECONDS", 0.004)
    monkeypatch.setattr(asyncio, "sleep", sleep)

    async with supervised([program("a", DIE_AFTER)]):
        await journal.wait_for(5, "a dies")

    assert pauses[:4] == [0.001, 0.002, 0.004, 0.004]


async def test_a_program_that_ran_steadily_is_restarted_at_once(
    program: Callable[..., Program], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FIRST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(workers, "LAST_RETRY_SECONDS", 1000)
    monkeypatch.setattr(workers, "STEADY_SECONDS", 0)

    # Without forgiveness the pauses would double to 20 seconds.
    async with supervised([program("a", DIE_AFTER)]):
        await journal.wait_for(12, "a dies")


async def test_a_program_that_dies_before_it_is_ready_stops_the_start(
    program: Callable[..., Program], journal: Journal
) -> None:
    error = await start_error([program("a")], [program("b", DIE_AT_ONCE)], [program("c")])

    assert error == "the b process stopped with exit code 3"
    assert journal.lines == ["a starts", "b starts", "a stops"]


async def test_a_program_that_never_gets_ready_stops_the_start(
    program: Callable[..., Program], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "READY_SECONDS", 0.5)

    error = await start_error([program("a", SILENT)])

    assert error == "the a process was not ready after 0.5 seconds"
    assert not any(map(is_alive, journal.pids("a starts")))


async def test_a_program_that_does_not_exist_stops_the_start() -> None:
    error = await start_error([Program("a", ["/nonexistent/program"])])

    assert error == "cannot start the a process: No such file or directory"


async def test_when_several_cannot_start_one_is_named_and_none_is_left(
    program: Callable[..., Program], journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    error = await start_error([program("a", DIE_AT_ONCE), program("b", DIE_AT_ONCE), program("c")])

    assert error in {f"the {name} process stopped with exit code 3" for name in "ab"}
    assert not any(map(is_alive, journal.pids("c starts")))
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_group_that_does_not_wait_starts_along_with_the_one_before(
    program: Callable[..., Program], journal: Journal
) -> None:
    stop = asyncio.Event()
    groups = [[program("a", SILENT)], [program("b", waits=False)], [program("c")]]
    running = asyncio.create_task(Supervisor(groups).run(stop, stop.set))

    await journal.wait_for(1, "a starts")
    await journal.wait_for(1, "b starts")
    stop.set()
    async with asyncio.timeout(20):
        await running

    assert journal.lines[-1] == "a stops"
    assert not journal.pids("c starts")


async def test_a_stop_while_programs_start_stops_them(
    program: Callable[..., Program], journal: Journal
) -> None:
    stop = asyncio.Event()
    announced: list[str] = []
    running = asyncio.create_task(
        Supervisor([[program("a")], [program("b", SILENT)], [program("c")]]).run(
            stop, lambda: announced.append("ready")
        )
    )
    await journal.wait_for(1, "b starts")

    stop.set()
    async with asyncio.timeout(20):
        await running

    assert announced == []
    assert journal.lines == ["a starts", "b starts", "b stops", "a stops"]


async def test_a_program_that_does_not_stop_is_killed(
    program: Callable[..., Program], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "KILL_SECONDS", 0.1)

    async with supervised([program("a")], [program("b", STUBBORN, stop_seconds=0.2)]):
        (stubborn,) = journal.pids("b starts")

    assert journal.lines[2:] == ["b stays", "a stops"]
    assert not is_alive(stubborn)


async def test_a_stop_while_a_dead_program_waits_for_its_restart_is_quick(
    program: Callable[..., Program], journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "FIRST_RETRY_SECONDS", 1000)
    deaths = asyncio.Event()

    async with supervised([program("a", on_death=deaths.set)]):
        os.kill(journal.pids("a starts")[0], 9)
        await deaths.wait()

    assert journal.lines == ["a starts"]


async def test_settings_come_by_the_environment(program: Callable[..., Program], journal: Journal) -> None:
    read = "note(os.environ['TORV_TEST']); note(os.environ['PATH'])\n" + SERVE

    async with supervised([program("a", read, env={"TORV_TEST": "variable"})]):
        assert journal.lines == ["a starts", "a variable", f"a {os.environ['PATH']}"]


async def test_descriptors_are_handed_over(program: Callable[..., Program], journal: Journal) -> None:
    reading, writing = os.pipe()
    try:
        async with supervised([program("a", f"os.write({writing}, b'hello')\n" + SERVE, fds=(writing,))]):
            assert os.read(reading, 10) == b"hello"
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_program_may_have_nothing_to_say(journal: Journal) -> None:
    quiet = Program("quiet", [sys.executable, "-c", "import time; time.sleep(60)"], says_ready=False)

    async with supervised([quiet]):
        pass


async def test_no_descriptor_is_lost_over_restarts(program: Callable[..., Program], journal: Journal) -> None:
    async with supervised([program("a")]):
        await _die(journal, 1)
        before = len(os.listdir("/proc/self/fd"))
        await _die(journal, 2)
        await _die(journal, 3)

        assert len(os.listdir("/proc/self/fd")) == before


async def _die(journal: Journal, times: int) -> None:
    os.kill(journal.pids("a starts")[-1], 9)
    await journal.wait_for(times + 1, "a starts")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Somebody else's listening socket on a free port of 127.0.0.1."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def test_a_program_whose_supervisor_has_died_says_ready_to_nobody() -> None:
    reading, writing = os.pipe()
    os.close(reading)

    with capture_logs() as logs:
        say_ready(writing)

    assert logs == [{"event": "the supervisor does not wait for this process", "log_level": "warning"}]


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_refused_even_by_a_socket_that_would_share_it(
    listener: socket.socket, host: str
) -> None:
    port = listener.getsockname()[1]

    with pytest.raises(CannotStart, match=f"^port {port} on {host} is in use; choose another with --port$"):
        bind(host, port, 2)


def test_several_sockets_share_one_port_and_all_are_connected_to() -> None:
    sockets = bind("127.0.0.1", 0, 2)
    assert len({one.getsockname() for one in sockets}) == 1
    for one in sockets:
        one.listen(200)
    clients = [socket.create_connection(sockets[0].getsockname(), timeout=5) for _ in range(100)]

    accepted = [_accept_all(one) for one in sockets]

    assert sum(accepted) == 100
    assert min(accepted) > 0
    for one in (*clients, *sockets):
        one.close()


def test_a_port_is_free_again_after_its_sockets_were_closed() -> None:
    (first,) = bind("127.0.0.1", 0, 1)
    port = first.getsockname()[1]
    first.close()

    (second,) = bind("127.0.0.1", port, 1)

    assert second.getsockname() == ("127.0.0.1", port)
    second.close()


def test_ipv6_is_bound_too() -> None:
    (one,) = bind("::1", 0, 1)

    assert one.getsockname()[0] == "::1"
    one.close()


def test_an_address_that_is_not_ours_is_refused() -> None:
    with pytest.raises(
        CannotStart, match=r"^cannot listen on 192\.0\.2\.1 port 7777: Cannot assign requested address$"
    ):
        bind("192.0.2.1", 7777, 1)


def test_a_name_that_is_no_host_is_refused() -> None:
    with pytest.raises(CannotStart, match=r"^cannot listen on 999\.999\.999\.999: "):
        bind("999.999.999.999", 7777, 1)


def _accept_all(listening: socket.socket) -> int:
    accepted = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            accepted += 1
    return accepted


async def test_a_program_that_is_held_stops_alone_and_starts_when_it_is_released(
    program: Callable[..., Program], journal: Journal
) -> None:
    deaths: list[str] = []
    supervisor = Supervisor([[program("a", on_death=lambda: deaths.append("a"))], [program("b")]])
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop, ready.set))
    await ready.wait()

    await supervisor.hold("a")
    assert journal.lines == ["a starts", "b starts", "a stops"]
    assert supervisor.is_held("a")
    supervisor.release("a")
    await journal.wait_for(2, "a starts")

    assert deaths == ["a"]
    assert not supervisor.is_held("a")
    stop.set()
    await running
    assert journal.lines[3:] == ["a starts", "b stops", "a stops"]


async def test_a_program_that_begins_held_is_not_waited_for(
    program: Callable[..., Program], journal: Journal
) -> None:
    supervisor = Supervisor([[program("a")], [program("b")]])
    supervisor.begin_held("b")
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop, ready.set))
    await ready.wait()
    assert journal.lines == ["a starts"]

    supervisor.release("b")
    await journal.wait_for(1, "b starts")

    stop.set()
    await running


async def test_a_program_that_was_told_to_go_is_waited_for_and_then_stopped(
    program: Callable[..., Program], journal: Journal
) -> None:
    supervisor = Supervisor([[program("a"), program("b")]])
    stop, ready = asyncio.Event(), asyncio.Event()
    running = asyncio.create_task(supervisor.run(stop, ready.set))
    await ready.wait()
    for name in ("a", "b"):
        supervisor.begin_held(name)
    os.kill(journal.pids("a starts")[0], 15)

    await supervisor.let_go("a", 20)
    await supervisor.let_go("b", 0.01)

    assert journal.lines[2:] == ["a stops", "b stops"]
    stop.set()
    await running
