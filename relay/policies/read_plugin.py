"""A program of the operator's that decides who sees which events, through every door."""

from collections.abc import Sequence
from itertools import count

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Origin
from relay.lists import parse_span
from relay.plugins.lines import Action, Answer, read_line
from relay.plugins.program import Plugin


class ReadPlugin:
    """A sieve: see `relay.engine.feature.Sieve`."""

    def __init__(self, plugin: Plugin, kinds: Sequence[str], *, max_rows: int, is_open: bool) -> None:
        """`is_open`: what it does not answer for is shown."""
        self.max_rows = max_rows
        self._plugin = plugin
        self._spans = tuple(map(parse_span, kinds))
        self._is_open = is_open
        self._numbers = count(1)

    def covers(self, kind: int) -> bool:
        """See `Sieve.covers`."""
        return not self._spans or any(kind in span for span in self._spans)

    async def passes(self, events: Sequence[bytes], origin: Origin) -> list[bool]:
        """See `Sieve.passes`."""
        if origin.exempt:
            return [True] * len(events)
        # The same for all who have proved nothing, wherever they are.
        positions: dict[str, int] = {}
        questions: dict[str, bytes] = {}
        for position, json in enumerate(events):
            id_ = str(next(self._numbers))
            positions[id_] = position
            questions[id_] = read_line(id_, json, origin)
        shown = [False] * len(events)
        async for settled in self._plugin.ask(questions):
            for id_, answer in settled:
                shown[positions[id_]] = self._is_shown(answer)
        return shown

    def _is_shown(self, answer: Answer | None) -> bool:
        return self._is_open if answer is None else answer.action is Action.ACCEPT


def feature(config: RelayConfig, context: Context) -> Feature:
    settings = config.plugins.read
    if not settings.command:
        return Feature(title="Read plugin")
    plugin = Plugin("read", settings.command, seconds=settings.seconds)
    sieve = ReadPlugin(
        plugin, settings.kinds, max_rows=settings.max_rows, is_open=settings.on_failure == "show"
    )
    return Feature(title="Read plugin", sieve=sieve, close=plugin.close)
