"""Which of several relays on the same sockets a request is for: by host name, then by path."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


def host_of(header: str) -> str:
    """Return the name in a Host header: in lower case, without port, brackets and the dot at the end."""
    text = header.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")


class Directory(Generic[T]):
    """Relays by the hosts and the path that each answers to; built once, asked for every request."""

    def __init__(self, entries: Iterable[tuple[Sequence[str], str, T]]) -> None:
        """`entries`: hosts, path, relay. Without hosts it answers to all that nobody else answers to."""
        found: defaultdict[str, dict[str, T]] = defaultdict(dict)
        for hosts, path, one in entries:
            for host in hosts or ("",):
                found[host_of(host)][path] = one
        self._by_host = dict(found)

    def find(self, host: str, path: str) -> T | None:
        """Return whose a request is, or None.

        Of relays at one host, a path that is nobody's own is for the one whose path is the shortest: the
        pages beside the relays are that one's.
        """
        by_path = self._by_host.get(host_of(host)) or self._by_host.get("")
        if by_path is None:
            return None
        return by_path.get(path) or by_path[min(by_path, key=len)]
