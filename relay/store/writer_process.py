"""The writer process: `python -m relay.store.writer_process --database PATH --socket PATH`.

The only process that writes the database. SIGTERM: commits what has arrived, answers it, checkpoints
and exits 0. When it cannot serve, it says why in one line on standard error and exits 1.
"""

import argparse
import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvloop

from relay.collector import settle
from relay.logs import start_logging
from relay.settings import LogConfig
from relay.store.api import StoreError, Table
from relay.store.link import WriterServer
from relay.store.sqlite import SqliteWriter, Tuning

log = structlog.get_logger(__name__)

DEFAULT = Tuning()

Beside = Callable[[WriterServer], Coroutine[None, None, None]]
"""What runs beside the server, such as what listens for new settings."""


async def run(
    path: Path,
    socket_path: Path,
    ready: Callable[[], None],
    stop: asyncio.Event,
    *,
    tables: Iterable[Table] = (),
    tuning: Tuning = DEFAULT,
    beside: Beside | None = None,
) -> None:
    """Write the database for who connects to the socket, until `stop` is set.

    `beside` runs meanwhile, and is cancelled in the end. Raises StoreError: the database is locked,
    damaged, or not a relay's; StoreTooNew.
    """
    with only_writer(path):
        writer = SqliteWriter(path, tuning, tables=tables)
        try:
            _get_ready(writer)
            server = WriterServer(writer, socket_path)
            running = None if beside is None else asyncio.create_task(beside(server))
            try:
                await server.run(ready, stop)
            finally:
                if running is not None:
                    running.cancel()
        finally:
            writer.close()


def _get_ready(writer: SqliteWriter) -> None:
    try:
        writer.lengthen_log()
    except StoreError as error:
        # A full disk is no reason not to serve what is stored.
        log.warning("the write-ahead log was not lengthened", error=str(error))


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the lock that makes this process the database's only writer. Raises StoreError.

    The kernel lets go of it when the process ends, however it ends.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open {lock}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{path} is in use: another process writes it") from None
        yield
    finally:
        os.close(fd)


async def run_until_terminated(
    path: Path,
    socket_path: Path,
    ready: Callable[[], None],
    *,
    tables: Iterable[Table] = (),
    tuning: Tuning = DEFAULT,
    beside: Beside | None = None,
) -> None:
    """Do `run` until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await run(path, socket_path, ready, stop, tables=tables, tuning=tuning, beside=beside)


def main() -> None:
    """Run the process; its callers are the supervisor and the tests."""
    parser = argparse.ArgumentParser(prog="relay.store.writer_process")
    parser.add_argument("--database", type=Path, required=True)
    parser.add_argument("--socket", type=Path, required=True)
    parser.add_argument("--ready-fd", type=int, help="where to write one line once workers can connect")
    parser.add_argument("--log-level", default=LogConfig().level)
    parser.add_argument("--log-format", default=LogConfig().format)
    args = parser.parse_args()
    start_logging(LogConfig(level=args.log_level, format=args.log_format))

    def ready() -> None:
        settle()
        if args.ready_fd is not None:
            os.write(args.ready_fd, b"ready\n")
            os.close(args.ready_fd)

    try:
        uvloop.run(run_until_terminated(args.database, args.socket, ready))
    except StoreError as error:
        sys.exit(f"torv writer: {error}")


if __name__ == "__main__":
    main()
