"""What got OK true survives the death of a worker, of the writer and of everything; and a goodbye is said."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from tests.serving import Served, TorvServe
from tests.wire.client import Wire, dial, new_key, note

PUBLISHERS = 8
WINDOW = 64
DEADLINE_SECONDS = 60


class Load:
    """Connections that publish without pause, and the ids that got OK true."""

    def __init__(self, url: str, key: SecretKey) -> None:
        self._url = url
        self._key = key
        self._acknowledged = asyncio.Condition()
        self.acknowledged: set[str] = set()

    async def publish(self, number: int) -> None:
        """Publish until the connection is lost, then on a new one."""
        serial = 0
        while True:
            try:
                async with dial(self._url) as wire:
                    while True:
                        for _ in range(WINDOW):
                            serial += 1
                            await wire.send_event(note(self._key, f"{number} {serial}"))
                        for _ in range(WINDOW):
                            verb, id_, accepted, reason = await wire.receive()
                            # A writer that is away for long may refuse; it must not lose.
                            assert verb == "OK"
                            assert accepted or reason.startswith("error: ")
                            if accepted:
                                await self._note(id_)
            except (ConnectionClosed, OSError):
                await asyncio.sleep(0.01)  # as a client would, before it tries again

    async def _note(self, id_: str) -> None:
        async with self._acknowledged:
            self.acknowledged.add(id_)
            self._acknowledged.notify_all()

    async def reaches(self, count: int) -> None:
        """Wait until so many events were acknowledged."""
        async with asyncio.timeout(DEADLINE_SECONDS), self._acknowledged:
            await self._acknowledged.wait_for(lambda: len(self.acknowledged) >= count)


@asynccontextmanager
async def load(url: str, key: SecretKey) -> AsyncIterator[Load]:
    """Publish on several connections until the end of the block."""
    load = Load(url, key)
    async with asyncio.TaskGroup() as tasks:
        publishing = [tasks.create_task(load.publish(number)) for number in range(PUBLISHERS)]
        yield load
        for task in publishing:
            task.cancel()


async def missing(url: str, acknowledged: set[str]) -> set[str]:
    """Return those ids that the relay does not have."""
    lost = set(acknowledged)
    wanted = sorted(acknowledged)
    async with dial(url) as wire:
        for start in range(0, len(wanted), 500):
            chunk = wanted[start : start + 500]
            lost -= {event["id"] for event in await wire.query({"ids": chunk, "limit": 500})}
    return lost


@pytest.mark.parametrize("victim", ["worker", "writer"])
async def test_killing_a_process_under_load_loses_nothing_that_got_ok(
    torv_serve: TorvServe, victim: str
) -> None:
    served = torv_serve(workers=2)

    async with load(served.url, new_key()) as under_load:
        for _ in range(3):
            await under_load.reaches(len(under_load.acknowledged) + 500)
            pid = served.writer() if victim == "writer" else served.workers()[0]
            os.kill(pid, signal.SIGKILL)
        await under_load.reaches(len(under_load.acknowledged) + 500)

    assert await missing(served.url, under_load.acknowledged) == set()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(served.workers()) < 2:  # noqa: ASYNC110  # the other side is another process
            await asyncio.sleep(0.05)


async def test_killing_everything_under_load_loses_nothing_that_got_ok(torv_serve: TorvServe) -> None:
    served = torv_serve(workers=2)

    async with load(served.url, new_key()) as under_load:
        for _ in range(2):
            await under_load.reaches(len(under_load.acknowledged) + 500)
            served.kill()
            served.restart()
        await under_load.reaches(len(under_load.acknowledged) + 500)

    assert await missing(served.url, under_load.acknowledged) == set()


async def test_subscribers_of_a_surviving_worker_miss_nothing_when_the_writer_dies(
    torv_serve: TorvServe,
) -> None:
    served = torv_serve(workers=1)
    key = new_key()

    async with dial(served.url) as reader, dial(served.url) as wire:
        await reader.subscribe({"authors": [key.public]})
        await wire.publish(note(key, "before"))
        os.kill(served.writer(), signal.SIGKILL)
        accepted, reason = await wire.publish(note(key, "after"))

        assert (accepted, reason) == (True, "")
        assert [(await reader.live())["content"] for _ in range(2)] == ["before", "after"]


async def test_a_goodbye_says_restart_and_answers_what_was_taken(torv_serve: TorvServe) -> None:
    served = torv_serve(workers=2)
    key = new_key()
    acknowledged = set()

    async with AsyncExitStack() as stack:
        wires: list[Wire] = [await stack.enter_async_context(dial(served.url)) for _ in range(4)]
        idle = await stack.enter_async_context(dial(served.url))
        await idle.subscribe({"kinds": [7]})
        for number, wire in enumerate(wires):
            for n in range(100):
                await wire.send_event(note(key, f"{number} {n}"))
        first = await wires[0].receive()
        served.process.terminate()
        acknowledged.add(first[1])
        codes = []
        for wire in (*wires, idle):
            with pytest.raises(ConnectionClosed):
                while True:
                    verb, id_, accepted, _ = await wire.receive()
                    assert (verb, accepted) == ("OK", True)
                    acknowledged.add(id_)
            codes.append(wire.connection.close_code)

    assert codes == [CloseCode.SERVICE_RESTART] * 5
    assert await asyncio.to_thread(served.process.wait, DEADLINE_SECONDS) == 0
    served.restart()
    assert await missing(served.url, acknowledged) == set()


def test_a_graceful_stop_leaves_no_write_ahead_log(torv_serve: TorvServe) -> None:
    served = torv_serve()

    assert served.stop() == 0

    assert not [
        path.name for path in served.data.iterdir() if path.name.endswith("-wal") and path.stat().st_size
    ]


def test_the_relays_key_is_for_its_owner_only(relay: Served) -> None:
    assert (relay.data / "relay.key").stat().st_mode & 0o777 == 0o600


async def test_the_write_ahead_log_reaches_the_disk_before_the_ok_is_sent(torv_serve: TorvServe) -> None:
    traces: list[Path] = []

    def strace(folder: Path) -> list[str]:
        traces.append(folder / "trace")
        calls = "trace=read,recvfrom,recvmsg,write,writev,sendto,sendmsg,fdatasync,fsync"
        # -D: the relay stays our own child; -y: descriptors with their paths.
        return ["strace", "-D", "-f", "-y", "-s", "2000", "-e", calls, "-o", str(traces[0])]

    served = torv_serve(workers=1, wrap=strace)
    events: list[Event] = [note(new_key(), f"durable {n}") for n in range(3)]
    async with dial(served.url) as wire:
        for event in events:
            assert await wire.publish(event) == (True, "")
    served.stop()

    trace = traces[0].read_text(errors="replace").splitlines()
    answered = first(trace, r"(write|writev|sendto|sendmsg)\(.*\[\\\"AUTH")
    for event in events:
        # Each was sent after the answer to the one before.
        synced = first(trace, r"(fdatasync|fsync)\(\d+<[^>]*-wal>", after=answered)
        if " = 0" not in trace[synced]:
            synced = first(trace, r"<\.\.\. (fdatasync|fsync) resumed>\) += 0", after=synced)
        answered = first(trace, rf"(write|writev|sendto|sendmsg)\(.*OK\\\",\\\"{event.id}")
        assert synced < answered


def first(trace: list[str], pattern: str, *, after: int = -1) -> int:
    """Return the number of the first line beyond `after` that matches."""
    for number, line in enumerate(trace):
        if number > after and re.search(pattern, line):
            return number
    raise AssertionError(f"no call matches {pattern}")
