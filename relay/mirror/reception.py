"""How events of other relays come in: by this relay's own rules, in batches, through its writer."""

from collections.abc import Sequence

from relay.engine.feature import Origin
from relay.engine.relay import Relay
from relay.mirror.door import OF_RELAYS
from relay.nostr.event import Event, PubKey
from relay.nostr.kinds import Retention, retention
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Outcome, Write

NOBODY = PubKey("0" * 64)
"""Stands where rules ask for a proved key: the operator chose the partner. No secret belongs to it, so it
is no event's author, and nobody's member or receiver."""

_OURS = Refusal(Prefix.BLOCKED, "only this relay itself publishes by its key")
_ANOTHERS = Refusal(Prefix.BLOCKED, "what another relay says of itself")
_REQUEST = Refusal(Prefix.BLOCKED, "a request to a relay, not for passing on")
_NOT_KEPT = Refusal(Prefix.BLOCKED, "an ephemeral event, which no relay keeps")


class Reception:
    """Takes what one partner gives."""

    def __init__(self, relay: Relay, key: PubKey, *, url: str, trusted: bool) -> None:
        """`relay` need not run; `key` and `url` are its own.

        What a `trusted` partner gives has passed rules like ours before: windows of time, proof of work and
        lists of members do not hold it up. All other rules do.
        """
        self._relay = relay
        self._key = key
        self._origin = Origin("", url, frozenset({NOBODY}), exempt=trusted)
        self._requests = frozenset(kind for feature in relay.features for kind in feature.requests)

    async def take(self, events: Sequence[Event], *, live: bool) -> list[Outcome | Refusal]:
        """Store events whose ids and signatures were checked; say what became of each.

        `live` ones reach subscribers. Raises StoreError: then none of them may be stored.
        """
        self._relay.catch_up()
        now = self._relay.now()
        fates: list[Outcome | Refusal | None] = []
        writes: list[Write] = []
        passing: list[bytes] = []
        for event in events:
            refusal = self._refusal(event, now)
            if refusal is None and retention(event.kind) is Retention.EPHEMERAL and not live:
                refusal = _NOT_KEPT
            if refusal is not None:
                fates.append(refusal)
                continue
            write = self._relay.admission.effects(event)
            if retention(event.kind) is Retention.EPHEMERAL:
                passing.append(write.json)
                fates.append(Outcome.STORED)
                continue
            # Only now: the tables that judge what is imported would believe every word of it.
            write.live = live
            writes.append(write)
            fates.append(None)
        if passing:
            await self._relay.store.announce(passing)
        outcomes = iter(await self._relay.store.write(writes) if writes else ())
        return [next(outcomes) if fate is None else fate for fate in fates]

    def _refusal(self, event: Event, now: int) -> Refusal | None:
        if event.pubkey == self._key:
            return _OURS
        if event.kind in OF_RELAYS:
            return _ANOTHERS
        if event.kind in self._requests:
            return _REQUEST
        admission = self._relay.admission
        return admission.before_signature(event, self._origin, now) or admission.after_signature(
            event, self._origin, now
        )
