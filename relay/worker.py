"""A worker process: all relays of the configuration on its listening sockets, until SIGTERM.

It is forked from the supervisor, which tells it of new settings, and when another takes its place.
"""

import asyncio
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog
import uvloop

from relay.assembly import DATABASE, KEY, SEARCH_INDEX, WRITER_SOCKET, read_key, relay_features
from relay.collector import settle
from relay.config import RelayConfig, RelaysConfig, Site
from relay.engine.desk import Desk
from relay.engine.feature import Feature
from relay.engine.jobs import close, run_jobs
from relay.engine.relay import Relay
from relay.logs import start_logging
from relay.net.board import Board
from relay.net.certificates import CannotServeTls
from relay.net.orders import follow_orders
from relay.net.server import Server
from relay.nostr.keys import SecretKey
from relay.search.finding import IndexReader
from relay.search.searcher import Searcher
from relay.store.api import StoreError
from relay.store.link import LinkedStore

log = structlog.get_logger(__name__)

PREPARE_SECONDS = 10.0
"""For what new settings need, such as a web of trust, to be worked out before they hold."""


@dataclass(frozen=True, slots=True)
class Retire:
    """The order to a worker whose place another one has taken: to listen no more, and to say goodbye."""

    over_seconds: float
    """How long goodbyes are spread over."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which worker a process is, and what it was given."""

    number: int
    sockets: Sequence[socket.socket]
    boards: Sequence[Board]
    """One for each relay."""
    orders: socket.socket
    alone: bool
    """Whether no other process serves subscribers."""


class RunningRelay:
    """One relay as a worker runs it; its features and settings are replaced while it runs."""

    def __init__(
        self, site: Site, store: LinkedStore, key: SecretKey, board: Board, *, alone: bool, has_jobs: bool
    ) -> None:
        self.site = site
        self._store = store
        self._key = key
        self._board = board
        self._has_jobs = has_jobs
        self._desk = Desk()
        self._desk.open(store)
        searched = frozenset(site.relay.search.kinds)
        self._searcher = Searcher(IndexReader(site.data / SEARCH_INDEX), searched=searched)
        self.relay = Relay(
            store,
            self._features(site.relay),
            max_limit=site.relay.limits.max_limit,
            buffer_bytes=site.relay.limits.max_outbox_bytes,
            now=lambda: int(time.time()),
            alone=alone,
        )
        self.server = Server(self.relay, site.relay, board, site.data, label=site.name)
        self._tasks: asyncio.TaskGroup | None = None
        self._jobs: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, site: Site, board: Board, stop: asyncio.Event, *, alone: bool, has_jobs: bool
    ) -> "RunningRelay | None":
        """Wait for the relay's writer; None when it was told to stop first.

        Raises StoreError, StoreTooNew.
        """
        store = await _connect(site, stop)
        if store is None:
            return None
        try:
            key = read_key(site.data / KEY)
            return cls(site, store, key, board, alone=alone, has_jobs=has_jobs)
        except BaseException:
            await store.close()
            raise

    def _features(self, config: RelayConfig) -> tuple[Feature, ...]:
        return relay_features(
            config, self._key, self._board.spend, self._desk, self._searcher, self._board.drain
        )

    async def adopt(self, site: Site) -> None:
        """Go on by other settings; what has not changed goes on undisturbed. Raises StoreError."""
        if site.relay == self.site.relay:
            return
        features, limits = self._features(site.relay), site.relay.limits
        await self._prepare(features)
        before = self.relay.features
        self.relay.adopt(features, max_limit=limits.max_limit, buffer_bytes=limits.max_outbox_bytes)
        self._searcher.adopt(frozenset(site.relay.search.kinds))
        await self.server.adopt(site.relay)
        self.site = site
        self.stop_jobs()
        self._begin_jobs()
        if self._tasks is not None:
            # They answer what they were asked before: nobody waits for that.
            self._tasks.create_task(close(before))

    async def _prepare(self, features: Sequence[Feature]) -> None:
        """Let features work out what every process does for itself, before they are asked."""
        try:
            async with asyncio.timeout(PREPARE_SECONDS):
                for job in (job for feature in features for job in feature.jobs if job.everywhere):
                    await job.run(self.relay.now())
        except (StoreError, TimeoutError) as error:
            log.warning("new settings are used before all is worked out", error=str(error) or "no time")

    def begin(self, tasks: asyncio.TaskGroup) -> None:
        """Begin the jobs; the engine runs, and the server listens."""
        self._tasks = tasks
        self._begin_jobs()

    def _begin_jobs(self) -> None:
        # Most jobs are one worker's, for all: it is started again should it die.
        if self._tasks is not None:
            jobs = run_jobs(
                self.relay.features, self.relay.now, self.relay.catch_up, only_everywhere=not self._has_jobs
            )
            self._jobs = self._tasks.create_task(jobs)

    def stop_jobs(self) -> None:
        """Let nobody do the jobs, or another process."""
        if self._jobs is not None:
            self._jobs.cancel()
            self._jobs = None

    async def close(self) -> None:
        """Let go of the files and of the writer."""
        await close(self.relay.features)
        self._searcher.close()
        await self._store.close()


class Worker:
    """All relays of one worker process."""

    def __init__(self, config: RelaysConfig, place: Place, ready: Callable[[], None]) -> None:
        self._config = config
        self._place = place
        self._ready = ready
        self._stop = asyncio.Event()
        self._goodbye_seconds = 0.0
        self._relays: list[RunningRelay] = []

    async def run(self) -> None:
        """Serve until SIGTERM, or until it retires."""
        place = self._place
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._leave_at_once)
        async with AsyncExitStack() as held:
            for site, board in zip(self._config.sites, place.boards, strict=True):
                opened = await RunningRelay.open(
                    site, board, self._stop, alone=place.alone, has_jobs=place.number == 0
                )
                if opened is None:
                    return
                held.push_async_callback(opened.close)
                self._relays.append(opened)
            await self._serve()

    async def _serve(self) -> None:
        listens = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            engines = []
            for one in self._relays:
                following = asyncio.Event()
                engines.append(tasks.create_task(one.relay.run(following)))
                await following.wait()
            first, *beside = (one.server for one in self._relays)
            serving = tasks.create_task(
                first.run(
                    self._place.sockets,
                    self._stop,
                    listens,
                    beside=beside,
                    goodbye_seconds=lambda: self._goodbye_seconds,
                )
            )
            await listens.wait()
            settle()
            self._ready()
            for one in self._relays:
                one.begin(tasks)
            following_orders = tasks.create_task(follow_orders(self._place.orders, self._carry_out))
            await serving
            following_orders.cancel()
            for one in self._relays:
                one.stop_jobs()
            for engine in engines:
                engine.cancel()

    def _leave_at_once(self) -> None:
        self._goodbye_seconds = 0.0
        self._stop.set()

    async def _carry_out(self, order: RelaysConfig | Retire) -> None:
        match order:
            case RelaysConfig():
                await self._adopt(order)
            case Retire(over_seconds):
                self._goodbye_seconds = over_seconds
                for one in self._relays:
                    one.stop_jobs()
                    one.relay.intake.be_one_of_several()
                self._stop.set()

    async def _adopt(self, config: RelaysConfig) -> None:
        # Who was started meanwhile has begun with them.
        if config.version <= self._config.version:
            return
        start_logging(config.log)
        for one, site in zip(self._relays, config.sites, strict=True):
            await one.adopt(site)
        self._config = config


def work(config: RelaysConfig, place: Place, ready: Callable[[], None]) -> None:
    """Be a worker until SIGTERM, or until it retires."""
    start_logging(config.log)
    structlog.contextvars.bind_contextvars(worker=place.number)
    # Every connection takes a descriptor, and the usual soft limit is 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    async def run() -> None:
        await Worker(config, place, ready).run()

    try:
        uvloop.run(run())
    except CannotServeTls as error:
        sys.exit(f"torv worker {place.number}: {error}")


async def _connect(site: Site, stop: asyncio.Event) -> LinkedStore | None:
    database, socket_path = site.data / DATABASE, site.data / WRITER_SOCKET
    try:
        async with asyncio.TaskGroup() as tasks:
            connecting = tasks.create_task(LinkedStore.connect(database, socket_path))
            stopping = tasks.create_task(stop.wait())
            await asyncio.wait([connecting, stopping], return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            connecting.cancel()  # does nothing to one that is done
    except* StoreError as group:
        raise group.exceptions[0] from None
    return None if connecting.cancelled() else connecting.result()
