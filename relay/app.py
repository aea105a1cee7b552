"""The supervisor's side of the relays: what is started, and what happens on signals and orders meanwhile.

`serve` runs until SIGTERM. SIGHUP has the configuration read again; SIGUSR2 has another process take over.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import structlog

from relay.assembly import DATABASE, KEY, LOCK, SEARCH_INDEX, CannotRead, read_key, relay_features, tables_of
from relay.collector import share
from relay.config import RelayConfig, RelaysConfig, Site
from relay.logs import start_logging
from relay.mirror.process import route, signers_of
from relay.net.board import Board
from relay.net.certificates import CannotServeTls, Certificates
from relay.net.control import CONTROL_SOCKET, Answer, taking_orders
from relay.net.handover import FORWARDED, Inheritance, Successor, program, stand_in
from relay.net.notify import notify, reloading
from relay.net.orders import Orders
from relay.net.workers import CannotStart, Program, Supervisor, bind, bind_beside
from relay.search.process import keep_index
from relay.settings import ConfigError, LogConfig, Settings, differences, keeping_fixed
from relay.transfer.restoring import finish as finish_restore
from relay.worker import Place, Retire, work
from relay.writing import SPEAKS, write

log = structlog.get_logger(__name__)

ADOPT_SECONDS = 30.0
"""For a process to go on by new settings."""
PREPARE_SECONDS = 60.0
"""For a successor to read its configuration and import its code."""
START_SECONDS = 180.0
"""For a successor to serve; it gives up by itself before."""


class Wanted(NamedTuple):
    """A configuration that was read and found right."""

    sites: tuple[Site, ...]
    log: LogConfig
    whole: Settings
    """All of it, to tell what changes."""


Read = Callable[[], Wanted]
"""Reads the configuration anew. Raises ConfigError, CannotStart."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of reading the configuration again."""

    changed: tuple[str, ...] = ()
    """The settings that hold now."""
    restart: tuple[str, ...] = ()
    """Those that differ from what the processes were started with, and take a restart."""
    mistakes: str = ""
    """Why nothing has changed."""
    failed: tuple[str, ...] = ()
    """Processes that could not take the new settings, and were started anew with them, and why."""


@dataclass(frozen=True, slots=True)
class Restarted:
    """What became of handing over to another process."""

    why: str = ""
    """Why it was not done, and the relay goes on as before; empty: it was."""


def serve(
    wanted: Wanted,
    read: Read,
    extra: Sequence[Program] = (),
    *,
    announce: Callable[[str], None],
    inheritance: Inheritance | None = None,
) -> int:
    """Run the relays until SIGTERM or SIGINT; return the exit code.

    `read` reads the configuration again. `extra` programs start after the relays are ready. `announce` is
    called with each URL once everything answers. With an `inheritance` it takes another supervisor's place.
    Raises CannotStart with a text for the operator.
    """
    with contextlib.ExitStack() as held:
        locks = {site.data.resolve(): _lock(site.data, inheritance, held) for site in wanted.sites}
        check(wanted.sites)
        sockets = _sockets(wanted.sites[0].relay, inheritance)
        for listening in sockets:
            held.callback(listening.close)
        operation = Operation(wanted, read, sockets, locks, extra, announce=announce, inheritance=inheritance)
        share()
        asyncio.run(operation.run())
    return 0 if operation.stands_in_for is None else stand_in(operation.stands_in_for)


def _lock(data: Path, inheritance: Inheritance | None, held: contextlib.ExitStack) -> int:
    """Hold a data folder; return the descriptor by which it is held. Raises CannotStart."""
    fd = None if inheritance is None else inheritance.lock_of(data)
    if fd is None:
        return held.enter_context(locked(data))
    held.callback(os.close, fd)
    return fd


def _sockets(relay: RelayConfig, inheritance: Inheritance | None) -> list[socket.socket]:
    """Return a listening socket for each worker, or more of them. Raises CannotStart."""
    workers = relay.workers or os.cpu_count() or 1
    there = [] if inheritance is None else inheritance.sockets(relay.host, relay.port)
    if not there:
        return bind(relay.host, relay.port, workers)
    return [*there, *bind_beside(there[0], max(0, workers - len(there)))]


def check(sites: Sequence[Site]) -> None:
    """Put together what the processes will put together. Raises CannotStart."""
    for site in sites:
        try:
            tables_of(relay_features(site.relay, read_key(site.data / KEY)))
            signers_of(site.relay)
            if site.relay.tls is not None:
                Certificates(site.relay.tls.certificate, site.relay.tls.key)
        except (CannotRead, CannotServeTls, ValueError, OSError) as error:
            raise CannotStart(str(error)) from error


class Operation:
    """The programs of all relays under one supervisor, and the settings that they go by."""

    def __init__(
        self,
        wanted: Wanted,
        read: Read,
        sockets: Sequence[socket.socket],
        locks: Mapping[Path, int],
        extra: Sequence[Program],
        *,
        announce: Callable[[str], None],
        inheritance: Inheritance | None = None,
    ) -> None:
        """`locks`: by which descriptors the data folders are held."""
        self.stands_in_for: int | None = None
        """The process that has taken this one's place, if this one has to stay for it."""
        self._started_with = self._last = wanted
        self._locks = locks
        self._extra = extra
        self._inheritance = inheritance
        self._candidate: Successor | None = None
        """A successor that does not serve yet."""
        self._successor: Successor | None = None
        self._outliving: asyncio.Task[None] | None = None
        self._read = read
        self._sockets = sockets
        self._announce = announce
        self._port: int = sockets[0].getsockname()[1]
        self._config = RelaysConfig(1, self._bound(wanted.sites), wanted.log)
        self._turn = asyncio.Lock()
        self._stop = asyncio.Event()
        self._orders: dict[str, Orders] = {}
        """By the program's name."""
        self._processes = wanted.sites[0].relay.workers or os.cpu_count() or 1
        self._boards = [Board.create(self._processes) for _ in wanted.sites]
        sites = self._config.sites
        self._writers = [self._writer(number) for number in range(len(sites))]
        self._workers = [self._worker(number) for number in range(self._processes)]
        self._indexers = [self._indexer(number) for number in range(len(sites))]
        self._routers = [self._router(number) for number in range(len(sites))]
        self._supervisor = Supervisor(
            [self._writers, self._workers, [*self._indexers, *self._routers, *extra]]
        )
        for site, indexer, router in zip(sites, self._indexers, self._routers, strict=True):
            if not site.relay.search.enabled:
                self._supervisor.begin_held(indexer.name)
            if not site.relay.router:
                self._supervisor.begin_held(router.name)

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, or until another process has taken over. Raises CannotStart."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.add_signal_handler(number, self._on_stop, number)
                for number, carry_out in ((signal.SIGHUP, self.reload), (signal.SIGUSR2, self.restart)):
                    loop.add_signal_handler(number, self._on_order, number, carry_out)
                try:
                    await self._supervise()
                finally:
                    if self._successor is None:
                        notify("STOPPING=1")
                    if self._outliving is not None:
                        self._outliving.cancel()
                    for number in (signal.SIGHUP, signal.SIGUSR2):
                        loop.remove_signal_handler(number)
        except* CannotStart as group:
            raise _first(group) from None

    async def _supervise(self) -> None:
        if self._inheritance is not None:
            self._inheritance.say("prepared", understands=self._inheritance.estate["speaks"] == SPEAKS)
            await self._inheritance.go()
        async with taking_orders(self._config.sites[0].data / CONTROL_SOCKET, self._carry_out):
            await self._supervisor.run(self._stop, self._on_ready)

    def _on_stop(self, number: int) -> None:
        if self._successor is not None:
            os.kill(self._successor.pid, number)
        if self._candidate is not None:
            self._candidate.kill()
        self._stop.set()

    def _on_order(self, number: int, carry_out: Callable[[], Coroutine[None, None, object]]) -> None:
        if self._successor is not None:
            os.kill(self._successor.pid, number)
        else:
            self._tasks.create_task(carry_out())

    def _on_ready(self) -> None:
        if self._inheritance is not None:
            # Where it serves was told when it was started at first.
            self._inheritance.say("ready")
            self._outliving = self._tasks.create_task(self._outlive(self._inheritance))
            return
        for site in self._config.sites:
            relay = site.relay
            host = f"[{relay.host}]" if ":" in relay.host else relay.host
            here = f"{'' if relay.tls is None else 's'}://{host}:{self._port}{relay.path}"
            if site.name:
                self._announce(f"{relay.url or f'ws{here}'} ({site.name}: {', '.join(relay.hosts) or 'any'})")
            else:
                self._announce(relay.url or f"ws{here}")
                self._announce(f"http{here}")
        notify("READY=1")

    # Handing over to another process

    async def restart(self) -> Restarted:
        """Have the program, as it is installed and configured now, take over; if it cannot, go on as before.

        Nobody is refused meanwhile: the sockets stay open. One writer stops before the other starts; what
        workers send in between waits.
        """
        async with self._turn:
            if self._successor is not None:
                return Restarted(why="another process is taking over already")
            reloading()
            log.info("restarting")
            try:
                why = await self._hand_over()
            except Exception as error:
                # A mistake of ours must not take the relay down.
                log.exception("handing over failed")
                why = f"{type(error).__name__}: {error}"
            if why:
                log.error("not restarted; going on as before", why=why)
                notify("READY=1")
            return Restarted(why=why)

    async def _hand_over(self) -> str:
        """Return why it was not done, or nothing."""
        fds = [*(one.fileno() for one in self._sockets), *self._locks.values()]
        try:
            candidate = self._candidate = Successor.start(program(), self._estate(), fds)
        except OSError as error:
            return f"cannot start the new process: {error.strerror}"
        held: list[str] = []
        try:
            said = await candidate.hear(PREPARE_SECONDS)
            if said["say"] != "prepared":
                return str(said["why"])
            understands = bool(said["understands"])
            if not understands:
                # Another schema, or another way to speak with the writer: none of ours may be there with it.
                held += [one.name for one in self._workers]
                await self._retire(0.0)
            for group in (self._extra, [*self._routers, *self._indexers], self._writers):
                names = [one.name for one in group if not self._supervisor.is_held(one.name)]
                held += names
                await asyncio.gather(*map(self._supervisor.hold, names))
            candidate.say("go")
            said = await candidate.hear(START_SECONDS)
            if said["say"] != "ready":
                return str(said["why"])
            self._successor = candidate
            self._tasks.create_task(self._leave(candidate, retired=not understands))
            return ""
        finally:
            self._candidate = None
            if self._successor is None:
                await candidate.end()
                # First the writers, which were stopped last.
                for name in reversed(held):
                    self._supervisor.release(name)

    def _estate(self) -> dict[str, object]:
        asked = self._started_with.sites[0].relay
        return {
            "pid": os.getpid(),
            "sockets": [one.fileno() for one in self._sockets],
            "address": [asked.host, asked.port],
            "locks": {str(path): fd for path, fd in self._locks.items()},
            "speaks": SPEAKS,
            "leaves": self._leaves,
            "stands_in": "NOTIFY_SOCKET" not in os.environ,
        }

    @property
    def _leaves(self) -> bool:
        """Whether this process ends when another has taken over: who watches it is told, or one stands in."""
        return "NOTIFY_SOCKET" in os.environ or self._inheritance is not None

    async def _leave(self, successor: Successor, *, retired: bool) -> None:
        if not retired:
            await self._retire(self._config.sites[0].relay.timeouts.restart_seconds)
        # A signal that comes from here on is for the other process.
        signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        if not self._leaves:
            self.stands_in_for = successor.pid
        notify(f"MAINPID={successor.pid}")
        log.info("another process has taken over", pid=successor.pid)
        self._stop.set()

    async def _retire(self, over_seconds: float) -> None:
        """Let the workers say goodbye to their clients, and end."""
        for one in self._workers:
            self._supervisor.begin_held(one.name)
        order = Retire(over_seconds)
        await asyncio.gather(*(self._orders[one.name].give(order, seconds=5.0) for one in self._workers))
        await asyncio.gather(
            *(self._supervisor.let_go(one.name, over_seconds + one.stop_seconds) for one in self._workers)
        )

    async def _outlive(self, inheritance: Inheritance) -> None:
        await inheritance.gone()
        log.info("has taken over")
        notify("READY=1")

    # Settings

    async def reload(self) -> Reloaded:
        """Read the configuration again, and have all processes go on by it; with a mistake nothing changes.

        Who asks meanwhile waits, and reads it once more.
        """
        async with self._turn:
            reloading()
            try:
                return await self._reload()
            finally:
                notify("READY=1")

    async def _reload(self) -> Reloaded:
        try:
            wanted = self._read()
            config = self._next_config(wanted)
            check(config.sites)
        except (ConfigError, CannotStart) as error:
            log.error("the configuration is not used; the one before holds", mistakes=str(error))
            return Reloaded(mistakes=str(error))
        except Exception as error:
            # A mistake of ours must not take the relay down.
            log.exception("the configuration could not be read; the one before holds")
            return Reloaded(mistakes=f"{type(error).__name__}: {error}")
        fixed = [one.path for one in differences(self._started_with.whole, wanted.whole) if one.takes_restart]
        new = [one.path for one in differences(self._last.whole, wanted.whole) if not one.takes_restart]
        self._last = wanted
        # Programs that are started from here on begin with it.
        before, self._config = self._config, config
        start_logging(wanted.log)
        failed = await self._have_adopted(self._writers)
        # Only now, for what they send names tables that the writer has to know.
        failed += await self._have_adopted(self._workers)
        await self._renew_indexers(before)
        await self._renew_routers(before)
        log.info("the configuration was read again", changed=new, takes_restart=fixed)
        return Reloaded(tuple(new), tuple(fixed), failed=tuple(failed))

    def _next_config(self, wanted: Wanted) -> RelaysConfig:
        named = {site.name: site for site in self._bound(wanted.sites)}
        sites = tuple(
            replace(site, relay=keeping_fixed(site.relay, named[site.name].relay))
            if site.name in named
            else site
            for site in self._config.sites
        )
        return RelaysConfig(self._config.version + 1, sites, wanted.log)

    async def _have_adopted(self, programs: Sequence[Program]) -> list[str]:
        said = await asyncio.gather(
            *(self._orders[one.name].give(self._config, seconds=ADOPT_SECONDS) for one in programs)
        )
        failed = []
        for one, why in zip(programs, said, strict=True):
            if why:
                failed.append(f"{one.name}: {why}")
                log.error("a process does not take the settings; restarting it", process=one.name, why=why)
                await self._supervisor.hold(one.name)
                self._supervisor.release(one.name)
        return failed

    async def _renew_indexers(self, before: RelaysConfig) -> None:
        """Nobody waits for an indexer: it is stopped, and started anew if it is wanted."""
        for one, was, is_ in zip(self._indexers, before.sites, self._config.sites, strict=True):
            if (was.relay.search, before.log) == (is_.relay.search, self._config.log):
                continue
            if was.relay.search.enabled:
                await self._supervisor.hold(one.name)
            if is_.relay.search.enabled:
                self._supervisor.release(one.name)

    async def _renew_routers(self, before: RelaysConfig) -> None:
        """Partners wait for a moment: it judges what they give by all settings, and begins anew with any."""
        for one, was, is_ in zip(self._routers, before.sites, self._config.sites, strict=True):
            if (was.relay, before.log) == (is_.relay, self._config.log):
                continue
            if was.relay.router:
                await self._supervisor.hold(one.name)
            if is_.relay.router:
                self._supervisor.release(one.name)

    async def _carry_out(self, order: str) -> Answer:
        match order:
            case "reload":
                return asdict(await self.reload())
            case "restart":
                return asdict(await self.restart())
        return {"error": f"there is no order {order!r}"}

    # Programs

    def _bound(self, sites: Sequence[Site]) -> tuple[Site, ...]:
        """Return the sites with the port that was bound in place of the one asked for, which may be 0."""
        port = {"port": self._port}
        return tuple(replace(site, relay=site.relay.model_copy(update=port)) for site in sites)

    def _ordered(self, name: str) -> Orders:
        self._orders[name] = orders = Orders()
        return orders

    def _writer(self, number: int) -> Program:
        name = self._config.sites[number].titled("writer")
        orders = self._ordered(name)
        return Program(
            name,
            lambda ready: write(self._config, number, orders.theirs, ready),
            fds=(orders.theirs.fileno(),),
            on_death=orders.forget,
        )

    def _worker(self, number: int) -> Program:
        name = f"worker {number}"
        orders, boards, processes = self._ordered(name), self._boards, self._processes
        sockets = self._sockets
        # While two generations of workers serve, neither is alone.
        alone = processes == 1 and self._inheritance is None

        def run(ready: Callable[[], None]) -> None:
            seen = [Board(board.fd, number, processes) for board in boards]
            place = Place(number, sockets, seen, orders.theirs, alone=alone)
            work(self._config, place, ready)

        def on_death() -> None:
            orders.forget()
            for board in boards:
                board.forget(number)

        return Program(
            name,
            run,
            fds=(
                *(one.fileno() for one in sockets),
                orders.theirs.fileno(),
                *(board.fd for board in boards),
            ),
            stop_seconds=max(site.relay.timeouts.drain_seconds for site in self._config.sites) + 5,
            on_death=on_death,
            # It takes as long to start as the writer does, which it then waits for.
            waits=False,
        )

    def _indexer(self, number: int) -> Program:
        def run(ready: Callable[[], None]) -> None:
            site = self._config.sites[number]
            searched = frozenset(site.relay.search.kinds)
            keep_index(site.data / DATABASE, site.data / SEARCH_INDEX, searched, self._config.log)

        # Nobody waits for it: without an index all but search works.
        return Program(self._config.sites[number].titled("indexer"), run, says_ready=False)

    def _router(self, number: int) -> Program:
        def run(ready: Callable[[], None]) -> None:
            site = self._config.sites[number]
            route(site.data, site.relay, self._config.log)

        return Program(self._config.sites[number].titled("router"), run, says_ready=False)


@contextlib.contextmanager
def locked(data: Path) -> Iterator[int]:
    """Hold the data folder, made if missing, for one relay at a time, by the descriptor that is yielded.

    Raises CannotStart.
    """
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
        try:
            finish_restore(data)
        except OSError as error:
            raise CannotStart(f"cannot finish a restore into {data} that was broken off: {error}") from error
        yield fd
    finally:
        os.close(fd)


def _first(group: BaseExceptionGroup[CannotStart]) -> CannotStart:
    """Return one of what stands in a group, or in a group in it."""
    one = group.exceptions[0]
    return _first(one) if isinstance(one, BaseExceptionGroup) else one
