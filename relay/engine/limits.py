"""Token buckets: how often one address may do something. Pure; now is an argument."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `per_minute` over a minute, in bursts as large; 0 means no limit."""

    per_minute: int

    def refill(self, tokens: float, elapsed: float) -> float:
        """Return how many tokens a bucket holds `elapsed` seconds after it held `tokens`."""
        return min(self.per_minute, tokens + max(0.0, elapsed) * self.per_minute / 60)
