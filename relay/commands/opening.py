"""What the commands share: their options, the configuration, and the store of a relay that may be running."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import click

from relay.config import RelayConfig
from relay.engine.admission import Admission
from relay.engine.followers import Followers
from relay.net.workers import CannotStart
from relay.settings import Loader
from relay.store.api import Store

data_option = click.option(
    "--data", type=click.Path(path_type=Path), help="The folder of databases [default: data]."
)


class Configuration(Protocol):
    """What these commands need of the whole configuration."""

    @property
    def data(self) -> Path: ...

    @property
    def relay(self) -> RelayConfig: ...


def load_for(context: click.Context, config: Path | None, data: Path | None) -> Configuration:
    loader: Loader[Configuration] = context.obj
    return loader(config, {"data": data})


@asynccontextmanager
async def opened(config: Configuration, *, make: bool) -> AsyncIterator[tuple[Store, Admission]]:
    """Open the relay's store: through its writer if the relay is running, else for ourselves.

    `make` says whether a store that is not there is made. Raises CannotStart, StoreError.
    """
    # Imported here, for `torv --help` needs none of it and would wait for it.
    from relay import app, assembly
    from relay.store import open_store
    from relay.store.link import LinkedStore

    database, socket = config.data / assembly.DATABASE, config.data / assembly.WRITER_SOCKET
    if not make and not database.exists():
        raise CannotStart(f"there is no database in the folder {config.data}")
    with ExitStack() as held:
        config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        features = assembly.relay_features(config.relay, assembly.read_key(config.data / assembly.KEY))
        try:
            held.enter_context(app.locked(config.data))
        except CannotStart:
            if not socket.exists():
                raise
            # The relay holds the folder, and writes for others.
            store: Store = await LinkedStore.connect(database, socket)
        else:
            store = await open_store(
                f"sqlite:///{quote(str(database.resolve()))}", assembly.tables_of(features)
            )
        try:
            # Bans and the like are records: without them, rules would judge as if there were none.
            Followers(store, (one for feature in features for one in feature.followers)).catch_up()
            yield store, Admission(features)
        finally:
            await store.close()


def stop_on_signals(stop: asyncio.Event) -> None:
    """Let the first Ctrl-C or SIGTERM finish what was begun; the next one ends the program."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
