"""Token buckets: how often one address or key may do something. Pure; now is an argument."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `per_minute` over a minute, in bursts as large; 0 means no limit."""

    per_minute: int

    def refill(self, tokens: float, elapsed: float) -> float:
        """Return how many tokens a bucket holds `elapsed` seconds after it held `tokens`."""
        return min(self.per_minute, tokens + max(0.0, elapsed) * self.per_minute / 60)


Spend = Callable[[str, Rate], bool]
"""(name of a bucket, rate) → whether one token could be taken of it, over all processes."""


def unlimited(name: str, rate: Rate) -> bool:
    """Take from a bucket that is never empty: tools have no clients to limit."""
    return True


def counted_as(address: str) -> str:
    """Return what an address is limited as: itself, or an IPv6 address' /64 network.

    A customer is given a /64 at least, and may use a new address of it for every connection.
    """
    try:
        known = ip_address(address)
    except ValueError:
        return address
    if not isinstance(known, IPv6Address):
        return address
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(IPv6Network((int(known) >> 64 << 64, 64)))
