"""Another process takes the relay's place, under load: nobody is refused, and nothing that got OK is lost."""

import asyncio
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from relay.nostr.keys import SecretKey
from tests.serving import ROOT, UNLIMITED, Served, TorvServe
from tests.wire.client import dial, new_key, note
from tests.wire.test_durability import Load, load, missing
from tests.wire.test_http import metrics, request

log = logging.getLogger(__name__)

AT_ONCE = f"{UNLIMITED}\n[relay.timeouts]\nrestart_seconds = 0\n"
CONNECTORS = 3

# Speaks as the file says: a version of Torv with another schema, as far as the other process can tell.
OTHER_VERSION = """
import pathlib, sys
import relay.writing
relay.writing.SPEAKS = pathlib.Path(sys.argv[1]).read_text()
from torv import main
sys.argv[1:] = sys.argv[sys.argv.index("serve"):]
main()
"""


async def restart(served: Served) -> tuple[int, str]:
    """Run `torv relay restart`; return its status and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "torv", "relay", "restart", "--data", str(served.data)),
        cwd=ROOT,
        env=served.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


class Connecting:
    """Clients that connect, ask and leave without pause; whoever cannot connect makes the test fail."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.connected = 0
        self.goodbyes = 0

    async def run(self) -> None:
        while True:
            # Here nothing is caught: a refused connection, or an upgrade that fails.
            async with dial(self._url) as wire:
                self.connected += 1
                try:
                    await wire.query({"limit": 1})
                except ConnectionClosed as closed:
                    assert closed.rcvd is not None
                    assert closed.rcvd.code == CloseCode.SERVICE_RESTART
                    self.goodbyes += 1


@asynccontextmanager
async def connecting(url: str) -> AsyncIterator[Connecting]:
    clients = Connecting(url)
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(clients.run()) for _ in range(CONNECTORS)]
        yield clients
        for task in running:
            task.cancel()


@asynccontextmanager
async def under_way(url: str, key: SecretKey) -> AsyncIterator[tuple[Load, Connecting]]:
    async with connecting(url) as clients, load(url, key) as publishers:
        yield publishers, clients


async def longest_pause(publishers: Load, while_: "asyncio.Task[tuple[int, str]]") -> float:
    """Return the longest time in which no OK came, until the task is done."""
    longest, last, count = 0.0, monotonic(), 0
    while not while_.done():
        if len(publishers.acknowledged) != count:
            count, last = len(publishers.acknowledged), monotonic()
        longest = max(longest, monotonic() - last)
        await asyncio.sleep(0.005)
    return longest


async def test_a_restart_under_load_refuses_nobody_and_loses_no_ok(torv_serve: TorvServe) -> None:
    served = torv_serve(AT_ONCE, workers=2)

    async with under_way(served.url, new_key()) as (publishers, clients):
        for _ in range(2):  # the second one by a successor
            await publishers.reaches(len(publishers.acknowledged) + 100)
            before, workers = clients.connected, set(served.workers())
            restarting = asyncio.create_task(restart(served))
            # Shown by `--log-cli-level info`; a writer that stays away is given up after 30 seconds.
            pause = await longest_pause(publishers, restarting)
            log.info("no OK came for %.2f seconds", pause)
            assert pause < 30
            assert await restarting == (0, "the new program serves\n")
            await publishers.reaches(len(publishers.acknowledged) + 100)
            assert clients.connected > before
            async with asyncio.timeout(60):
                while workers & set(served.workers()):  # noqa: ASYNC110  # the others are processes
                    await asyncio.sleep(0.05)
            assert len(served.workers()) == 2

    assert await missing(served.url, publishers.acknowledged) == set()
    # The process that was started at first stands in for the others: who watches it sees no difference.
    assert await asyncio.to_thread(served.stop) == 0


async def test_those_of_the_old_workers_are_served_until_they_are_told_to_come_back(
    torv_serve: TorvServe,
) -> None:
    served = torv_serve(f"{UNLIMITED}\n[relay.timeouts]\nrestart_seconds = 4\n", workers=1)
    key = new_key()

    async with dial(served.url) as old:
        await old.subscribe({"authors": [key.public]})
        assert (await restart(served))[0] == 0
        async with dial(served.url) as new:
            assert await new.publish(note(key, "from the new worker")) == (True, "")
            # Not stored, but passed on from generation to generation.
            assert await new.publish(note(key, "passing by", kind=20_001)) == (True, "")
        heard = {(await old.live())["content"] for _ in range(2)}
        assert heard == {"from the new worker", "passing by"}
        with pytest.raises(ConnectionClosed):
            await old.receive()

        assert old.connection.close_code == CloseCode.SERVICE_RESTART
        assert old.connection.close_reason == "restarting"


async def test_a_program_of_another_schema_waits_until_the_old_one_is_gone(
    torv_serve: TorvServe, tmp_path: Path
) -> None:
    version = tmp_path / "version"
    version.write_text("1")
    served = torv_serve(
        AT_ONCE, workers=2, wrap=lambda folder: [sys.executable, "-c", OTHER_VERSION, str(version)]
    )

    async with under_way(served.url, new_key()) as (publishers, _):
        await publishers.reaches(100)
        version.write_text("2")
        workers = set(served.workers())
        assert await restart(served) == (0, "the new program serves\n")
        # It did not serve before they were gone.
        assert not workers & set(served.workers())
        await publishers.reaches(len(publishers.acknowledged) + 100)

    assert await missing(served.url, publishers.acknowledged) == set()


async def test_with_a_mistake_in_the_configuration_the_old_one_goes_on_undisturbed(
    torv_serve: TorvServe,
) -> None:
    served = torv_serve("[relay]\nname = 'Before'", workers=2)
    processes = set(served.children())
    async with dial(served.url) as wire:
        await wire.subscribe({"kinds": [1]})
        served.data.with_name("torv.toml").write_text("[relay]\nprot = 1")

        status, said = await restart(served)

        assert status == 1
        assert "torv.toml:2: relay.prot: unknown setting" in said
        assert said.endswith("the relay goes on as before\n")
        async with dial(served.url) as publisher:
            await publisher.publish(note(new_key(), "still here"))
        assert (await wire.live())["content"] == "still here"
    assert set(served.children()) == processes
    assert "not restarted; going on as before" in served.log.read_text()


async def test_a_new_program_whose_writer_cannot_start_gives_the_relay_back(torv_serve: TorvServe) -> None:
    served = torv_serve(AT_ONCE, workers=1)
    # Neither program's writer can listen now.
    obstacle = served.data / "writer.sock.new"
    obstacle.mkdir()
    async with dial(served.url) as wire:
        status, said = await restart(served)

        assert (status, said.splitlines()) == (
            1,
            ["the writer process stopped with exit code 1", "the relay goes on as before"],
        )
        publishing = asyncio.create_task(wire.publish(note(new_key(), "waits for the writer")))
        obstacle.rmdir()
        assert await publishing == (True, "")


async def test_what_takes_a_restart_holds_after_one(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay]\nname = 'Square'", workers=2)
    served.data.with_name("torv.toml").write_text(
        "[relay]\npath = '/nostr'\n[relays.home]\nhosts = ['home.test']"
    )
    # By a signal, as a service manager would.
    served.process.send_signal(signal.SIGUSR2)

    async with asyncio.timeout(60):
        while (await asyncio.to_thread(request, f"{served.http}/nostr"))[0] != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # the other side is another process
    async with dial(f"ws://home.test:{served.port}/nostr", at=("127.0.0.1", served.port)) as wire:
        assert await wire.publish(note(new_key())) == (True, "")


async def test_a_stop_during_a_restart_stops_both(torv_serve: TorvServe) -> None:
    served = torv_serve(AT_ONCE, workers=1)
    served.process.send_signal(signal.SIGUSR2)
    async with asyncio.timeout(60):
        while "restarting" not in served.log.read_text():  # noqa: ASYNC110  # the other side is another process
            await asyncio.sleep(0.01)

    assert await asyncio.to_thread(served.stop) == 0

    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", served.port)


async def test_a_service_manager_is_told_who_the_relay_is(
    torv_serve: TorvServe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        served = torv_serve(AT_ONCE, workers=1)

        def hear() -> str:
            return manager.recv(200).decode()

        assert await asyncio.to_thread(hear) == "READY=1"
        served.process.send_signal(signal.SIGHUP)
        assert (await asyncio.to_thread(hear)).startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert await asyncio.to_thread(hear) == "READY=1"
        assert (await restart(served))[0] == 0
        assert (await asyncio.to_thread(hear)).startswith("RELOADING=1")
        found = re.fullmatch(r"MAINPID=(\d+)", await asyncio.to_thread(hear))
        assert found is not None
        successor = int(found[1])
        try:
            assert await asyncio.to_thread(hear) == "READY=1"
            assert await asyncio.to_thread(served.process.wait, 60) == 0
            assert metrics(served)["torv_connections"] == 0
        finally:
            os.kill(successor, signal.SIGTERM)
        assert await asyncio.to_thread(hear) == "STOPPING=1"
