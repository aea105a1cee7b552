"""The link between the worker processes and the one process that writes the database.

Workers read SQLite themselves; what they want to have written travels over a unix socket to the
writer process, which commits the batches of all workers together and rings everybody's bell.
"""

from relay.store.link.server import WriterServer
from relay.store.link.store import LinkedStore

__all__ = ["LinkedStore", "WriterServer"]
