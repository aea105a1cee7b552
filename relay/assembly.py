"""What every process of a relay is put together from: its folder, its key and its features."""

import os
from collections.abc import Iterable
from pathlib import Path

from relay import features, policies
from relay.config import RelayConfig
from relay.engine.desk import NOBODYS_DESK, Desk
from relay.engine.feature import Context, Feature, Search, nobody
from relay.engine.limits import Spend, unlimited
from relay.features.management.book import membership
from relay.nostr.keys import SecretKey
from relay.store.api import Table

DATABASE = "torv.sqlite3"
SEARCH_INDEX = "torv-search.sqlite3"
WRITER_SOCKET = "writer.sock"
LOCK = "torv.lock"
KEY = "relay.key"


class CannotRead(Exception):
    """A file of the relay's folder cannot be used; the text is for the operator."""


def relay_features(
    config: RelayConfig,
    key: SecretKey,
    spend: Spend = unlimited,
    desk: Desk = NOBODYS_DESK,
    search: Search | None = None,
) -> tuple[Feature, ...]:
    """Return all that this relay does, in order.

    `spend` takes from the buckets of all workers; `desk` reads records, where there is a store; `search`
    answers where words are asked for.
    """
    context = Context(
        key=key,
        spend=spend,
        desk=desk,
        search=search,
        is_member=membership(desk) if config.members.enabled else nobody,
    )
    return features.enabled(config, context, policies.enabled(config, context))


def tables_of(enabled: Iterable[Feature]) -> tuple[Table, ...]:
    """Return the tables that the store's writer keeps for these features."""
    return tuple(table for feature in enabled for table in feature.tables)


def read_key(path: Path) -> SecretKey:
    """Return the relay's own key, made at the first start. Raises CannotRead.

    The file is for its owner's eyes only (mode 0600) and holds 64 hex digits.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        pass
    except OSError as error:
        raise CannotRead(f"cannot write {path}: {error.strerror}") from error
    else:
        with open(fd, "w") as file:
            file.write(SecretKey.generate().secret_bytes().hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
    if path.stat().st_mode & 0o077:
        raise CannotRead(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        return SecretKey(bytes.fromhex(path.read_text().strip()))
    except ValueError:
        raise CannotRead(f"{path} does not hold a secret key of 64 hex digits") from None
