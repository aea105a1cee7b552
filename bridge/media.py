"""Fetching pictures from addresses that strangers chose: the only place that does.

Refuses private addresses, on every hop of a redirect and for the very address that is connected to,
and caps size, time and redirects. What a file is, its first bytes say, not its sender.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from bridge.network import Rejected, Unreachable

MAX_PICTURE_BYTES = 5 * 2**20
MAX_REDIRECTS = 3
FETCH_SECONDS = 20.0

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_CHUNK_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file."""

    data: bytes
    content_type: str
    """What its first bytes say: image/png, image/jpeg, image/gif or image/webp."""


class _PublicResolver(AbstractResolver):
    """Resolves names to public addresses only: the address checked is the one connected to."""

    def __init__(self) -> None:
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        public = [result for result in found if is_public(result["host"])]
        if not public:
            raise _PrivateAddress(f"{host} has no public address")
        return public

    async def close(self) -> None:
        await self._inner.close()


class _PrivateAddress(Exception):
    """Not an OSError, which the connector would take for a failure that may pass."""


def is_public(address: str) -> bool:
    """Say whether an IP address belongs to the open internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    # An IPv4 address may be written inside several kinds of IPv6 address.
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def sniff(data: bytes) -> str | None:
    """Return the content type of a picture by its first bytes; None when it is none that we carry."""
    for signature, content_type in _SIGNATURES:
        if data.startswith(signature):
            return content_type
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return None


class PictureFetcher:
    """An async context manager around one HTTP client."""

    def __init__(self, *, allow_private: bool) -> None:
        """`allow_private` also permits loopback and local addresses: for tests."""
        self._allow_private = allow_private

    async def __aenter__(self) -> "PictureFetcher":
        resolver = None if self._allow_private else _PublicResolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(resolver=resolver, limit=4, force_close=True),
            timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def fetch(self, url: str) -> Picture:
        """Download a picture. Raises Rejected when it never will be one, else Unreachable."""
        try:
            target = URL(url)
            async with asyncio.timeout(FETCH_SECONDS):
                for _ in range(MAX_REDIRECTS + 1):
                    self._check(target)
                    async with self._session.get(target, allow_redirects=False) as response:
                        if response.status in (301, 302, 303, 307, 308):
                            target = target.join(URL(response.headers.get("Location", "")))
                            continue
                        return await _read(response)
        except _PrivateAddress as error:
            raise Rejected(str(error)) from None
        except ValueError as error:
            raise Rejected(f"not a URL: {error}") from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unreachable(f"{target.host}: {type(error).__name__}") from error
        raise Rejected(f"more than {MAX_REDIRECTS} redirects")

    def _check(self, url: URL) -> None:
        if url.scheme not in ("http", "https") or not url.host:
            raise Rejected("only http and https are fetched")
        if self._allow_private:
            return
        if url.port not in (80, 443):
            raise Rejected(f"port {url.port} is not one of the web's")
        # Literal addresses are not resolved, so the resolver never sees them.
        if _is_address(url.host) and not is_public(url.host):
            raise Rejected(f"{url.host} is not a public address")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def _read(response: aiohttp.ClientResponse) -> Picture:
    if response.status == 429 or response.status >= 500:
        raise Unreachable(f"{response.url.host}: status {response.status}")
    if response.status != 200:
        raise Rejected(f"{response.url.host}: status {response.status}")
    data = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        data += chunk
        if len(data) > MAX_PICTURE_BYTES:
            raise Rejected(f"the picture is longer than {MAX_PICTURE_BYTES} bytes")
    content_type = sniff(bytes(data[:16]))
    if content_type is None:
        raise Rejected("not a PNG, JPEG, GIF or WebP picture")
    return Picture(bytes(data), content_type)
