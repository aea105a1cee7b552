"""What a probe is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from relay.doctor.visit import Visit


@dataclass(frozen=True, slots=True)
class Probe:
    """Proves one claim about the relay."""

    nip: int
    claim: str
    """A sentence about the relay that is true if the probe passes."""
    run: Callable[[Visit], Awaitable[None]]
    """Returns if the claim was proved. Raises Failed or Skipped."""
