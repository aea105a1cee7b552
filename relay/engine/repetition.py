"""Does it pay to look for known events before their signatures are checked?

A look-up costs about a tenth of what it spares where it finds something, and nothing but itself where
it does not: the store finds duplicates anyway. So it is made while enough of what came lately was
known. What an event is answered depends on it only where a rule would have refused a known event.
"""

WINDOW = 1_024
"""Events over which the share is averaged, more or less."""
WORTHWHILE = 1 / 16
"""Quiet, a look-up costs 5 µs of SQLite for each new event; a duplicate that was not looked up, 80."""


class Repetition:
    """The share of known events among those that came lately."""

    def __init__(self) -> None:
        # Until it is known better: relays that were away send again what they sent before.
        self._share = 1.0

    @property
    def is_common(self) -> bool:
        """Whether look-ups pay now."""
        return self._share >= WORTHWHILE

    def observe(self, events: int, known: int) -> None:
        """Take account of some events, at least one, of which `known` were stored before."""
        self._share += (known / events - self._share) * min(1.0, events / WINDOW)
