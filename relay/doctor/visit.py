"""What the probes of one examination share: the relay, keys made for it, and what has to be cleaned up."""

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

from relay.doctor.information import Information
from relay.doctor.outcome import Failed, Skipped
from relay.doctor.wire import Answer, Wire, dial, shown
from relay.nostr import kinds
from relay.nostr.event import Event, sign
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.messages import Closed, Counted, Ok
from relay.nostr.reasons import Prefix, prefix_of
from relay.nostr.work import difficulty

LIFE_SECONDS = 900
"""How long an event of a probe lives at most (NIP-40), should the relay be lost before it was deleted."""
MAX_WORK_BITS = 18
"""Proof of work that is done for each event: a second or less."""
_PAUSES = (1.0, 2.0, 4.0)
"""Seconds to wait where the relay says `rate-limited:`, before one more try."""

_NOT_FOR_US = {
    Prefix.RESTRICTED: "it takes such events only from some people; name an allowed key with --key",
    Prefix.BLOCKED: "it does not take such events here",
    Prefix.AUTH_REQUIRED: "it demands a proved key, and no proof was enough; name an allowed key with --key",
    Prefix.RATE_LIMITED: "its rate limits are reached; try again later",
    Prefix.POW: "it demands more proof of work than it says",
}


@dataclass(slots=True)
class Visit:
    """One examination of one relay."""

    url: str
    information: Information
    now: Callable[[], int]
    answer_seconds: float = 10.0
    key: SecretKey | None = None
    """A key that the relay's operator allows more than strangers."""
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    left_behind: int = 0
    """Events that the relay kept although they were to be deleted."""
    _kept: dict[str, list[Event]] = field(default_factory=lambda: defaultdict(list))
    _keys: dict[str, SecretKey] = field(default_factory=dict)

    # Connections.

    @asynccontextmanager
    async def dial(self, *keys: SecretKey) -> AsyncIterator[Wire]:
        """Connect; `auth-required:` is answered with these keys and the allowed one, or else with any."""
        known = keys if self.key is None else (self.key, *keys)
        async with self._dial(*(known or (SecretKey.generate(),))) as wire:
            yield wire

    @asynccontextmanager
    async def dial_as_nobody(self) -> AsyncIterator[Wire]:
        """Connect; `auth-required:` is not answered."""
        async with self._dial() as wire:
            yield wire

    @asynccontextmanager
    async def _dial(self, *proofs: SecretKey) -> AsyncIterator[Wire]:
        async with dial(self.url, now=self.now, answer_seconds=self.answer_seconds, proofs=proofs) as wire:
            yield wire

    @asynccontextmanager
    async def dial_proved(self, key: SecretKey, *, writes: bool = False) -> AsyncIterator[Wire]:
        """Connect and prove a key at once; who `writes` proves the allowed key too.

        Raises Skipped where the relay takes no proof (NIP-42).
        """
        async with self._dial(key) as wire:
            if 42 not in self.information.nips:
                raise Skipped("a key has to be proved for it, and the relay does not advertise NIP-42")
            for proved in (key,) if self.key is None or not writes else (key, self.key):
                ok = await wire.prove(proved)
                if not ok.accepted:
                    raise Failed(sent="AUTH with a right proof", expected="an OK", came=f"{ok.reason!r} came")
            yield wire

    # Events.

    def newcomer(self) -> SecretKey:
        """Return a key that nobody has used."""
        return SecretKey.generate()

    def event(
        self,
        author: SecretKey,
        kind: int = kinds.NOTE,
        content: str = "",
        *,
        tags: Sequence[Sequence[str]] = (),
        age: int = 0,
        at: int | None = None,
        lasts: bool = False,
        work: int | None = None,
    ) -> Event:
        """Return a signed event, made `age` seconds ago or `at` a time, that expires unless it `lasts`.

        It carries the proof of work that the relay's document asks for, or `work` bits.
        """
        bits = (self.information.limit("min_pow_difficulty") or 0) if work is None else work
        if bits > MAX_WORK_BITS:
            raise Skipped(
                f"it demands {bits} bits of proof of work, more than a probe does ({MAX_WORK_BITS})"
            )
        now = self.now()
        created_at = now - age if at is None else at
        said = content or f"torv doctor was here {secrets.token_hex(8)}"
        self._keys[author.public] = author
        given = [*tags] if lasts else [*tags, ["expiration", str(now + LIFE_SECONDS)]]
        for nonce in count():
            mined = [*given, ["nonce", str(nonce), str(bits)]] if bits else given
            event = sign(author, created_at=created_at, kind=kind, tags=mined, content=said)
            if difficulty(event.id) >= bits:
                return event
        raise AssertionError("count() has no end")

    async def publish(self, wire: Wire, event: Event) -> Ok:
        """Publish an event; return the relay's yes or no. Waits where it is told to (`rate-limited:`).

        What was accepted is deleted at the end.
        """
        ok = await wire.publish(event)
        for seconds in _PAUSES:
            if ok.accepted or prefix_of(ok.reason) is not Prefix.RATE_LIMITED:
                break
            await self.pause(seconds)
            ok = await wire.publish(event)
        if ok.accepted and kinds.retention(event.kind) is not kinds.Retention.EPHEMERAL:
            self._kept[event.pubkey].append(event)
        return ok

    async def keep(self, wire: Wire, *events: Event) -> None:
        """Publish events that have to be accepted. Raises Failed, or Skipped where it says who may."""
        for event in events:
            ok = await self.publish(wire, event)
            if ok.accepted:
                continue
            why = _NOT_FOR_US.get(prefix_of(ok.reason) or Prefix.INVALID)
            if why is not None:
                raise Skipped(f"{why}: {ok.reason!r} to {shown(event)}")
            raise Failed(
                sent=f"EVENT {shown(event)}, which is right", expected="an OK", came=f"{ok.reason!r} came"
            )

    async def refused(self, wire: Wire, event: Event, why: str) -> Ok:
        """Publish an event that the relay must not accept, and return its OK. Raises Failed."""
        ok = await self.publish(wire, event)
        if ok.accepted:
            raise Failed(sent=f"EVENT {shown(event)}, {why}", expected="a refusal", came="it was accepted")
        return ok

    async def found(self, wire: Wire, *filters: Filter) -> Answer:
        """Ask what must be answered. Raises Failed, or Skipped where the reason says who may."""
        answer = await wire.ask(*filters)
        for seconds in _PAUSES:
            if answer.refusal is None or prefix_of(answer.refusal) is not Prefix.RATE_LIMITED:
                break
            await self.pause(seconds)
            answer = await wire.ask(*filters)
        if answer.refusal is not None:
            raise _refusal("REQ", answer.refusal)
        return answer

    async def counted(self, wire: Wire, *filters: Filter) -> Counted:
        """Count what must be answered. Raises Failed, or Skipped where the reason says who may."""
        answer = await wire.count(*filters)
        if isinstance(answer, Closed):
            raise _refusal("COUNT", answer.reason)
        return answer

    # At the end.

    async def clean_up(self) -> None:
        """Delete what the probes have published (NIP-09); what expires by itself will. Counts what stays.

        An author who is not believed (the relay's own judgement of groups, say) is passed over.
        """
        kept, keys = dict(self._kept), dict(self._keys)
        self._kept.clear()
        self._keys.clear()
        if not kept:
            return
        async with self.dial() as wire:
            for pubkey, events in kept.items():
                if pubkey not in keys:
                    continue
                tags = [["e", event.id] for event in events]
                tags += [["a", str(event.address)] for event in events if event.address is not None]
                tags += [["k", str(kind)] for kind in sorted({event.kind for event in events})]
                request = self.event(keys[pubkey], kinds.DELETION, "a probe is over", tags=tags)
                ok = await wire.publish(request)
                if not ok.accepted or 9 not in self.information.nips:
                    self.left_behind += len(events)


def _refusal(what: str, reason: str) -> Exception:
    prefix = prefix_of(reason)
    if prefix in (Prefix.AUTH_REQUIRED, Prefix.RESTRICTED):
        return Skipped(f"it answers only some people; name an allowed key with --key: {reason!r}")
    if prefix is Prefix.RATE_LIMITED:
        return Skipped(f"its rate limits are reached; try again later: {reason!r}")
    return Failed(sent=f"a {what} that is right", expected="an answer", came=f"CLOSED {reason!r} came")
