"""The writer process of a relay: the store's writer with the tables of this relay's features."""

import sys
from collections.abc import Callable
from pathlib import Path

import uvloop

from relay.assembly import DATABASE, KEY, WRITER_SOCKET, CannotRead, read_key, relay_features, tables_of
from relay.collector import settle
from relay.config import RelayConfig
from relay.logs import start_logging
from relay.settings import LogConfig
from relay.store.api import StoreError
from relay.store.writer_process import run_until_terminated


def write(data: Path, relay: RelayConfig, log_config: LogConfig, ready: Callable[[], None]) -> None:
    """Be the writer until SIGTERM: then commit what has arrived, answer it, and checkpoint.

    Calls `ready` once workers can connect. When it cannot serve, it says why in one line on standard error
    and exits 1.
    """
    start_logging(log_config)

    def settled() -> None:
        settle()
        ready()

    try:
        tables = tables_of(relay_features(relay, read_key(data / KEY)))
        uvloop.run(run_until_terminated(data / DATABASE, data / WRITER_SOCKET, settled, tables=tables))
    except (StoreError, CannotRead) as error:
        sys.exit(f"torv writer: {error}")
