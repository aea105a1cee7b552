"""What the commands share: their options, the configuration, and the store of a relay that may be running."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

import click

from relay.config import RelayConfig, Site
from relay.engine.admission import Admission
from relay.engine.desk import Desk
from relay.engine.feature import Feature
from relay.engine.followers import Followers
from relay.engine.jobs import close
from relay.engine.limits import Drain, Spend
from relay.engine.relay import Relay
from relay.net.workers import CannotStart
from relay.nostr.keys import SecretKey
from relay.settings import Loader
from relay.store.api import Store

folder_option = click.option(
    "--data", type=click.Path(path_type=Path), help="The folder of databases [default: data]."
)
"""For commands that concern all relays of a configuration."""

_CHOSEN = "relay"


def _choose(context: click.Context, option: click.Parameter, name: str | None) -> None:
    context.meta[_CHOSEN] = name or ""


_relay_option = click.option(
    "--relay",
    "relay_name",
    metavar="NAME",
    expose_value=False,
    callback=_choose,
    help="Which relay, where several are served: NAME of [relays.NAME] [default: that of [relay]].",
)


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """For commands that concern one relay: its folder, and which one it is."""
    return folder_option(_relay_option(command))


class Configuration(Protocol):
    """What these commands need of the whole configuration."""

    @property
    def data(self) -> Path: ...

    @property
    def relay(self) -> RelayConfig: ...


class WholeConfiguration(Configuration, Protocol):
    """A configuration of perhaps several relays."""

    @property
    def sites(self) -> tuple[Site, ...]: ...


def load_for(context: click.Context, config: Path | None, data: Path | None) -> Configuration:
    """Read the configuration; return what it says of the relay that the command is for."""
    loader: Loader[WholeConfiguration] = context.obj
    loaded = loader(config, {"data": data})
    name = context.meta.get(_CHOSEN, "")
    if not name:
        return loaded
    found = next((site for site in loaded.sites if site.name == name), None)
    if found is None:
        known = ", ".join(site.name for site in loaded.sites if site.name) or "none"
        raise click.BadParameter(f"there is no [relays.{name}]; named relays: {known}", param_hint="--relay")
    return found


@asynccontextmanager
async def opened(config: Configuration, *, make: bool) -> AsyncIterator[tuple[Store, Admission]]:
    """Open the relay's store: through its writer if the relay is running, else for ourselves.

    `make` says whether a store that is not there is made. Raises CannotStart, StoreError.
    """
    # Imported here, for `torv --help` needs none of it and would wait for it.
    from relay import assembly

    if not make and not (config.data / assembly.DATABASE).exists():
        raise CannotStart(f"there is no database in the folder {config.data}")
    with ExitStack() as held:
        config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        features = assembly.relay_features(config.relay, assembly.read_key(config.data / assembly.KEY))
        store = await _open_store(config, features, held)
        try:
            # Bans and the like are records: without them, rules would judge as if there were none.
            Followers(store, (one for feature in features for one in feature.followers)).catch_up()
            yield store, Admission(features)
        finally:
            await store.close()


@asynccontextmanager
async def opened_relay(config: Configuration, *, make: bool) -> AsyncIterator[Relay]:
    """Open the store as `opened` does, with the whole relay around it: its veils and gates too.

    It does not run: it answers by what is read.
    """
    from relay import assembly

    if not make and not (config.data / assembly.DATABASE).exists():
        raise CannotStart(f"there is no database in the folder {config.data}")
    with ExitStack() as held:
        config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        desk = Desk()
        key = assembly.read_key(config.data / assembly.KEY)
        features = assembly.relay_features(config.relay, key, desk=desk)
        store = await _open_store(config, features, held)
        try:
            desk.open(store)
            limits = config.relay.limits
            relay = Relay(
                store,
                features,
                max_limit=limits.max_limit,
                buffer_bytes=limits.max_outbox_bytes,
                now=lambda: int(time.time()),
            )
            relay.catch_up()
            for job in (job for feature in features for job in feature.jobs if job.everywhere):
                await job.run(relay.now())
            yield relay
        finally:
            await close(features)
            await store.close()


async def _open_store(config: Configuration, features: Sequence[Feature], held: ExitStack) -> Store:
    from relay import app, assembly
    from relay.store import open_store
    from relay.store.link import LinkedStore

    database, socket = config.data / assembly.DATABASE, config.data / assembly.WRITER_SOCKET
    try:
        held.enter_context(app.locked(config.data))
    except CannotStart:
        if not socket.exists():
            raise
        # The relay holds the folder, and writes for others.
        return await LinkedStore.connect(database, socket)
    return await open_store(f"sqlite:///{quote(str(database.resolve()))}", assembly.tables_of(features))


class Judging(NamedTuple):
    """A relay that judges and does not serve."""

    relay: Relay
    desk: Desk
    key: SecretKey


@asynccontextmanager
async def judging(config: Configuration, spend: Spend, drain: Drain, *, now: int) -> AsyncIterator[Judging]:
    """Put together what a relay with this configuration judges by, what it has stored included.

    Where there is no database yet, nothing is stored. `spend` and `drain` take from the buckets. Raises
    CannotStart, StoreError.
    """
    from relay import assembly
    from relay.store.memory import MemoryStore

    is_there = (config.data / assembly.DATABASE).exists()
    with ExitStack() as held:
        key = assembly.read_key(config.data / assembly.KEY) if is_there else SecretKey.generate()
        desk = Desk()
        features = assembly.relay_features(config.relay, key, spend, desk, drain=drain)
        store: Store = MemoryStore(assembly.tables_of(features))
        if is_there:
            store = await _open_store(config, features, held)
        try:
            desk.open(store)
            limits = config.relay.limits
            relay = Relay(
                store,
                features,
                max_limit=limits.max_limit,
                buffer_bytes=limits.max_outbox_bytes,
                now=lambda: now,
            )
            relay.catch_up()
            for job in (job for feature in features for job in feature.jobs if job.everywhere):
                await job.run(now)
            yield Judging(relay, desk, key)
        finally:
            await close(features)
            await store.close()


def stop_on_signals(stop: asyncio.Event) -> None:
    """Let the first Ctrl-C or SIGTERM finish what was begun; the next one ends the program."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
