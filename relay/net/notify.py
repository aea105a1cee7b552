"""What systemd is told of a service of Type=notify (sd_notify(3)); nothing where there is no systemd."""

import os
import socket
import time

import structlog

log = structlog.get_logger(__name__)


def notify(*said: str) -> None:
    """Send assignments such as `READY=1` in one datagram."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    # A name that begins with @ is one in the abstract namespace.
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
            sending.sendto("\n".join(said).encode(), address)
    except OSError as error:
        log.warning("the service manager could not be told", said=said, error=str(error))


def reloading() -> None:
    """Say that the configuration is read again; `READY=1` ends that."""
    # systemd 253 wants the time with it, and older ones do not mind.
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000}")
