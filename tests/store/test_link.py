"""The link between workers and the writer process: real processes, killed and stopped in the middle."""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest

from relay.nostr.event import EventId, encode
from relay.store.api import Bell, Outcome, RemoveEvent, Seq, StoreError, Write
from relay.store.link import LinkedStore
from relay.store.link.frames import PROTOCOL, FrameReader, FrameTooLong, Say
from relay.store.link.frames import encode as encode_frame
from relay.store.sqlite import Hashes, prepare
from tests.events import ALICE, BOB, NOW, event, note, notes, pubkey, write
from tests.store.reading import EVERYTHING, Ear, count, found, keep, log, logged, named
from tests.store.writers import Writers

LONG_AGO = 1
"""A second that has passed on every wall clock."""


class Place:
    """A database, and the writer processes that serve it one after the other."""

    def __init__(self, folder: Path, writers: Writers) -> None:
        self.database = folder / "torv.sqlite3"
        self.socket = folder / "writer.sock"
        self._writers = writers
        self.pid: int | None = None

    def start(self) -> None:
        self.pid = self._writers.start(self.database, self.socket)

    def stop(self) -> None:
        assert self.pid is not None
        self._writers.stop(self.pid)
        self.pid = None

    def kill(self) -> None:
        assert self.pid is not None
        self._writers.stop(self.pid, signal.SIGKILL)
        self.pid = None

    @asynccontextmanager
    async def worker(
        self, answer_seconds: float = 20, socket_path: Path | None = None
    ) -> AsyncIterator[LinkedStore]:
        store = await LinkedStore.connect(
            self.database, socket_path or self.socket, answer_seconds=answer_seconds
        )
        try:
            yield store
        finally:
            await store.close()


@pytest.fixture
def place(tmp_path: Path, writers: Writers) -> Iterator[Place]:
    """A database that a writer process serves."""
    served = Place(tmp_path, writers)
    served.start()
    yield served
    if served.pid is not None:
        served.stop()


class RawWorker:
    """A worker that speaks the frames by hand, and reads only when it is told to."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(path))
        self._frames = FrameReader()
        self._messages: list[tuple[object, ...]] = []

    def send(self, say: Say, *body: object) -> None:
        self.send_bytes(encode_frame(say, *body))

    def send_bytes(self, frames: bytes) -> None:
        self._socket.sendall(frames)

    def hear(self) -> tuple[object, ...]:
        """Return the next message."""
        while not self._messages:
            data = self._socket.recv(2**20)
            if not data:
                raise ConnectionError("hung up")
            self._messages += [message for _, message in self._frames.feed(data)]
        return self._messages.pop(0)

    def __enter__(self) -> "RawWorker":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


class Front:
    """Stands between a worker and the writer, keeps messages back, and cuts the connection."""

    def __init__(self, path: Path, real: Path, pass_questions: bool, pass_answers: bool) -> None:
        self.path = path
        self._real = real
        self._pass_questions = pass_questions
        self._pass_answers = pass_answers
        self._questions: asyncio.Queue[tuple[object, ...]] = asyncio.Queue(1_000)
        self._answers: asyncio.Queue[tuple[object, ...]] = asyncio.Queue(1_000)
        self._streams: list[asyncio.StreamWriter] = []
        self._pumps: set[asyncio.Task[None]] = set()

    @classmethod
    @asynccontextmanager
    async def before(
        cls, place: Place, *, pass_questions: bool = True, pass_answers: bool = True
    ) -> AsyncIterator["Front"]:
        front = cls(place.socket.with_name("front.sock"), place.socket, pass_questions, pass_answers)
        server = await asyncio.start_unix_server(front._connected, front.path)
        try:
            yield front
        finally:
            server.close()
            front.cut()
            await asyncio.gather(*front._pumps)

    async def question(self) -> tuple[object, ...]:
        """Return the next message of the worker."""
        async with asyncio.timeout(20):
            return await self._questions.get()

    async def answer(self) -> tuple[object, ...]:
        """Return the next message of the writer after its greeting."""
        async with asyncio.timeout(20):
            return await self._answers.get()

    def cut(self) -> None:
        """Cut all connections; whoever comes back is let through."""
        self._pass_questions = self._pass_answers = True
        for stream in self._streams:
            stream.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        real_reader, real_writer = await asyncio.open_unix_connection(self._real)
        self._streams += [writer, real_writer]
        for pump in (
            self._pump(reader, real_writer, self._questions, self._pass_questions),
            self._pump(real_reader, writer, self._answers, self._pass_answers),
        ):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        seen: asyncio.Queue[tuple[object, ...]],
        passes: bool,
    ) -> None:
        frames = FrameReader()
        try:
            while data := await reader.read(2**16):
                for _, message in frames.feed(data):
                    if passes or message[0] == Say.HELLO:
                        writer.write(encode_frame(Say(cast(int, message[0])), *message[1:]))
                    if message[0] != Say.HELLO:
                        seen.put_nowait(message)
        except ConnectionError:
            pass  # cut
        finally:
            writer.close()


# Frames


def test_messages_survive_being_cut_anywhere() -> None:
    stream = (
        encode_frame(Say.BELL, 1, 2, [(2, NOW, b"{}")])
        + encode_frame(Say.EPHEMERAL, [b"x" * 300])
        + encode_frame(Say.DONE, 1, [1, 2])
    )
    reader = FrameReader()

    heard = [message for at in range(len(stream)) for _, message in reader.feed(stream[at : at + 1])]

    assert heard == [(6, 1, 2, [(2, NOW, b"{}")]), (7, [b"x" * 300]), (4, 1, [1, 2])]


def test_a_frame_that_cannot_be_right_is_refused() -> None:
    with pytest.raises(FrameTooLong, match="a frame of 4294967295 bytes was announced"):
        list(FrameReader().feed(b"\xff\xff\xff\xff"))


# Workers together


async def test_workers_see_what_the_others_write(place: Place) -> None:
    async with place.worker() as one, place.worker() as other:
        await keep(one, write(note(ALICE, "from one")))
        await keep(other, write(note(BOB, "from the other", created_at=NOW - 1)))

        assert await found(one) == ["from one", "from the other"]
        assert await found(other) == ["from one", "from the other"]
        assert await keep(other, write(note(ALICE, "from one"))) == ["DUPLICATE"]


async def test_every_worker_hears_contiguous_bells_with_all_live_rows(place: Place) -> None:
    async with place.worker() as one, place.worker() as other:
        ears = [Ear(one), Ear(other)]

        async with asyncio.TaskGroup() as tasks:
            for n, store in enumerate((one, other)):
                for part in range(30):
                    tasks.create_task(store.write([write(note(ALICE, f"{n}-{part}"))]))

        for ear in ears:
            bells = await ear.head(await one.head())
            assert_contiguous(bells)
            assert [row for bell in bells for row in bell.rows or ()] == await log(one)


async def test_who_follows_nothing_hears_no_bells_and_later_one_for_all_of_them(place: Place) -> None:
    async with place.worker() as one, place.worker() as other:
        ear = Ear(one)
        one.follow(False)
        await one.sweep(0)  # answered after what was said before
        await keep(other, write(note(ALICE, "first")))
        await keep(other, write(note(ALICE, "second")))
        assert ear.bells == []

        one.follow(True)
        bells = await ear.head(Seq(2))
        await keep(other, write(note(ALICE, "third")))
        bells = await ear.head(Seq(3))

    assert [(bell.after, bell.upto, bell.rows is None) for bell in bells] == [(0, 2, True), (2, 3, False)]


async def test_a_new_writer_is_told_that_nothing_is_followed(place: Place) -> None:
    async with Front.before(place) as front, place.worker(socket_path=front.path) as store:
        store.follow(False)
        assert await front.question() == (Say.FOLLOW, False)

        front.cut()

        assert await front.question() == (Say.FOLLOW, False)


async def test_batches_of_all_workers_share_commits(place: Place) -> None:
    async with place.worker() as one, place.worker() as other:
        ear = Ear(one)
        batches = [[write(one_note)] for one_note in notes(ALICE, 120)]

        await asyncio.gather(
            *(store.write(batch) for batch, store in zip(batches, [one, other] * 60, strict=True))
        )

        bells = await ear.head(120)
        assert bells[-1].upto == 120
        assert len(bells) < 60


async def test_ephemeral_events_reach_the_other_workers_and_the_sender_once(place: Place) -> None:
    typing = [encode(event(ALICE, 20_001, f"{n}")) for n in range(3)]
    async with place.worker() as one, place.worker() as other:
        sender, receiver = Ear(one), Ear(other)

        await one.announce(typing[:2])
        assert await receiver.events(2) == typing[:2]
        await other.announce(typing[2:])

        assert await sender.events(3) == typing
        assert await receiver.events(3) == typing


async def test_expired_events_are_swept_without_being_asked(place: Place) -> None:
    fleeting = note(ALICE, "fleeting")
    async with place.worker() as store:
        await keep(store, write(fleeting, expires_at=LONG_AGO))

        async with asyncio.timeout(20):
            while True:
                if not await store.known([fleeting.id]):
                    break
                await asyncio.sleep(0.02)


async def test_the_socket_is_for_its_owner_only(place: Place) -> None:
    assert place.socket.stat().st_mode & 0o777 == 0o600


async def test_a_deep_folder_is_no_obstacle(tmp_path: Path, writers: Writers) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    place = Place(deep, writers)
    place.start()
    try:
        async with place.worker() as store:
            assert await keep(store, write(note(ALICE, "deep"))) == ["STORED"]
    finally:
        place.stop()


# A writer that dies


async def test_killing_the_writer_under_load_loses_nothing_acknowledged(place: Place) -> None:
    writes_each, batch_size, lanes = 1_200, 10, 4
    acknowledged: list[EventId] = []
    rung = asyncio.Event()

    async with place.worker() as one, place.worker() as other:
        ears = [Ear(one), Ear(other)]

        async def publish(store: LinkedStore, lane: list[Write]) -> None:
            for start in range(0, len(lane), batch_size):
                batch = lane[start : start + batch_size]
                for kept, outcome in zip(batch, await store.write(batch), strict=True):
                    assert named(outcome) in ("STORED", "DUPLICATE")
                    acknowledged.append(kept.event.id)
                rung.set()

        async def kill_and_restart(after: int) -> None:
            while len(acknowledged) < after:
                rung.clear()
                await rung.wait()
            place.kill()
            place.start()

        async with asyncio.TaskGroup() as tasks:
            for key, store in ((ALICE, one), (BOB, other)):
                events = [write(kept) for kept in notes(key, writes_each, step=1)]
                for lane in range(lanes):
                    tasks.create_task(publish(store, events[lane::lanes]))
            for after in (500, 1_200, 1_900):
                await kill_and_restart(after)

        assert len(acknowledged) == 2 * writes_each
        for store in (one, other):
            assert await store.known(acknowledged) == set(acknowledged)
            assert await count(store, EVERYTHING) == 2 * writes_each
        rows = await log(one)
        assert len(rows) == 2 * writes_each
        for ear in ears:
            bells = await ear.head(await one.head())
            assert_contiguous(bells)
            # What no bell brought, a bell without rows told of.
            assert [row for row in rows if not brought(row.seq, bells)] == []
    place.stop()
    with sqlite3.connect(place.database) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    database.close()


def brought(seq: int, bells: list[Bell]) -> bool:
    """Say whether a bell brought the row of this seq, or covers it without rows."""
    (bell,) = (bell for bell in bells if bell.after < seq <= bell.upto)
    return bell.rows is None or any(row.seq == seq for row in bell.rows)


def assert_contiguous(bells: list[Bell]) -> None:
    assert bells[0].after == 0
    assert all(earlier.upto == later.after for earlier, later in pairwise(bells))


async def test_batches_the_writer_never_saw_are_sent_again_in_their_order(place: Place) -> None:
    versions = [event(ALICE, 0, f"{n}", created_at=NOW + n) for n in (2, 1, 3)]
    async with (
        Front.before(place, pass_questions=False) as front,
        place.worker(socket_path=front.path) as store,
    ):
        pending = [asyncio.create_task(store.write([write(version)])) for version in versions]
        assert [(await front.question())[:2] for _ in versions] == [(Say.WRITE, n) for n in (1, 2, 3)]

        front.cut()

        assert [named((await task)[0]) for task in pending] == ["STORED", "SUPERSEDED", "STORED"]
        assert await found(store) == ["3"]


async def test_batches_committed_before_the_writer_died_come_back_as_duplicates(place: Place) -> None:
    unwanted, late = note(ALICE, "unwanted"), note(ALICE, "late")
    removals = (RemoveEvent(unwanted.id, pubkey(ALICE)), RemoveEvent(late.id, pubkey(ALICE)))
    async with (
        Front.before(place, pass_answers=False) as front,
        place.worker(socket_path=front.path) as store,
    ):
        ear = Ear(store)
        batch = [write(unwanted), write(note(ALICE, "bearer"), removals=removals), write(note(BOB, "other"))]
        pending = asyncio.create_task(store.write(batch))
        assert (await front.answer())[:2] == (Say.DONE, 1)
        assert not pending.done()

        front.cut()

        assert [named(outcome) for outcome in await pending] == ["DELETED", "DUPLICATE", "DUPLICATE"]
        assert await keep(store, write(late)) == ["DELETED"]
        # The commit's own bell was lost with the connection.
        (bell,) = await ear.head(await store.head())
        assert bell == Bell(Seq(0), await store.head(), None)
        assert sorted(await found(store)) == ["bearer", "other"]


async def test_a_write_that_the_writer_refuses_fails_whole(place: Place) -> None:
    impossible = note(ALICE, "impossible", created_at=2**62)
    async with place.worker() as store:
        with pytest.raises(StoreError):
            await store.write([write(note(ALICE, "with it")), write(impossible)])

        assert await found(store) == []
        assert await keep(store, write(note(ALICE, "after it"))) == ["STORED"]


async def lost(store: LinkedStore) -> None:
    """Wait until the store has noticed that its writer is gone."""
    async with asyncio.timeout(20):
        while True:
            if not store.is_connected:
                return
            await asyncio.sleep(0)


async def test_a_write_begun_without_a_writer_waits_for_the_next(place: Place) -> None:
    async with place.worker() as store:
        ear = Ear(store)
        place.kill()
        await lost(store)
        pending = asyncio.create_task(store.write([write(note(ALICE, "patient"))]))
        place.start()

        assert [named(outcome) for outcome in await pending] == ["STORED"]
        assert [row.event().content for row in (await ear.head(1))[0].rows or ()] == ["patient"]


async def test_a_write_fails_when_the_writer_stays_away(place: Place) -> None:
    async with place.worker(answer_seconds=0.2) as store:
        place.kill()

        with pytest.raises(StoreError, match=r"the writer gave no answer within 0\.2 s"):
            await store.write([write(note(ALICE, "lost"))])

        assert await found(store) == []


async def test_reading_goes_on_without_a_writer(place: Place) -> None:
    async with place.worker(answer_seconds=0.2) as store:
        await keep(store, write(note(ALICE, "hello")))
        place.kill()

        assert await found(store) == ["hello"]
        assert await store.head() == 1


async def test_announcing_without_a_writer_reaches_the_own_process_and_counts_the_rest(place: Place) -> None:
    typing = encode(event(ALICE, 20_001, "typing"))
    async with Front.before(place) as front, place.worker(socket_path=front.path) as store:
        ear = Ear(store)
        front.path.unlink()
        front.cut()
        await lost(store)

        await store.announce([typing, typing])

        assert await ear.events(2) == [typing, typing]
        assert store.dropped_ephemeral == 2


async def test_connecting_to_no_writer_fails(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no writer answers at .*writer\.sock: .*No such file"):
        await LinkedStore.connect(tmp_path / "torv.sqlite3", tmp_path / "writer.sock", answer_seconds=0.1)


async def test_nothing_is_written_after_closing(place: Place) -> None:
    async with place.worker() as store:
        await store.close()

        with pytest.raises(StoreError, match="the store is closed"):
            await store.write([write(note(ALICE, "late"))])


# Workers that misbehave


async def test_a_worker_that_does_not_read_holds_up_nobody(place: Place) -> None:
    long = [write(note(ALICE, f"{n} {'x' * 100_000}")) for n in range(300)]
    with RawWorker(place.socket) as lazy:
        assert lazy.hear() == (Say.HELLO, PROTOCOL, 0)

        async with place.worker() as store:
            for n in range(0, 300, 10):
                await store.write(long[n : n + 10])
            await store.announce([b"x" * 100_000] * 100)
            head = await store.head()

        # 30 MB were due to it. It gets what fitted, then one bell for all the others, nothing else.
        bells: list[tuple[int, int, bool]] = []
        while not bells or bells[-1][1] < head:
            say, after, upto, rows = lazy.hear()
            assert say == Say.BELL
            assert isinstance(after, int) and isinstance(upto, int)
            bells.append((after, upto, rows is None))
    assert bells[0][0] == 0
    assert all(earlier[1] == later[0] for earlier, later in pairwise(bells))
    assert [without for _, _, without in bells] == [False] * (len(bells) - 1) + [True]
    assert 5 < len(bells) < 20


async def test_a_batch_the_writer_cannot_take_fails_alone(place: Place) -> None:
    async with place.worker() as store:
        right = prepare(write(note(ALICE, "right")), Hashes(store.key))
        with RawWorker(place.socket) as raw:
            # In one piece, so that they share a commit.
            raw.send_bytes(
                encode_frame(Say.WRITE, 7, [right]) + encode_frame(Say.WRITE, 8, [right, ("not", "prepared")])
            )

            assert raw.hear() == (Say.HELLO, PROTOCOL, 0)
            assert raw.hear() == (Say.DONE, 7, [Outcome.STORED.value])
            assert (await asyncio.to_thread(raw.hear))[0] == Say.BELL
            assert (await asyncio.to_thread(raw.hear))[:2] == (Say.FAILED, 8)
        assert await found(store) == ["right"]


async def test_more_than_may_be_under_way_is_written_in_order(place: Place) -> None:
    # 60 MB: twice what a worker may have unanswered, four times what the writer takes in advance.
    batches = [[write(note(ALICE, f"{n:02} {m} {'x' * 100_000}")) for m in range(10)] for n in range(60)]
    async with place.worker() as store:
        outcomes = await asyncio.gather(*(store.write(batch) for batch in batches))

        assert [named(outcome) for batch in outcomes for outcome in batch] == ["STORED"] * 600
        assert [content[:4] for content in await logged(store)] == [
            f"{n:02} {m}" for n in range(60) for m in range(10)
        ]


async def test_a_writer_of_another_version_is_refused(tmp_path: Path) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_frame(Say.HELLO, (0, (3, 11), 4), 0))
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(greet, tmp_path / "writer.sock")
    async with server:
        with pytest.raises(StoreError, match=r"it speaks \(0, \(3, 11\), 4\), .* not the same Torv"):
            await LinkedStore.connect(tmp_path / "torv.sqlite3", tmp_path / "writer.sock", answer_seconds=0.3)


async def test_a_worker_that_talks_nonsense_is_hung_up_on(place: Place) -> None:
    with RawWorker(place.socket) as raw:
        raw.send(Say.HELLO, "me")
        assert raw.hear() == (Say.HELLO, PROTOCOL, 0)
        with pytest.raises(ConnectionError):
            raw.hear()

    async with place.worker() as store:
        assert await keep(store, write(note(ALICE, "right"))) == ["STORED"]


# The process


async def start_process(database: Path, socket_path: Path) -> asyncio.subprocess.Process:
    """Start `python -m relay.store.writer_process`; returns once it serves or has ended."""
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "relay.store.writer_process"),
        *("--database", str(database), "--socket", str(socket_path), "--ready-fd", str(writing)),
        pass_fds=[writing],
        stderr=asyncio.subprocess.PIPE,
    )
    os.close(writing)
    await asyncio.to_thread(os.read, reading, 100)
    os.close(reading)
    return process


async def ending(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Return a process's exit code and what it said on standard error."""
    async with asyncio.timeout(20):
        _, said = await process.communicate()
    return process.returncode, said.decode()


async def test_on_sigterm_the_writer_checkpoints_and_exits_0(tmp_path: Path) -> None:
    database, socket_path = tmp_path / "torv.sqlite3", tmp_path / "writer.sock"
    process = await start_process(database, socket_path)
    store = await LinkedStore.connect(database, socket_path)
    await keep(store, *map(write, notes(ALICE, 50)))
    await store.close()

    process.send_signal(signal.SIGTERM)
    code, _ = await ending(process)

    assert code == 0
    assert not socket_path.exists()
    wal = database.with_name("torv.sqlite3-wal")
    assert not wal.exists() or wal.stat().st_size == 0


async def test_a_second_writer_is_refused(place: Place) -> None:
    process = await start_process(place.database, place.socket)

    assert await ending(process) == (
        1,
        f"torv writer: {place.database} is in use: another process writes it\n",
    )
    async with place.worker() as store:
        assert await keep(store, write(note(ALICE, "hello"))) == ["STORED"]


async def test_a_file_that_is_no_database_is_refused_in_one_line(tmp_path: Path) -> None:
    database = tmp_path / "torv.sqlite3"
    database.write_bytes(b"not a database, but long enough to be taken for one" * 100)

    code, said = await ending(await start_process(database, tmp_path / "writer.sock"))

    assert code == 1
    assert said == f"torv writer: cannot open {database}: file is not a database\n"
    assert not (tmp_path / "writer.sock").exists()
