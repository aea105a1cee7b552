"""What an event passes on its way in: rules, signature, rules, effects."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import structlog

from relay.engine.feature import Effect, Feature, Origin, Rule
from relay.nostr.event import Event, encode
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Write

log = structlog.get_logger(__name__)

Part = TypeVar("Part")

_UNJUDGED = Refusal(Prefix.ERROR, "the relay could not judge this event")


class Admission:
    """The rules and effects of all enabled features, in order.

    The two stages of rules are a security boundary: what counts per pubkey may run only after the
    signature, or anybody could spend somebody else's quota.
    """

    def __init__(self, features: Sequence[Feature]) -> None:
        self._before: tuple[Rule, ...] = _joined(feature.before_signature for feature in features)
        self._after: tuple[Rule, ...] = _joined(feature.after_signature for feature in features)
        self._effects: tuple[Effect, ...] = _joined(feature.effects for feature in features)

    def before_signature(self, event: Event, origin: Origin, now: int) -> Refusal | None:
        """Return the first refusal of the cheap rules."""
        return _first_refusal(self._before, event, origin, now)

    def after_signature(self, event: Event, origin: Origin, now: int) -> Refusal | None:
        """Return the first refusal of the rules that trust the author."""
        return _first_refusal(self._after, event, origin, now)

    def effects(self, event: Event, json: bytes | None = None, *, live: bool = True) -> Write:
        """Say what storing this event means, by every enabled NIP.

        `json` is the event's canonical JSON where the caller has it already.
        """
        write = Write(event, encode(event) if json is None else json, live=live)
        for effect in self._effects:
            write = effect(write)
        return write


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


def _joined(parts: Iterable[tuple[Part, ...]]) -> tuple[Part, ...]:
    return tuple(item for part in parts for item in part)
