"""What an event passes on its way in: rules, signature, rules, effects."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import structlog

from relay.engine.feature import Effect, Feature, OfKinds, Origin, Part, Rule, SlowRule
from relay.nostr.event import Event, encode
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Write

log = structlog.get_logger(__name__)

_UNJUDGED = Refusal(Prefix.ERROR, "the relay could not judge this event")


class _Path(NamedTuple):
    """What events of one kind meet."""

    before: tuple[Rule, ...]
    after: tuple[Rule, ...]
    slow: tuple[SlowRule, ...]
    effects: tuple[Effect, ...]


class Admission:
    """The rules and effects of all enabled features, in order.

    The two stages of rules are a security boundary: what counts per pubkey may run only after the
    signature, or anybody could spend somebody else's quota.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._features = tuple(features)
        self.is_slow = any(feature.slow_rules for feature in features)
        """Whether there are slow rules at all."""
        self._path = lru_cache(maxsize=1_024)(self._path_of)

    def before_signature(self, event: Event, origin: Origin, now: int) -> Refusal | None:
        """Return the first refusal of the cheap rules."""
        return _first_refusal(self._path(event.kind).before, event, origin, now)

    def after_signature(self, event: Event, origin: Origin, now: int) -> Refusal | None:
        """Return the first refusal of the rules that trust the author."""
        return _first_refusal(self._path(event.kind).after, event, origin, now)

    def slow_rules(self, event: Event) -> tuple[SlowRule, ...]:
        """Return what has to be asked after everything else, in order."""
        return self._path(event.kind).slow

    def effects(self, event: Event, json: bytes | None = None, *, live: bool = True) -> Write:
        """Say what storing this event means, by every enabled NIP.

        `json` is the event's canonical JSON where the caller has it already.
        """
        write = Write(event, encode(event) if json is None else json, live=live)
        for effect in self._path(event.kind).effects:
            write = effect(write)
        return write

    def _path_of(self, kind: int) -> _Path:
        return _Path(
            _concerning(kind, (feature.before_signature for feature in self._features)),
            _concerning(kind, (feature.after_signature for feature in self._features)),
            _concerning(kind, (feature.slow_rules for feature in self._features)),
            _concerning(kind, (feature.effects for feature in self._features)),
        )


def _first_refusal(rules: tuple[Rule, ...], event: Event, origin: Origin, now: int) -> Refusal | None:
    for rule in rules:
        try:
            refusal = rule(event, origin, now)
        except Exception:
            # A mistake of ours must not let one event take all clients down: they would send it again.
            log.exception("a rule failed; the event is refused", event_id=event.id[:8], kind=event.kind)
            return _UNJUDGED
        if refusal is not None:
            return refusal
    return None


def _concerning(kind: int, parts: Iterable[tuple[Part | OfKinds[Part], ...]]) -> tuple[Part, ...]:
    found: list[Part] = []
    for part in chain.from_iterable(parts):
        if not isinstance(part, OfKinds):
            found.append(part)
        elif part.concerns(kind):
            found.append(part.part)
    return tuple(found)
