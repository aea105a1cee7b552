"""Bringing an older database up to date: a copy of it first, beside it, should the newer one disappoint."""

import shutil
import sqlite3
from pathlib import Path

import structlog

from relay.store.api import StoreError
from relay.store.sqlite.copying import copy_database

log = structlog.get_logger(__name__)

_LEAVE_FREE_BYTES = 64 * 2**20


def copy_before(connection: sqlite3.Connection, path: Path, applied: set[str]) -> Path:
    """Copy a database that lacks some of the migrations; return the copy. Raises StoreError.

    The copy is named after the last migration that it has, and is whole if it has that name. One from an
    earlier upgrade is replaced: the database may have been written by the older version since.
    """
    last = max(applied).partition("_")[0]
    copy = path.with_name(f"{path.name}.version-{last}")
    partial = copy.with_name(copy.name + ".partial")
    wanted = sum(one.stat().st_size for one in (path, path.with_name(path.name + "-wal")) if one.exists())
    free = shutil.disk_usage(path.parent).free
    if free < wanted + _LEAVE_FREE_BYTES:
        raise StoreError(
            f"too little room to bring {path} up to date: a copy of it comes first, which takes "
            f"{wanted / 2**20:,.0f} MiB, and {free / 2**20:,.0f} are free"
        )
    log.info("copying the database before it is brought up to date", to=str(copy))
    partial.unlink(missing_ok=True)  # of one that was killed
    copy_database(connection, partial, lambda done, pages: None, rest=0)
    partial.replace(copy)
    return copy
