"""Accepting connections, several workers at one port."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from relay.net import entrance
from relay.net.entrance import Entrance
from relay.net.workers import bind


class Doors:
    """Two workers' entrances on the same sockets, and how many connections each has."""

    def __init__(self) -> None:
        self.sockets = bind("127.0.0.1", 0, 2)
        self.address = self.sockets[0].getsockname()
        self.taken: list[list[socket.socket]] = [[], []]
        self._came = asyncio.Event()
        self.entrances = [self._entrance(worker) for worker in range(2)]

    def _entrance(self, worker: int) -> Entrance:
        def take(accepted: socket.socket) -> None:
            self.taken[worker].append(accepted)
            self._came.set()

        # As processes have them: each its own descriptors of the same sockets.
        sockets = [one.dup() for one in self.sockets[:2]]
        self.sockets += sockets
        return Entrance(sockets, take, lambda: len(self.taken[worker]) > len(self.taken[1 - worker]))

    async def connect(self) -> socket.socket:
        """Connect, and wait until somebody has accepted."""
        self._came.clear()
        client = socket.socket()
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, self.address)
        async with asyncio.timeout(10):
            await self._came.wait()
        return client

    def close(self) -> None:
        for one in (*self.sockets, *self.taken[0], *self.taken[1]):
            one.close()


@pytest.fixture
async def doors() -> AsyncIterator[Doors]:
    made = Doors()
    yield made
    made.close()


async def test_connections_are_spread_evenly(doors: Doors) -> None:
    for one in doors.entrances:
        one.open()

    clients = [await doors.connect() for _ in range(8)]

    assert [len(taken) for taken in doors.taken] == [4, 4]
    for client in clients:
        client.close()
    for one in doors.entrances:
        one.close()


async def test_what_an_absent_worker_would_get_another_one_takes(doors: Doors) -> None:
    doors.entrances[0].open()

    clients = [await doors.connect() for _ in range(8)]

    assert [len(taken) for taken in doors.taken] == [8, 0]
    for client in clients:
        client.close()
    doors.entrances[0].close()


async def test_who_waits_when_a_worker_closes_is_taken_by_another(doors: Doors) -> None:
    for one in doors.entrances:
        one.open()
    doors.entrances[0].close()

    clients = [await doors.connect() for _ in range(8)]

    assert [len(taken) for taken in doors.taken] == [0, 8]
    for client in clients:
        client.close()
    doors.entrances[1].close()


async def test_where_no_descriptor_is_free_it_is_tried_again(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entrance, "FULL_SECONDS", 0.01)
    accept, failures = socket.socket.accept, [OSError(24, "Too many open files")]

    def failing(self: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    doors.entrances[0].open()

    client = await doors.connect()

    assert (len(doors.taken[0]), failures) == (1, [])
    client.close()
    doors.entrances[0].close()
