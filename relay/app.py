"""The composition root: settings → store → features → Relay → Server. The only file that knows every part.

`serve` is the supervisor's side; `_work` is one worker process, forked from it with its socket and the board.
"""

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import uvloop

from relay.assembly import (
    DATABASE,
    KEY,
    LOCK,
    SEARCH_INDEX,
    WRITER_SOCKET,
    CannotRead,
    read_key,
    relay_features,
)
from relay.collector import settle, share
from relay.config import RelayConfig
from relay.engine.desk import Desk
from relay.engine.jobs import run_jobs
from relay.engine.relay import Relay
from relay.logs import start_logging
from relay.net.board import Board
from relay.net.certificates import CannotServeTls, Certificates
from relay.net.server import Server
from relay.net.workers import CannotStart, Program, Supervisor, bind
from relay.search.finding import IndexReader
from relay.search.process import keep_index
from relay.search.searcher import Searcher
from relay.settings import LogConfig
from relay.store.api import StoreError
from relay.store.link import LinkedStore
from relay.writing import write

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What the supervisor tells a worker."""

    data: Path
    relay: RelayConfig
    log: LogConfig
    process: int
    processes: int


def serve(
    data: Path,
    relay: RelayConfig,
    log_config: LogConfig,
    extra: Sequence[Program] = (),
    *,
    announce: Callable[[str], None],
) -> int:
    """Run the relay until SIGTERM or SIGINT; return the exit code.

    `extra` programs start after the relay is ready. `announce` is called with each URL once everything
    answers. Raises CannotStart with a text for the operator.
    """
    with locked(data):
        try:
            read_key(data / KEY)
            if relay.tls is not None:
                Certificates(relay.tls.certificate, relay.tls.key)
        except (CannotRead, CannotServeTls) as error:
            raise CannotStart(str(error)) from error
        workers = relay.workers or os.cpu_count() or 1
        sockets = bind(relay.host, relay.port, workers)
        port = sockets[0].getsockname()[1]
        relay = relay.model_copy(update={"port": port})
        board = Board.create(workers)
        groups = [
            [_writer(data, relay, log_config)],
            [
                _worker(data, relay, log_config, number, listening, board)
                for number, listening in enumerate(sockets)
            ],
            [*([_indexer(data, relay, log_config)] if relay.search.enabled else ()), *extra],
        ]
        host = f"[{relay.host}]" if ":" in relay.host else relay.host

        def on_ready() -> None:
            s = "" if relay.tls is None else "s"
            announce(relay.url or f"ws{s}://{host}:{port}{relay.path}")
            announce(f"http{s}://{host}:{port}{relay.path}")

        share()
        asyncio.run(_supervise(groups, on_ready, sockets))
    return 0


async def _supervise(
    groups: Sequence[Sequence[Program]], on_ready: Callable[[], None], sockets: Sequence[socket.socket]
) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await Supervisor(groups).run(stop, on_ready)
    except* CannotStart as group:
        raise group.exceptions[0] from None
    finally:
        for listening in sockets:
            listening.close()


def _writer(data: Path, relay: RelayConfig, log_config: LogConfig) -> Program:
    return Program("writer", partial(write, data, relay, log_config))


def _indexer(data: Path, relay: RelayConfig, log_config: LogConfig) -> Program:
    searched = frozenset(relay.search.kinds)
    # Nobody waits for it: without an index all but search works.
    return Program(
        "indexer",
        lambda ready: keep_index(data / DATABASE, data / SEARCH_INDEX, searched, log_config),
        says_ready=False,
    )


def _worker(
    data: Path, relay: RelayConfig, log_config: LogConfig, number: int, listening: socket.socket, board: Board
) -> Program:
    settings = WorkerSettings(data, relay, log_config, number, board.processes)
    return Program(
        name=f"worker {number}",
        run=lambda ready: _work(settings, listening, Board(board.fd, number, board.processes), ready),
        fds=(listening.fileno(), board.fd),
        stop_seconds=relay.timeouts.drain_seconds + 5,
        on_death=lambda: board.forget(number),
        # It takes as long to start as the writer does, which it then waits for.
        waits=False,
    )


@contextlib.contextmanager
def locked(data: Path) -> Iterator[None]:
    """Hold the data folder, made if missing, for one relay at a time. Raises CannotStart."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(data / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CannotStart(f"cannot use the data folder {data}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotStart(f"another process uses the data folder {data}") from error
        yield
    finally:
        os.close(fd)


async def run_worker(
    settings: WorkerSettings, listening: socket.socket, board: Board, ready: Callable[[], None]
) -> None:
    """Serve one socket until SIGTERM."""
    relay_config = settings.relay
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    store = await _connect(settings.data, stop)
    if store is None:
        return
    index = IndexReader(settings.data / SEARCH_INDEX)
    searcher = Searcher(index, searched=frozenset(relay_config.search.kinds))
    try:
        desk = Desk()
        desk.open(store)
        key = read_key(settings.data / KEY)
        features = relay_features(relay_config, key, board.spend, desk, searcher)
        relay = Relay(
            store,
            features,
            max_limit=relay_config.limits.max_limit,
            buffer_bytes=relay_config.limits.max_outbox_bytes,
            now=lambda: int(time.time()),
            alone=settings.processes == 1,
        )
        server = Server(relay, relay_config, board, settings.data)
        following, listens = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            engine = tasks.create_task(relay.run(following))
            await following.wait()
            serving = tasks.create_task(server.run([listening], stop, listens))
            await listens.wait()
            settle()
            ready()
            # Most jobs are one worker's, for all: it is started again should it die.
            others = settings.process != 0
            jobs = tasks.create_task(run_jobs(features, relay.now, relay.catch_up, only_everywhere=others))
            await serving
            engine.cancel()
            jobs.cancel()
    finally:
        searcher.close()
        await store.close()


def _work(
    settings: WorkerSettings, listening: socket.socket, board: Board, ready: Callable[[], None]
) -> None:
    start_logging(settings.log)
    structlog.contextvars.bind_contextvars(worker=settings.process)
    # Every connection takes a descriptor, and the usual soft limit is 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        uvloop.run(run_worker(settings, listening, board, ready))
    except CannotServeTls as error:
        sys.exit(f"torv worker {settings.process}: {error}")


async def _connect(data: Path, stop: asyncio.Event) -> LinkedStore | None:
    """Wait for the writer; None when it was told to stop first. Raises StoreError, StoreTooNew."""
    try:
        async with asyncio.TaskGroup() as tasks:
            connecting = tasks.create_task(LinkedStore.connect(data / DATABASE, data / WRITER_SOCKET))
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait([connecting, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            connecting.cancel()  # does nothing to one that is done
    except* StoreError as group:
        raise group.exceptions[0] from None
    return None if connecting.cancelled() else connecting.result()
