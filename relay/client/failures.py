"""Why a relay did not do what it was asked: errors, by cause."""

from relay.nostr.reasons import Prefix, prefix_of


class RelayFailure(Exception):
    """Base of what a call to a relay raises."""

    def __init__(self, url: str, text: str) -> None:
        super().__init__(f"{url}: {text}")
        self.url = url
        self.text = text


class Unreachable(RelayFailure):
    """The relay cannot be reached, hung up or does not answer: try again later."""


class Rejected(RelayFailure):
    """The relay answered, and said no; `text` is its reason in its own words, prefix included."""

    @property
    def prefix(self) -> Prefix | None:
        """The machine-readable first word of the reason; None when it has none that we know."""
        return prefix_of(self.text)

    @property
    def is_temporary(self) -> bool:
        """Whether the same request may be accepted later."""
        return self.prefix in (Prefix.RATE_LIMITED, Prefix.ERROR)


class Unsupported(RelayFailure):
    """The relay does not know this part of the protocol: ask in another way."""


class Misbehaved(RelayFailure):
    """The relay breaks the protocol: what it says next is not worth hearing."""
