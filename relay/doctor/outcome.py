"""How a probe ends: proved; failed, with what was sent, expected and came; or skipped, with a reason."""

from dataclasses import dataclass
from enum import StrEnum


class Failed(Exception):
    """The relay does not do what the NIP says, or what its own document says."""

    def __init__(self, *, sent: str, expected: str, came: str) -> None:
        super().__init__(f"{sent}: expected {expected}, but {came}")
        self.sent = sent
        self.expected = expected
        self.came = came


class Skipped(Exception):
    """Nothing can be proved here and now; the text says why, and what would help."""


def expect(holds: bool, *, sent: str, expected: str, came: str) -> None:
    """Raise Failed unless the condition holds."""
    if not holds:
        raise Failed(sent=sent, expected=expected, came=came)


class Verdict(StrEnum):
    """How a probe ended."""

    PROVED = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a probe failed, in words for the operator."""

    sent: str
    expected: str
    came: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found."""

    nip: int
    claim: str
    """What the probe set out to prove: a sentence about the relay."""
    verdict: Verdict
    seconds: float
    failure: Failure | None = None
    reason: str = ""
    """Why it was skipped."""
