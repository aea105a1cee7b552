"""Unix sockets in the data folder, by which processes of one owner meet."""

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Linux: sizeof(sun_path) is 108, with the closing NUL.
_MAX_SOCKET_PATH = 107


def listen(path: Path) -> socket.socket:
    """Listen on a socket that only its owner may open, in place of one that is there. Raises OSError."""
    fresh = path.with_name(path.name + ".new")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        with socket_address(fresh) as address:
            listening.bind(address)
        # Under its own name only when it is private and listens: nobody can come too early.
        fresh.chmod(0o600)
        listening.listen(64)
        os.replace(fresh, path)
    except OSError:
        listening.close()
        raise
    return listening


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Give a name for a unix socket that the kernel takes, however deep the path is."""
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
