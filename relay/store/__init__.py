"""Where events are kept: one contract (`relay.store.api`), several stores, chosen by URL."""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from relay.store.api import Store, StoreError, Table


async def open_store(url: str, tables: Iterable[Table] = ()) -> Store:
    """Open the store that a URL names, creating it where it does not exist. Raises StoreTooNew, StoreError.

    `sqlite:///folder/file` is relative to the working directory, `sqlite:////folder/file` is
    absolute; this process must be its only writer. `memory:` is forgotten with the process.
    """
    # Imported when asked for: nobody pays for the libraries of a store that is not used.
    parts = urlsplit(url)
    if parts.scheme == "memory" and not parts.netloc and not parts.path:
        from relay.store.memory import MemoryStore

        return MemoryStore(tables)
    if parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        from relay.store.sqlite import SqliteStore

        return await SqliteStore.open(Path(unquote(parts.path[1:])), tables=tables)
    raise StoreError(f"{url!r} names no store: expected sqlite:///path/to/file or memory:")
