"""The router as a process of a relay: it reads the database itself and writes through the writer.

SIGTERM: saves how far it has come, and exits 0. What was being sent or received is done again.
"""

import asyncio
import signal
import sys
import time
from pathlib import Path

import uvloop

from relay.assembly import DATABASE, KEY, WRITER_SOCKET, CannotRead, read_key, read_secret, relay_features
from relay.collector import settle
from relay.config import RelayConfig
from relay.engine.desk import Desk
from relay.engine.feature import Feature
from relay.engine.jobs import close, run_jobs
from relay.engine.relay import Relay
from relay.logs import start_logging
from relay.mirror.house import House
from relay.mirror.router import Router
from relay.nostr.event import PubKey
from relay.nostr.keys import SecretKey
from relay.settings import LogConfig
from relay.store.api import StoreError
from relay.store.link import LinkedStore


def signers_of(relay: RelayConfig) -> dict[str, SecretKey | None]:
    """Return the keys that streams authenticate with, by the streams' names. Raises CannotRead."""
    return {
        name: None if stream.key is None else read_secret(stream.key) for name, stream in relay.router.items()
    }


def route(data: Path, relay: RelayConfig, log_config: LogConfig) -> None:
    """Be the router until SIGTERM. When it cannot be, it says why and exits 1."""
    start_logging(log_config)
    try:
        uvloop.run(_until_terminated(data, relay))
    except (StoreError, CannotRead) as error:
        sys.exit(f"torv router: {error}")


async def _until_terminated(data: Path, config: RelayConfig) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    running = asyncio.create_task(_run(data, config))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        running.cancel()  # does nothing to one that is done
    finally:
        stopping.cancel()
    try:
        await running
    except asyncio.CancelledError:
        if not stop.is_set():
            raise


async def _run(data: Path, config: RelayConfig) -> None:
    signers = signers_of(config)
    store = await LinkedStore.connect(data / DATABASE, data / WRITER_SOCKET)
    desk = Desk()
    desk.open(store)
    features: tuple[Feature, ...] = ()
    try:
        key = read_key(data / KEY)
        features = relay_features(config, key, desk=desk)
        relay = Relay(
            store,
            features,
            max_limit=config.limits.max_limit,
            buffer_bytes=config.limits.max_outbox_bytes,
            now=lambda: int(time.time()),
        )
        relay.catch_up()
        router = Router(House(relay, PubKey(key.public), config), config, signers, data)
        settle()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_jobs(features, relay.now, relay.catch_up, only_everywhere=True))
            tasks.create_task(router.run())
    finally:
        await close(features)
        await store.close()
