"""What one measurement gives."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.server import Spent


@dataclass
class Result:
    """So much was done, at such a cost."""

    count: int
    """Of what the rate counts."""
    spent: Spent
    latencies: list[float] = field(default_factory=list)
    """Seconds, one for each question or delivery."""

    @property
    def rate(self) -> float:
        """So many a second."""
        return self.count / self.spent.seconds

    def latency_ms(self, share: float) -> float | None:
        """Return the latency that this share of all does not exceed."""
        return percentile(self.latencies, share) * 1000 if self.latencies else None


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
