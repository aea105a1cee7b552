"""The writer process of a relay: `python -m relay.writing`, with its settings on standard input.

The store's writer with the tables of this relay's features. SIGTERM: commits what has arrived, answers
it, checkpoints and exits 0. When it cannot serve, it says why in one line on standard error and exits 1.
"""

import argparse
import os
import sys
from pathlib import Path

import orjson
import uvloop
from pydantic import BaseModel, ConfigDict

from relay.assembly import DATABASE, KEY, WRITER_SOCKET, CannotRead, read_key, relay_features, tables_of
from relay.collector import settle
from relay.config import RelayConfig
from relay.logs import start_logging
from relay.settings import LogConfig
from relay.store.api import StoreError
from relay.store.writer_process import run_until_terminated


class WriterSettings(BaseModel):
    """What the supervisor tells the writer."""

    model_config = ConfigDict(frozen=True)

    data: Path
    relay: RelayConfig
    log: LogConfig


def main() -> None:
    """Run the process; the supervisor is its only caller."""
    parser = argparse.ArgumentParser(prog="relay.writing")
    parser.add_argument("--ready-fd", type=int, required=True)
    args = parser.parse_args()
    settings = WriterSettings(**orjson.loads(sys.stdin.buffer.read()))
    start_logging(settings.log)

    def ready() -> None:
        settle()
        os.write(args.ready_fd, b"ready\n")
        os.close(args.ready_fd)

    data = settings.data
    try:
        tables = tables_of(relay_features(settings.relay, read_key(data / KEY)))
        uvloop.run(run_until_terminated(data / DATABASE, data / WRITER_SOCKET, ready, tables=tables))
    except (StoreError, CannotRead) as error:
        sys.exit(f"torv writer: {error}")


if __name__ == "__main__":
    main()
