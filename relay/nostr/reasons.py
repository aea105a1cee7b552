"""Why something was refused: the machine-readable prefixes of NIP-01 and NIP-42, as values."""

from dataclasses import dataclass
from enum import StrEnum


class Prefix(StrEnum):
    """The first word of a reason in OK, CLOSED and NEG-ERR (NIP-01, 42, 43, 77)."""

    AUTH_REQUIRED = "auth-required"
    BLOCKED = "blocked"
    CLOSED = "closed"
    DUPLICATE = "duplicate"
    ERROR = "error"
    INFO = "info"
    INVALID = "invalid"
    MUTE = "mute"
    POW = "pow"
    RATE_LIMITED = "rate-limited"
    RESTRICTED = "restricted"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An ordinary "no": a prefix that clients act on, and a text that people read."""

    prefix: Prefix
    text: str

    def __str__(self) -> str:
        return f"{self.prefix.value}: {self.text}"


class Refused(ValueError):
    """Base of the parsers' errors: the peer sent something that breaks the protocol's shape."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal


def prefix_of(reason: str) -> Prefix | None:
    """Return the prefix that a peer's reason begins with; None when it is none that we know."""
    try:
        return Prefix(reason.partition(":")[0])
    except ValueError:
        return None


def invalid(text: str) -> Refusal:
    """Return the refusal for malformed input."""
    return Refusal(Prefix.INVALID, text)
