"""The bridge put together: seed, ledger, networks, router, and the order in which they end."""

import asyncio
import fcntl
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing, contextmanager
from pathlib import Path

from bridge.config import BridgeConfig
from bridge.identities import canary, load_seed, service_key
from bridge.ledger import Ledger
from bridge.media import PictureFetcher
from bridge.network import CannotRun, Network
from bridge.networks.matrix.network import MatrixNetwork
from bridge.networks.matrix.registration import tokens
from bridge.networks.nostr.network import NostrNetwork
from bridge.router import Router

log = logging.getLogger(__name__)

SEED_FILE = "bridge.seed"
LEDGER_FILE = "bridge.sqlite3"
LOCK_FILE = "bridge.lock"


class BridgeError(Exception):
    """The bridge cannot start; the text says why."""


def run(data: Path, config: BridgeConfig) -> None:
    """Run the bridge until SIGTERM or SIGINT.

    Raises BridgeError, `bridge.identities.SeedError` or `bridge.ledger.LedgerError` if it cannot start.
    """
    data.mkdir(parents=True, exist_ok=True)
    with _locked(data / LOCK_FILE):
        seed = load_seed(data / SEED_FILE)
        with closing(Ledger(data / LEDGER_FILE)) as ledger:
            ledger.check_canary(canary(seed))
            asyncio.run(_run(ledger, seed, config))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the data folder's lock: two bridges would answer, and send, everything twice."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BridgeError(f"another bridge runs on {path.parent}") from None
        yield
    finally:
        os.close(descriptor)


async def _run(ledger: Ledger, seed: bytes, config: BridgeConfig) -> None:
    log.info("bridge starts relay=%s key=%s", config.relay_url, service_key(seed).public)
    async with AsyncExitStack() as stack:
        networks: list[Network] = [NostrNetwork(config.relay_url, seed, time.time)]
        if config.matrix:
            pictures = PictureFetcher(allow_private=config.allow_private_addresses)
            await stack.enter_async_context(pictures)
            matrix = MatrixNetwork(config.matrix, tokens(seed, config.matrix), pictures)
            networks.append(await stack.enter_async_context(matrix))
        router = asyncio.create_task(Router(ledger, networks, time.time).run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Everything that was begun is in the ledger: to stop is to cancel.
            loop.add_signal_handler(number, router.cancel)
        await asyncio.wait({router})
        if router.cancelled():
            log.info("bridge stops")
            return
        try:
            router.result()
        except* CannotRun as group:
            raise BridgeError("; ".join(map(str, group.exceptions))) from group
