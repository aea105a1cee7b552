"""TLS without a proxy: pages and WebSockets over it, and new certificates while connections go on."""

import asyncio
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from relay.nostr.event import encode
from tests.serving import UNLIMITED, Served, TorvServe
from tests.wire.client import Wire, new_key, note, proof


@dataclass
class Secured:
    """A relay with a certificate of its own authority."""

    served: Served
    folder: Path
    authority: trustme.CA

    @property
    def trust(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    @asynccontextmanager
    async def dial(self) -> AsyncIterator[Wire]:
        async with connect(self.served.url, ssl=self.trust, proxy=None, max_size=None) as connection:
            wire = Wire(connection)
            wire.challenge = (await wire.receive())[1]
            yield wire

    def renew(self) -> int:
        """Put a new certificate in place of the one before; return its number."""
        return write_pair(self.folder, self.authority.issue_cert("127.0.0.1"))

    def serial(self) -> int:
        """Return the number of the certificate that a new connection is shown."""
        with (
            socket.create_connection(("127.0.0.1", self.served.port), timeout=20) as plain,
            self.trust.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            shown: Any = secured.getpeercert()
        return int(shown["serialNumber"], 16)


def write_pair(folder: Path, certificate: trustme.LeafCert) -> int:
    """Write the two files; return the certificate's number."""
    (folder / "key.new").write_bytes(certificate.private_key_pem.bytes())
    (folder / "key.new").chmod(0o600)
    (folder / "key.new").rename(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(str(folder / "certificate.new"))
    (folder / "certificate.new").rename(folder / "certificate.pem")
    decoded = ssl._ssl._test_decode_cert(str(folder / "certificate.pem"))  # type: ignore[attr-defined]
    return int(decoded["serialNumber"], 16)


def settings(folder: Path) -> str:
    return (
        f'[relay.tls]\ncertificate = "{folder}/certificate.pem"\nkey = "{folder}/key.pem"\n'
        f"{UNLIMITED}[relay.timeouts]\nhandshake_seconds = 1\nping_seconds = 1\n"
    )


@pytest.fixture(scope="module")
def secured(_serving: TorvServe, tmp_path_factory: pytest.TempPathFactory) -> Secured:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    write_pair(folder, authority.issue_cert("127.0.0.1"))
    return Secured(_serving(settings(folder)), folder, authority)


async def test_a_conversation_goes_over_tls(secured: Secured) -> None:
    key = new_key()
    large = note(key, "x" * 130_000)
    assert secured.served.url.startswith("wss://127.0.0.1:")
    async with secured.dial() as wire:
        assert await wire.subscribe({"authors": [key.public]}) == []
        await wire.send_event(large)
        heard = [await wire.receive() for _ in range(2)]

        assert sorted(message[0] for message in heard) == ["EVENT", "OK"]
        assert [event["id"] for event in await wire.query({"authors": [key.public]})] == [large.id]
        proved = proof(key, wire.challenge, relay=secured.served.url)
        await wire.connection.send('["AUTH",' + encode(proved).decode() + "]")
        assert (await wire.receive())[2] is True
    assert wire.connection.close_code == 1000


async def test_a_mistake_is_told_before_the_connection_ends(secured: Secured) -> None:
    """TLS cannot be ended in one direction, as TCP can."""
    async with secured.dial() as wire:
        await wire.connection.send(b'["REQ","\xff",{}]', text=True)

        with pytest.raises(ConnectionClosed) as closed:
            await wire.receive()

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007


def test_pages_are_served_over_tls(secured: Secured) -> None:
    def read(path: str, accept: str) -> str:
        asked = Request(secured.served.http + path, headers={"Accept": accept})
        with urlopen(asked, timeout=20, context=secured.trust) as answer:
            return str(answer.read(), "utf-8")

    assert f"Add wss://127.0.0.1:{secured.served.port}/ to a Nostr client" in read("/", "text/html")
    assert '"supported_nips"' in read("/", "application/nostr+json")
    assert read("/healthz", "*/*") == "ok\n"


async def test_a_new_certificate_is_in_use_soon_and_connections_go_on(secured: Secured) -> None:
    before = secured.serial()
    async with secured.dial() as wire:
        # Two files that do not belong together are passed over.
        other = secured.authority.issue_cert("127.0.0.1")
        other.cert_chain_pems[0].write_to_path(str(secured.folder / "certificate.pem"))
        async with asyncio.timeout(30):
            while "new TLS certificate is not used" not in secured.served.log.read_text():
                assert await asyncio.to_thread(secured.serial) == before

        renewed = secured.renew()
        assert renewed != before
        async with asyncio.timeout(30):
            # Each worker looks for itself.
            same = 0
            while same < 8:
                same = same + 1 if await asyncio.to_thread(secured.serial) == renewed else 0

        assert await wire.query({"limit": 0}) == []


async def test_a_handshake_that_does_not_come_to_its_end_is_cut(secured: Secured) -> None:
    for begun in (b"", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", secured.served.port)
        writer.write(begun)
        async with asyncio.timeout(20):
            with suppress(ConnectionResetError):
                assert b"HTTP/1.1" not in await reader.read()
        writer.close()
    async with secured.dial() as wire:
        assert await wire.query({"limit": 0}) == []


def test_a_relay_whose_key_others_can_read_does_not_start(tmp_path: Path) -> None:
    write_pair(tmp_path, trustme.CA().issue_cert("127.0.0.1"))
    key = tmp_path / "key.pem"
    key.chmod(0o640)
    (tmp_path / "torv.toml").write_text(settings(tmp_path))
    command = [sys.executable, "-m", "torv", "serve", "--port", "0", "--data", str(tmp_path / "data")]

    done = subprocess.run(
        [*command, "--config", str(tmp_path / "torv.toml")], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert done.stderr == f"Error: {key} can be read by others; run: chmod 600 {key}\n"
