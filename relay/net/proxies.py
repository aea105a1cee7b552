"""Who a request is from, where proxies stand between: what trusted ones say, and nothing that others say."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from multidict import CIMultiDict, CIMultiDictProxy

Headers = CIMultiDictProxy[str] | CIMultiDict[str]
Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class ProxyHeader(StrEnum):
    """The header in which a proxy names its client."""

    X_FORWARDED_FOR = "x-forwarded-for"
    FORWARDED = "forwarded"
    """RFC 7239."""
    X_REAL_IP = "x-real-ip"


class Visitor(NamedTuple):
    """Who asks, and by which name they know us."""

    address: str
    """An IP address in its shortest form, IPv4 where it is mapped into IPv6."""
    host: str
    """What a Host header holds: a name, perhaps with a port."""
    is_secure: bool
    """Whether TLS lies between the client and us, or our proxy."""


_IPV4_WITH_PORT = re.compile(r"([\d.]+):\d{1,5}").fullmatch
_BRACKETED = re.compile(r"\[([^\]]+)\](?::\d{1,5})?").fullmatch
_HOST = re.compile(r"(?:[A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?").fullmatch
# RFC 7239, section 4; RFC 9110, section 5.6 for what tokens and quoted strings are.
_PAIR = re.compile(
    r"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|\"((?:[^\"\\]|\\.)*)\")[ \t]*"
).fullmatch
_ESCAPED = re.compile(r"\\(.)")
_SECURE = {"https": True, "wss": True, "http": False, "ws": False}


def read_network(text: str) -> Network:
    """Return a network given as CIDR, or as one address. Raises ValueError."""
    network = ip_network(text.strip())
    # A peer that came over a socket for both is compared as the IPv4 address that it has.
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped and network.prefixlen >= 96:
        return IPv4Network((network.network_address.ipv4_mapped, network.prefixlen - 96))
    return network


def read_address(text: str) -> Address | None:
    """Return the address that a proxy, or a socket, names so; None for what is none.

    It may have brackets, a port, and a zone, which means nothing on another machine and is left out.
    """
    found = _BRACKETED(text) or _IPV4_WITH_PORT(text)
    try:
        address = ip_address((found[1] if found else text).partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies whose word counts, and the header in which they give it."""

    trusted: tuple[Network, ...] = ()
    header: ProxyHeader = ProxyHeader.X_FORWARDED_FOR

    @classmethod
    def of(cls, networks: Iterable[str], header: str) -> "Proxies":
        """Return the proxies of these settings. Raises ValueError."""
        return cls(tuple(map(read_network, networks)), ProxyHeader(header))

    def trusts(self, peer: str) -> bool:
        """Say whether this is the address of a proxy."""
        address = read_address(peer) if self.trusted else None
        return address is not None and self._trusts(address)

    def visitor(self, peer: str, host: str, headers: Headers, *, over_tls: bool = False) -> Visitor:
        """Say whose request this is.

        `peer` is the address at the other end of the socket, `host` the Host header. Of a chain of proxies
        that are all trusted, the first is the visitor; what none of them can have written is not read.
        """
        address = read_address(peer)
        if address is None:
            return Visitor(peer, host, over_tls)
        if not self._trusts(address):
            return Visitor(str(address), host, over_tls)
        match self.header:
            case ProxyHeader.FORWARDED:
                return self._by_rfc_7239(address, host, headers, over_tls)
            case ProxyHeader.X_FORWARDED_FOR:
                hops = _items(headers, "X-Forwarded-For")
            case ProxyHeader.X_REAL_IP:
                hops = _items(headers, "X-Real-IP")[-1:]
        said = _last(_items(headers, "X-Forwarded-Proto")).lower()
        named = _last(_items(headers, "X-Forwarded-Host"))
        return Visitor(
            str(self._first_untrusted(address, hops)),
            named if _HOST(named) else host,
            _SECURE.get(said, over_tls),
        )

    def _by_rfc_7239(self, peer: Address, host: str, headers: Headers, over_tls: bool) -> Visitor:
        elements = parse_forwarded(",".join(headers.getall("Forwarded", ())))
        nearest = elements[-1] if elements else {}
        named = nearest.get("host", "")
        return Visitor(
            str(self._first_untrusted(peer, [element.get("for", "") for element in elements])),
            named if _HOST(named) else host,
            _SECURE.get(nearest.get("proto", "").lower(), over_tls),
        )

    def _first_untrusted(self, peer: Address, hops: Sequence[str]) -> Address:
        # From the right: each proxy appends who came to it, and what stands further left than the word of
        # those we trust was written by anybody.
        address = peer
        for hop in reversed(hops):
            named = read_address(hop)
            if named is None:
                return address
            address = named
            if not self._trusts(address):
                break
        return address

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self.trusted)


def parse_forwarded(text: str) -> list[dict[str, str]]:
    """Return the elements of a Forwarded header, in order: parameters, with their names in lower case.

    An element with a mistake is empty. Separators count inside of quotes too: no address and no name holds
    one, and a quote that a client opens must not swallow what a proxy appends.
    """
    elements: list[dict[str, str]] = []
    for element in text.split(","):
        pairs: dict[str, str] = {}
        for part in element.split(";"):
            found = _PAIR(part)
            if found is None:
                pairs = {}
                break
            value = found[2] if found[2] is not None else _ESCAPED.sub(r"\1", found[3])
            pairs[found[1].lower()] = value
        elements.append(pairs)
    return elements


def _items(headers: Headers, name: str) -> list[str]:
    return [item.strip() for line in headers.getall(name, ()) for item in line.split(",")]


def _last(items: Sequence[str]) -> str:
    return items[-1] if items else ""
