"""The writer process of a relay: the store's writer with the tables of this relay's features."""

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import structlog
import uvloop

from relay.assembly import DATABASE, KEY, WRITER_SOCKET, CannotRead, read_key, relay_features, tables_of
from relay.collector import settle
from relay.config import RelayConfig, RelaysConfig, Site
from relay.logs import start_logging
from relay.net.orders import follow_orders
from relay.store.api import StoreError, Table
from relay.store.link.frames import PROTOCOL
from relay.store.sqlite.schema import MIGRATIONS
from relay.store.writer_process import run_until_terminated


class Adopts(Protocol):
    """The running writer."""

    async def adopt(self, tables: tuple[Table, ...]) -> None: ...


SPEAKS = repr((PROTOCOL, MIGRATIONS))
"""Processes of different versions of Torv can work on one database together if this is equal."""


def write(config: RelaysConfig, number: int, orders: socket.socket, ready: Callable[[], None]) -> None:
    """Be the writer of the relay of this number until SIGTERM: then commit what has arrived, and checkpoint.

    Calls `ready` once workers can connect. When it cannot serve, it says why in one line on standard error
    and exits 1. New settings come as `orders`.
    """
    site = config.sites[number]
    _log_as(config, site)

    def settled() -> None:
        settle()
        ready()

    async def listen(server: Adopts) -> None:
        async def adopt(new: RelaysConfig) -> None:
            _log_as(new, site)
            await server.adopt(_tables(site.data, new.sites[number].relay))

        await follow_orders(orders, adopt)

    try:
        tables = _tables(site.data, site.relay)
        uvloop.run(
            run_until_terminated(
                site.data / DATABASE, site.data / WRITER_SOCKET, settled, tables=tables, beside=listen
            )
        )
    except (StoreError, CannotRead) as error:
        sys.exit(f"torv {site.titled('writer')}: {error}")


def _tables(data: Path, relay: RelayConfig) -> tuple[Table, ...]:
    return tables_of(relay_features(relay, read_key(data / KEY)))


def _log_as(config: RelaysConfig, site: Site) -> None:
    start_logging(config.log)
    if site.name:
        structlog.contextvars.bind_contextvars(relay=site.name)
