"""Does it pay to look for known events before their signatures are checked?

A look-up costs about a tenth of what it spares where it finds something, and nothing but itself where
it does not: the store finds duplicates anyway. So it is made while enough of what came lately was
known. What an event is answered depends on it only where a rule would have refused a known event.
"""

WINDOW = 1_024
"""Events over which the share is averaged, more or less."""
FIRST_WINDOW = 64
"""The window at first; it grows with what is seen."""
WORTHWHILE = 1 / 16
"""Quiet, a look-up costs 5 µs of SQLite for each new event; a duplicate that was not looked up, 80."""
WORTHWHILE_ALONE = 1 / 4
"""More of it, for one event alone: beginning to read costs as much as twenty events do, for the database has
changed since the last one. The more are looked up together the less of this each has to bear."""


class Repetition:
    """The share of known events among those that came lately."""

    def __init__(self) -> None:
        # Until it is known better: relays that were away send again what they sent before.
        self._share = 1.0
        self._window = FIRST_WINDOW

    def pays(self, events: int) -> bool:
        """Say whether it pays now to look up so many together, at least one."""
        return self._share >= WORTHWHILE + WORTHWHILE_ALONE / events

    def observe(self, events: int, known: int) -> None:
        """Take account of some events, at least one, of which `known` were stored before."""
        self._window = min(WINDOW, self._window + events)
        self._share += (known / events - self._share) * min(1.0, events / self._window)
