"""The relay behind real proxies, configured as docs/operating/proxy.md says."""

import asyncio
import json
import re
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import trustme
from aiohttp.abc import AbstractResolver, ResolveResult

from relay.nostr.event import encode
from tests.serving import ROOT, START_SECONDS, STOP_SECONDS, Served, TorvServe
from tests.wire.client import new_key, note, proof

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


class ToLoopback(AbstractResolver):
    """Knows every name as 127.0.0.1."""

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host="127.0.0.1", port=port, family=socket.AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        pass


@dataclass
class Proxy:
    """A running proxy in front of a relay."""

    port: int
    authority: trustme.CA
    relay: Served

    @asynccontextmanager
    async def client(self, address: str) -> AsyncIterator[aiohttp.ClientSession]:
        """Be somebody at this address of the loopback network."""
        trust = ssl.create_default_context()
        self.authority.configure_trust(trust)
        connector = aiohttp.TCPConnector(local_addr=(address, 0), ssl=trust, resolver=ToLoopback())
        base = f"https://{NAME}:{self.port}"
        async with asyncio.timeout(60), aiohttp.ClientSession(base, connector=connector) as session:
            yield session
            # Else TLS is still saying goodbye when the test has ended.
            await connector.close(abort_ssl=True)


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


async def next_text(socket: "aiohttp.ClientWebSocketResponse") -> Any:
    return orjson.loads(await socket.receive_str(timeout=20))


async def test_each_client_has_its_own_address_whatever_it_says(proxy: Proxy) -> None:
    async with (
        proxy.client("127.0.0.5") as many,
        proxy.client("127.0.0.6") as other,
        many.ws_connect("/"),
        many.ws_connect("/", headers=FORGED),
    ):
        for headers in ({}, FORGED, {"X-Forwarded-For": "203.0.113.1"}):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await many.ws_connect("/", headers=headers)
            assert refused.value.status == 429

        async with other.ws_connect("/") as first, other.ws_connect("/"):
            assert (await next_text(first))[0] == "AUTH"


async def test_who_goes_round_the_proxy_is_believed_nothing(proxy: Proxy) -> None:
    connector = aiohttp.TCPConnector(local_addr=("127.0.0.7", 0))
    async with (
        asyncio.timeout(60),
        aiohttp.ClientSession(proxy.relay.http, connector=connector) as direct,
        direct.ws_connect("/"),
        direct.ws_connect("/", headers=FORGED),
    ):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await direct.ws_connect("/", headers={"X-Forwarded-For": "203.0.113.1"})

    assert refused.value.status == 429


async def test_a_key_is_proved_to_the_name_that_the_client_called(proxy: Proxy) -> None:
    async with proxy.client("127.0.0.8") as client, client.ws_connect("/", headers=FORGED) as socket:
        challenge = (await next_text(socket))[1]
        for name, is_right in (("evil.example", False), (NAME, True)):
            proved = proof(new_key(), challenge, relay=f"wss://{name}/")
            await socket.send_str('["AUTH",' + encode(proved).decode() + "]")

            assert (await next_text(socket))[2] is is_right


async def test_the_relay_tells_its_url_as_the_client_knows_it(proxy: Proxy) -> None:
    async with proxy.client("127.0.0.9") as client, client.get("/", headers=FORGED) as page:
        assert f"Add wss://{NAME}:{proxy.port}/ to a Nostr client" in await page.text()


async def test_the_document_may_be_read_by_every_web_page_and_metrics_by_nobody(proxy: Proxy) -> None:
    async with proxy.client("127.0.0.9") as client:
        for method in ("GET", "OPTIONS"):
            headers = {"Accept": "application/nostr+json", "Origin": "https://client.example"}
            async with client.request(method, "/", headers=headers) as answer:
                assert answer.status == {"GET": 200, "OPTIONS": 204}[method]
                assert answer.headers.getall("Access-Control-Allow-Origin") == ["*"]
                if method == "GET":
                    assert json.loads(await answer.text())["name"] == "Torv"
        async with client.get("/metrics") as refused:
            assert refused.status == 404
        async with client.get("/healthz") as health:
            assert await health.text() == "ok\n"


async def test_a_long_silence_and_a_large_message_are_no_trouble(proxy: Proxy) -> None:
    """The silence is longer than nginx waits here for a word of the relay."""
    large = note(new_key(), "x" * 130_000, tags=[["t", "y" * 1_000]] * 60)
    async with (
        proxy.client("127.0.0.10") as client,
        client.ws_connect("/", autoping=False, max_msg_size=0) as listener,
    ):
        await next_text(listener)
        await listener.send_json(["REQ", "s", {"authors": [large.pubkey]}])
        assert (await next_text(listener))[0] == "EOSE"
        for _ in range(4):
            ping = await listener.receive(timeout=20)
            assert ping.type is aiohttp.WSMsgType.PING
            await listener.pong(ping.data)

        async with client.ws_connect("/") as writer:
            await next_text(writer)
            await writer.send_str('["EVENT",' + encode(large).decode() + "]")
            assert (await next_text(writer))[:3] == ["OK", large.id, True]

        heard = await next_text(listener)
        assert heard[:2] == ["EVENT", "s"]
        assert heard[2]["content"] == large.content
