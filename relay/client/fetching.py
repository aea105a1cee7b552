"""Fetching small documents from hosts that others have named: in bounds, and never from the inside.

A name may lead anywhere: to this machine, or to one that only this one can reach. So addresses that are not
of the public Internet are refused, after they were resolved, and those are the ones that are connected to.
"""

import asyncio
import socket
from ipaddress import ip_address

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL


class CannotFetch(Exception):
    """There is no document; the text is for the operator's log."""


def is_public(address: str) -> bool:
    """Say whether an address is one of the public Internet."""
    try:
        known = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(known, "ipv4_mapped", None)
    return (mapped or known).is_global and not (mapped or known).is_multicast


class _PublicResolver(AbstractResolver):
    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, family=family, type=socket.SOCK_STREAM
        )
        public = [
            ResolveResult(
                hostname=host,
                host=str(where[0]),
                port=port,
                family=kind,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for kind, _, _, _, where in found
            if is_public(str(where[0]))
        ]
        if not public:
            raise OSError(f"{host} has no public address")
        return public

    async def close(self) -> None:
        """Nothing is held."""


async def fetch(url: str, *, max_bytes: int, seconds: float, private: bool = False) -> bytes:
    """Return the body of a document that is answered with status 200. Raises CannotFetch.

    Redirects are not followed. Only `private` may lead to addresses that are not public: for URLs of the
    operator's own.
    """
    wanted = URL(url)
    # aiohttp asks no resolver about these.
    if not private and _is_address(wanted.host or "") and not is_public(wanted.host or ""):
        raise CannotFetch(f"{wanted.host} is no public address")
    connector = aiohttp.TCPConnector(resolver=None if private else _PublicResolver(), force_close=True)
    try:
        async with (
            aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=seconds),
                headers={"Accept-Encoding": "identity"},
                # A proxy would resolve names by itself.
                trust_env=False,
            ) as session,
            session.get(wanted, allow_redirects=False) as answer,
        ):
            if answer.status != 200:
                raise CannotFetch(f"{url} is answered with status {answer.status}")
            body = b""
            async for chunk in answer.content.iter_chunked(16_384):
                body += chunk
                if len(body) > max_bytes:
                    raise CannotFetch(f"{url} has more than {max_bytes} bytes")
            return body
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise CannotFetch(f"{url} cannot be fetched: {error or 'no answer in time'}") from error


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
