"""The relay behind real proxies, configured as docs/operating/proxy.md says."""

import asyncio
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import Event

from tests.serving import ROOT, START_SECONDS, STOP_SECONDS, Served, TorvServe
from tests.wire.client import Wire, new_key, note

NAME = "relay.example.com"
DOCUMENT = (ROOT / "docs/operating/proxy.md").read_text()
RELAY = """
[relay]
trusted_proxies = ["127.0.0.1"]
[relay.limits]
connections_per_address = 2
[relay.timeouts]
ping_seconds = 1
"""
FORGED = {
    "X-Forwarded-For": "127.0.0.1, 127.0.0.99",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "http",
    "X-Real-IP": "127.0.0.99",
    "Forwarded": "for=127.0.0.99;host=evil.example",
}

pytestmark = [
    pytest.mark.parametrize("proxy", ["nginx", "caddy"], indirect=True),
    pytest.mark.xdist_group("proxies"),
]


class Counting(ClientConnection):
    """A connection that knows how often the relay has pinged it."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.pings: asyncio.Queue[None] = asyncio.Queue()

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame) and event.opcode is Opcode.PING:
            self.pings.put_nowait(None)
        super().process_event(event)


async def connected(address: str, port: int) -> socket.socket:
    """Return a socket from this address of the loopback network to this port."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.bind((address, 0))
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return sock


@dataclass
class Proxy:
    """A running proxy in front of a relay."""

    port: int
    authority: trustme.CA
    relay: Served

    @property
    def trust(self) -> ssl.SSLContext:
        trust = ssl.create_default_context()
        self.authority.configure_trust(trust)
        return trust

    @asynccontextmanager
    async def dial(self, address: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[Wire]:
        """Be somebody at this address. Raises InvalidStatus."""
        with await connected(address, self.port) as sock:
            async with connect(
                f"wss://{NAME}:{self.port}/",
                sock=sock,
                ssl=self.trust,
                server_hostname=NAME,
                additional_headers=headers,
                create_connection=Counting,
                max_size=None,
                proxy=None,
            ) as connection:
                wire = Wire(connection)
                wire.challenge = (await wire.receive())[1]
                yield wire

    async def status(self, address: str, headers: Mapping[str, str]) -> int:
        """Return with which status a WebSocket is refused."""
        with pytest.raises(InvalidStatus) as refused:
            async with self.dial(address, headers):
                pass
        return refused.value.response.status_code

    async def request(self, method: str, path: str, headers: Mapping[str, str]) -> tuple[int, str, str]:
        """Return status, headers and body of a page."""
        sock = await connected("127.0.0.9", self.port)
        reader, writer = await asyncio.open_connection(sock=sock, ssl=self.trust, server_hostname=NAME)
        told = {"Host": f"{NAME}:{self.port}", "Connection": "close", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode())
        async with asyncio.timeout(20):
            said = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
        head, _, body = said.partition("\r\n\r\n")
        return int(head.split(" ")[1]), head.lower(), body


def snippet(language: str) -> str:
    """Return the one example of this kind in the document."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    assert isinstance(found, str)
    return found


def replaced(text: str, changes: dict[str, str]) -> str:
    """Put the test's ports and paths in place of the example's, each of which has to be there."""
    for example, ours in changes.items():
        assert example in text, example
        text = text.replace(example, ours)
    return text


def nginx(folder: Path, port: int, upstream: int, certificate: Path) -> list[str]:
    """Write the configuration; return the command that runs it."""
    example = replaced(
        snippet("nginx"),
        {
            "127.0.0.1:7777": f"127.0.0.1:{upstream}",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "listen [::]:443 ssl;": "",
            f"/etc/letsencrypt/live/{NAME}/fullchain.pem": str(certificate),
            f"/etc/letsencrypt/live/{NAME}/privkey.pem": str(certificate),
            # Shorter than the test's silence and longer than the relay's pings.
            "_timeout 5m;": "_timeout 3s;",
        },
    )
    (folder / "torv.conf").write_text(example)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder}/pid;\nworker_processes 1;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/torv.conf;\n}}\n"
    )
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    assert program is not None, "make test installs nginx"
    return [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


def caddy(folder: Path, port: int, upstream: int, certificate: Path) -> list[str]:
    """Write the configuration; return the command that runs it."""
    example = replaced(
        snippet("caddyfile"),
        {
            "127.0.0.1:7777": f"127.0.0.1:{upstream}",
            f"{NAME} {{": f"{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls {certificate} {certificate}",
        },
    )
    (folder / "torv.caddy").write_text(example)
    (folder / "Caddyfile").write_text(
        "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
        f"import {folder}/torv.caddy\n"
    )
    program = shutil.which("caddy")
    assert program is not None, "make test installs caddy"
    return [program, "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


PROGRAMS: dict[str, Callable[[Path, int, int, Path], list[str]]] = {"nginx": nginx, "caddy": caddy}


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def start(command: list[str], folder: Path, port: int) -> subprocess.Popen[bytes] | None:
    """Run the proxy; None when somebody else took the port first."""
    environment = {"HOME": str(folder), "PATH": "/usr/bin:/bin"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    deadline = time.monotonic() + START_SECONDS
    while not answers(port):
        if process.poll() is not None:
            if "in use" in (folder / "log").read_text():
                return None
            raise RuntimeError((folder / "log").read_text())
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise TimeoutError((folder / "log").read_text())
        time.sleep(0.02)
    return process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


@pytest.fixture(scope="module")
def served(_serving: TorvServe) -> Served:
    return _serving(RELAY)


@pytest.fixture(scope="module")
def proxy(
    request: pytest.FixtureRequest, served: Served, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """A proxy that runs the document's example in front of the relay."""
    folder = tmp_path_factory.mktemp(request.param)
    authority = trustme.CA()
    certificate = folder / "certificate.pem"
    authority.issue_cert(NAME).private_key_and_cert_chain_pem.write_to_path(str(certificate))
    process = None
    while process is None:
        port = free_port()
        process = start(PROGRAMS[request.param](folder, port, served.port, certificate), folder, port)
    try:
        yield Proxy(port, authority, served)
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


async def test_each_client_has_its_own_address_whatever_it_says(proxy: Proxy) -> None:
    async with proxy.dial("127.0.0.5"), proxy.dial("127.0.0.5", FORGED):
        for headers in ({}, FORGED, {"X-Forwarded-For": "203.0.113.1"}):
            assert await proxy.status("127.0.0.5", headers) == 429

        async with proxy.dial("127.0.0.6"), proxy.dial("127.0.0.6", FORGED):
            assert await proxy.status("127.0.0.6", {}) == 429


async def test_who_goes_round_the_proxy_is_believed_nothing(proxy: Proxy) -> None:
    async def direct(headers: Mapping[str, str]) -> connect:
        sock = await connected("127.0.0.7", proxy.relay.port)
        return connect(proxy.relay.url, sock=sock, additional_headers=headers, proxy=None)

    async with await direct({}), await direct(FORGED):
        with pytest.raises(InvalidStatus) as refused:
            async with await direct({"X-Forwarded-For": "203.0.113.1"}):
                pass

    assert refused.value.response.status_code == 429


async def test_a_key_is_proved_to_the_name_that_the_client_called(proxy: Proxy) -> None:
    async with proxy.dial("127.0.0.8", FORGED) as wire:
        assert (await wire.authenticate(new_key(), relay="wss://evil.example/"))[0] is False
        assert (await wire.authenticate(new_key(), relay=f"wss://{NAME}/"))[0] is True


async def test_the_relay_tells_its_url_as_the_client_knows_it(proxy: Proxy) -> None:
    _, _, page = await proxy.request("GET", "/", FORGED)

    assert f"Add wss://{NAME}:{proxy.port}/ to a Nostr client" in page


async def test_the_document_may_be_read_by_every_web_page_and_metrics_by_nobody(proxy: Proxy) -> None:
    headers = {"Accept": "application/nostr+json", "Origin": "https://client.example"}
    status, head, document = await proxy.request("GET", "/", headers)
    assert (status, head.count("access-control-allow-origin: *\r\n")) == (200, 1)
    assert json.loads(document)["name"] == "Torv"
    status, head, _ = await proxy.request("OPTIONS", "/", headers)
    assert (status, head.count("access-control-allow-origin: *\r\n")) == (204, 1)

    assert (await proxy.request("GET", "/metrics", {}))[0] == 404
    assert (await proxy.request("GET", "/healthz", {}))[2] == "ok\n"


async def test_a_long_silence_and_a_large_message_are_no_trouble(proxy: Proxy) -> None:
    """The silence is longer than nginx waits here for a word of the relay."""
    large = note(new_key(), "x" * 130_000, tags=[["t", "y" * 1_000]] * 60)
    async with proxy.dial("127.0.0.10") as listener:
        assert await listener.subscribe({"authors": [large.pubkey]}) == []
        assert isinstance(listener.connection, Counting)
        async with asyncio.timeout(60):
            for _ in range(4):
                await listener.connection.pings.get()

        async with proxy.dial("127.0.0.10") as writer:
            assert await writer.publish(large) == (True, "")

        assert (await listener.live())["content"] == large.content
