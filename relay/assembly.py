"""What every process of a relay is put together from: its folder, its key and its features."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from relay import features, policies
from relay.config import RelayConfig
from relay.engine.desk import NOBODYS_DESK, Desk
from relay.engine.feature import Context, Feature, Search, nobody
from relay.engine.limits import Drain, Spend, bottomless, unlimited
from relay.features.management.book import membership
from relay.nostr.keys import SecretKey
from relay.nostr.nip19 import secret_key
from relay.policies.retention import RetentionRule, rules_of
from relay.store.api import Table

DATABASE = "torv.sqlite3"
SEARCH_INDEX = "torv-search.sqlite3"
WRITER_SOCKET = "writer.sock"
LOCK = "torv.lock"
KEY = "relay.key"

_MAX_KEY_CHARS = 1_024
_NO_KEY = "{} does not hold a secret key: 64 hex digits, or nsec1…"


class CannotRead(Exception):
    """A file of the relay's folder cannot be used; the text is for the operator."""


def relay_features(
    config: RelayConfig,
    key: SecretKey,
    spend: Spend = unlimited,
    desk: Desk = NOBODYS_DESK,
    search: Search | None = None,
    drain: Drain = bottomless,
) -> tuple[Feature, ...]:
    """Return all that this relay does, in order.

    `spend` and `drain` take from the buckets of all workers; `desk` reads records, where there is a store;
    `search` answers where words are asked for.
    """
    context = Context(
        key=key,
        spend=spend,
        drain=drain,
        desk=desk,
        search=search,
        is_member=_membership(config, desk),
    )
    return features.enabled(config, context, policies.enabled(config, context))


def retention_rules(config: RelayConfig, key: SecretKey, desk: Desk) -> tuple[RetentionRule, ...]:
    """Return the relay's rules about how long events are kept."""
    return rules_of(config, Context(key=key, desk=desk, is_member=_membership(config, desk)))


def _membership(config: RelayConfig, desk: Desk) -> Callable[[str], bool]:
    return membership(desk) if config.members.enabled else nobody


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
    return read_secret(path)


def read_secret(path: Path) -> SecretKey:
    """Return the key in a file that its owner alone may read: nsec1… or 64 hex digits. Raises CannotRead."""
    try:
        with path.open() as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise CannotRead(f"{path} can be read by others; run: chmod 600 {path}")
            text = file.read(_MAX_KEY_CHARS)
    except OSError as error:
        raise CannotRead(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise CannotRead(_NO_KEY.format(path)) from None
    try:
        return secret_key(text.strip())
    except ValueError:
        # The parser's words may quote what it was given.
        raise CannotRead(_NO_KEY.format(path)) from None
