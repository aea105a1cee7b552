"""How events of other relays come in: by this relay's own rules, in batches, through its writer."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import NamedTuple

from relay.engine.feature import Origin, Quietly, SlowRule
from relay.engine.relay import Relay
from relay.mirror.door import OF_RELAYS
from relay.nostr.event import Event, EventId, PubKey, encode
from relay.nostr.kinds import Retention, retention
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Outcome, Write

NOBODY = PubKey("0" * 64)
"""Stands where rules ask for a proved key: the operator chose the partner. No secret belongs to it, so it
is no event's author, and nobody's member or receiver."""

_OURS = Refusal(Prefix.BLOCKED, "only this relay itself publishes by its key")
_ANOTHERS = Refusal(Prefix.BLOCKED, "what another relay says of itself")
_REQUEST = Refusal(Prefix.BLOCKED, "a request to a relay, not for passing on")
_DROPPED = Refusal(Prefix.BLOCKED, "the relay's policy drops this")
_NOT_KEPT = Refusal(Prefix.BLOCKED, "an ephemeral event, which no relay keeps")


class Reception:
    """Takes what one partner gives."""

    def __init__(self, relay: Relay, key: PubKey, origin: Origin) -> None:
        """`relay` need not run; `key` is its own; `origin` says which partner gives.

        What a trusted partner gives (`exempt`) has passed rules like ours before: windows of time, proof of
        work, lists of members and plugins do not hold it up. All other rules do.
        """
        self._relay = relay
        self._key = key
        self._origin = origin
        self._requests = frozenset(kind for feature in relay.features for kind in feature.requests)

    async def take(self, events: Sequence[Event], *, live: bool) -> list[Outcome | Refusal]:
        """Store events whose ids and signatures were checked; say what became of each.

        `live` ones reach subscribers. Raises StoreError: then none of them may be stored.
        """
        self._relay.catch_up()
        now = self._relay.now()
        refusals = [self._refusal(event, now) for event in events]
        passed = [event for event, refusal in zip(events, refusals, strict=True) if refusal is None]
        slowly = await self._ask_slowly(passed, now) if self._relay.admission.is_slow else {}
        fates: list[Outcome | Refusal | None] = []
        writes: list[Write] = []
        for event, refusal in zip(events, refusals, strict=True):
            fates.append(refusal or slowly.get(event.id))
            if fates[-1] is None:
                write = self._relay.admission.effects(event)
                # Only now: the tables that judge what is imported would believe every word of it.
                write.live = live
                writes.append(write)
        outcomes = iter(await self._relay.store.write(writes) if writes else ())
        return [next(outcomes) if fate is None else fate for fate in fates]

    def _refusal(self, event: Event, now: int) -> Refusal | None:
        if event.pubkey == self._key:
            return _OURS
        if event.kind in OF_RELAYS:
            return _ANOTHERS
        if event.kind in self._requests:
            return _REQUEST
        if retention(event.kind) is Retention.EPHEMERAL:
            # It would come back from every partner that is told of it.
            return _NOT_KEPT
        admission = self._relay.admission
        return admission.before_signature(event, self._origin, now) or admission.after_signature(
            event, self._origin, now
        )

    async def _ask_slowly(self, events: Sequence[Event], now: int) -> dict[EventId, Refusal]:
        """Return what slow rules refuse, by the events' ids."""
        # Each event once, though a batch may hold it twice.
        given = {event.id: _Given(event, encode(event), self._origin) for event in events}
        asked: dict[SlowRule, list[_Given]] = {}
        for one in given.values():
            for rule in self._relay.admission.slow_rules(one.event):
                asked.setdefault(rule, []).append(one)
        refused: dict[EventId, Refusal] = {}
        for rule, about in asked.items():
            left = [one for one in about if one.event.id not in refused]
            async with aclosing(rule(left, now)) as rulings:
                async for ruled in rulings:
                    for position, ruling in ruled:
                        if ruling is not None:
                            refused[left[position].event.id] = (
                                _DROPPED if isinstance(ruling, Quietly) else ruling
                            )
        return refused


class _Given(NamedTuple):
    event: Event
    json: bytes
    origin: Origin
