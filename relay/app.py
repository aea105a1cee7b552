"""The supervisor's side of the relays: what is started, and what happens on signals and orders meanwhile.

`serve` runs until SIGTERM. SIGHUP has the configuration read again.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import structlog

from relay.assembly import DATABASE, KEY, LOCK, SEARCH_INDEX, CannotRead, read_key, relay_features, tables_of
from relay.collector import share
from relay.config import RelaysConfig, Site
from relay.logs import start_logging
from relay.mirror.process import route, signers_of
from relay.net.board import Board
from relay.net.certificates import CannotServeTls, Certificates
from relay.net.control import CONTROL_SOCKET, Answer, taking_orders
from relay.net.notify import notify, reloading
from relay.net.orders import Orders
from relay.net.workers import CannotStart, Program, Supervisor, bind
from relay.search.process import keep_index
from relay.settings import ConfigError, LogConfig, Settings, differences, keeping_fixed
from relay.transfer.restoring import finish as finish_restore
from relay.worker import Place, work
from relay.writing import write

log = structlog.get_logger(__name__)

ADOPT_SECONDS = 30.0
"""For a process to go on by new settings."""


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


def serve(
    wanted: Wanted, read: Read, extra: Sequence[Program] = (), *, announce: Callable[[str], None]
) -> int:
    """Run the relays until SIGTERM or SIGINT; return the exit code.

    `read` reads the configuration again. `extra` programs start after the relays are ready. `announce` is
    called with each URL once everything answers. Raises CannotStart with a text for the operator.
    """
    with contextlib.ExitStack() as held:
        for site in wanted.sites:
            held.enter_context(locked(site.data))
        check(wanted.sites)
        first = wanted.sites[0].relay
        sockets = bind(first.host, first.port, first.workers or os.cpu_count() or 1)
        try:
            operation = Operation(wanted, read, sockets, extra, announce=announce)
            share()
            asyncio.run(operation.run())
        finally:
            for listening in sockets:
                listening.close()
    return 0


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
        extra: Sequence[Program],
        *,
        announce: Callable[[str], None],
    ) -> None:
        self._started_with = self._last = wanted
        self._read = read
        self._sockets = sockets
        self._announce = announce
        self._port: int = sockets[0].getsockname()[1]
        self._config = RelaysConfig(1, self._bound(wanted.sites), wanted.log)
        self._turn = asyncio.Lock()
        self._stop = asyncio.Event()
        self._orders: dict[str, Orders] = {}
        """By the program's name."""
        self._boards = [Board.create(len(sockets)) for _ in wanted.sites]
        sites = self._config.sites
        self._writers = [self._writer(number) for number in range(len(sites))]
        self._workers = [self._worker(number) for number in range(len(sockets))]
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
        """Run until SIGTERM or SIGINT. Raises CannotStart."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        async with asyncio.TaskGroup() as tasks:
            loop.add_signal_handler(signal.SIGHUP, lambda: tasks.create_task(self._reload_on_signal()))
            try:
                async with taking_orders(self._config.sites[0].data / CONTROL_SOCKET, self._carry_out):
                    await self._supervisor.run(self._stop, self._on_ready)
            except* CannotStart as group:
                raise group.exceptions[0] from None
            except* OSError as group:
                raise CannotStart(f"cannot take orders: {group.exceptions[0]}") from None
            finally:
                notify("STOPPING=1")
                loop.remove_signal_handler(signal.SIGHUP)

    def _on_ready(self) -> None:
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
        for program, why in zip(programs, said, strict=True):
            if why:
                failed.append(f"{program.name}: {why}")
                log.error(
                    "a process does not take the settings; restarting it", process=program.name, why=why
                )
                await self._supervisor.hold(program.name)
                self._supervisor.release(program.name)
        return failed

    async def _renew_indexers(self, before: RelaysConfig) -> None:
        """Nobody waits for an indexer: it is stopped, and started anew if it is wanted."""
        for program, was, is_ in zip(self._indexers, before.sites, self._config.sites, strict=True):
            if (was.relay.search, before.log) == (is_.relay.search, self._config.log):
                continue
            if was.relay.search.enabled:
                await self._supervisor.hold(program.name)
            if is_.relay.search.enabled:
                self._supervisor.release(program.name)

    async def _renew_routers(self, before: RelaysConfig) -> None:
        """Partners wait for a moment: it judges what they give by all settings, and begins anew with any."""
        for program, was, is_ in zip(self._routers, before.sites, self._config.sites, strict=True):
            if (was.relay, before.log) == (is_.relay, self._config.log):
                continue
            if was.relay.router:
                await self._supervisor.hold(program.name)
            if is_.relay.router:
                self._supervisor.release(program.name)

    async def _reload_on_signal(self) -> None:
        await self.reload()

    async def _carry_out(self, order: str) -> Answer:
        match order:
            case "reload":
                return asdict(await self.reload())
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
        orders, listening, boards = self._ordered(name), self._sockets[number], self._boards
        processes = len(self._sockets)

        def run(ready: Callable[[], None]) -> None:
            seen = [Board(board.fd, number, processes) for board in boards]
            place = Place(number, [listening], seen, orders.theirs, alone=processes == 1)
            work(self._config, place, ready)

        def on_death() -> None:
            orders.forget()
            for board in boards:
                board.forget(number)

        return Program(
            name,
            run,
            fds=(listening.fileno(), orders.theirs.fileno(), *(board.fd for board in boards)),
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
        try:
            finish_restore(data)
        except OSError as error:
            raise CannotStart(f"cannot finish a restore into {data} that was broken off: {error}") from error
        yield
    finally:
        os.close(fd)
