"""What a service manager hears, on a real datagram socket."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay.net.notify import notify, reloading


@pytest.fixture(params=["file", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """The socket of a service manager, as this process is told of it."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        listening.bind(name if request.param == "file" else f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", name if request.param == "file" else f"@{name}")
        yield listening


def test_assignments_come_in_one_datagram(manager: socket.socket) -> None:
    notify("READY=1", "STATUS=serves")

    assert manager.recv(100) == b"READY=1\nSTATUS=serves"


def test_a_reload_says_when_it_began(manager: socket.socket) -> None:
    reloading()

    said = manager.recv(100).split(b"\n")
    assert said[0] == b"RELOADING=1"
    assert said[1].startswith(b"MONOTONIC_USEC=")


def test_without_a_service_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    notify("READY=1")


def test_a_service_manager_that_is_gone_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))

    notify("READY=1")
