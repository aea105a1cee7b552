"""The indexer as a process.

It reads the relay's database and writes the index, at the lowest priority: a busy relay comes first.
SIGTERM: exits 0 after the batch under way; the next start goes on from there.
"""

import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from relay.collector import settle
from relay.logs import start_logging
from relay.search.index_file import IndexFile
from relay.search.indexer import Indexer
from relay.settings import LogConfig
from relay.store.api import StoreError
from relay.store.sqlite.reader import SqliteReader

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.25
"""Between two looks at the log. Polling asks nothing of the writer."""
PATROL_SECONDS = 10.0
RETRY_SECONDS = 5.0
REST = 2.0
"""While catching up: rest, as a multiple of work. An idle core's twin still slows the one that serves."""

_ENDING = frozenset({signal.SIGTERM, signal.SIGINT})


def run(
    database: Path,
    path: Path,
    searched: frozenset[int],
    is_ending: Callable[[float], bool],
) -> None:
    """Keep the index until `is_ending` says so; it is given the seconds that it may wait for that.

    The database must exist. Raises StoreError.
    """
    reader = SqliteReader(database)
    index = IndexFile(path, source=reader.key, kinds=searched)
    try:
        indexer = Indexer(reader, index, searched=searched, now=_now, monotonic=time.monotonic)
        settle()
        patrolled_at = time.monotonic()
        pause = 0.0
        while not is_ending(pause):
            try:
                began = time.monotonic()
                is_behind = indexer.step()
                pause = REST * (time.monotonic() - began) if is_behind else POLL_SECONDS
                if not is_behind and time.monotonic() - patrolled_at >= PATROL_SECONDS:
                    indexer.patrol()
                    patrolled_at = time.monotonic()
            except (StoreError, sqlite3.OperationalError) as error:
                log.warning("indexing failed; trying again", error=str(error))
                pause = RETRY_SECONDS
            except sqlite3.DatabaseError as error:
                log.warning("the search index is damaged; making it anew", error=str(error))
                index.begin_anew()
    finally:
        index.close()
        reader.close()


def _now() -> int:
    return int(time.time())


def _ends_within(seconds: float) -> bool:
    return signal.sigtimedwait(_ENDING, seconds) is not None


def keep_index(database: Path, path: Path, searched: frozenset[int], log_config: LogConfig) -> None:
    """Be the indexer until SIGTERM or SIGINT. When it cannot serve, it says why and exits 1."""
    # Waited for, not handled: a batch is never cut in two.
    signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    start_logging(log_config)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    try:
        run(database, path, searched, _ends_within)
    except StoreError as error:
        sys.exit(f"torv search: {error}")
