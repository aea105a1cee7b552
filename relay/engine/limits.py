"""Token buckets: how often one address or key may do something. Pure; now is an argument."""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address

_PERIODS = {1: "a second", 60: "a minute", 3_600: "an hour", 86_400: "a day"}


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `most` over some seconds, in bursts as large; 0 means no limit."""

    most: int
    seconds: int = 60
    """A day (86,400) at most."""

    def refill(self, tokens: float, elapsed: float) -> float:
        """Return how many tokens a bucket holds `elapsed` seconds after it held `tokens`."""
        return min(self.most, tokens + max(0.0, elapsed) * self.most / self.seconds)

    def __str__(self) -> str:
        period = _PERIODS.get(self.seconds) or f"{self.seconds} seconds"
        return f"{self.most} {period}"


Spend = Callable[[str, Rate], bool]
"""(name of a bucket, rate) → whether one token could be taken of it, over all processes."""


def unlimited(name: str, rate: Rate) -> bool:
    """Take from a bucket that is never empty: tools have no clients to limit."""
    return True


Drain = Callable[[str, Rate, float], bool]
"""(name of a bucket, rate, amount): take so much of it, also more than it holds → whether something is left.

What costs is known when it is done: who has taken too much waits until the bucket has filled again."""


def bottomless(name: str, rate: Rate, amount: float) -> bool:
    """Take from a bucket that is never empty."""
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
