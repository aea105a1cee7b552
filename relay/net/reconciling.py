"""The reconciliations of one connection (NIP-77): their names, their number and their age."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from time import monotonic

import structlog

from relay.config import RelayConfig
from relay.engine.feature import Origin
from relay.engine.reconciliation import Reconciliation
from relay.engine.relay import Relay
from relay.net.outbox import Outbox
from relay.nostr.messages import NegErr, NegMsg, NegOpen, RelayMessage
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.store.api import StoreError

log = structlog.get_logger(__name__)

_FAILED = Refusal(Prefix.ERROR, "the relay could not read its database; try again later")
_UNKNOWN = Refusal(Prefix.CLOSED, "no reconciliation of this name is open")
_SEARCH = Refusal(Prefix.UNSUPPORTED, "what is searched for cannot be reconciled")
_IMPATIENT = invalid("NEG-MSG waits for the answer to the one before")


@dataclass(slots=True)
class _Open:
    reconciliation: Reconciliation
    heard_at: float
    answering: asyncio.Task[None] | None = None


class Reconciling:
    """Opens, continues and closes what one client reconciles; one frame of each is answered at a time."""

    __slots__ = ("_begin", "_limits", "_open", "_outbox", "_relay", "_send", "_timeout_seconds")

    def __init__(
        self,
        relay: Relay,
        settings: RelayConfig,
        outbox: Outbox,
        send: Callable[[RelayMessage], None],
        begin: Callable[[Callable[[], Coroutine[None, None, None]]], asyncio.Task[None] | None],
    ) -> None:
        """`begin` starts work that may take long; None: it is done already."""
        self._relay = relay
        self.adopt(settings)
        self._outbox = outbox
        self._send = send
        self._begin = begin
        self._open: dict[str, _Open] = {}

    def adopt(self, settings: RelayConfig) -> None:
        """Go on by these settings."""
        self._limits = settings.limits
        self._timeout_seconds = settings.timeouts.negentropy_seconds

    def open(self, message: NegOpen, origin: Origin) -> None:
        """Begin one, in place of another of its name."""
        name = message.name
        self.close(name)
        most = self._limits.max_negentropy_sessions
        if len(self._open) >= most:
            self._send(
                NegErr(name, str(Refusal(Prefix.RATE_LIMITED, f"at most {most} reconciliations at a time")))
            )
            return
        answer: Reconciliation | Refusal = _SEARCH
        if message.wanted.search is None:
            answer = self._relay.reconcile(message.wanted, origin, most=self._limits.max_negentropy_events)
        if isinstance(answer, Refusal):
            self._send(NegErr(name, str(answer)))
            return
        self._open[name] = opened = _Open(answer, monotonic())
        self._go_on(name, opened, message.frame)

    def go_on(self, message: NegMsg) -> None:
        """Take the client's next frame."""
        opened = self._open.get(message.name)
        if opened is None:
            self._send(NegErr(message.name, str(_UNKNOWN)))
        elif opened.answering is not None:
            self._end(message.name, _IMPATIENT)
        else:
            self._go_on(message.name, opened, message.frame)

    def close(self, name: str) -> None:
        """Forget one; nothing more is said about it."""
        opened = self._open.pop(name, None)
        if opened is None:
            return
        if opened.answering is not None:
            opened.answering.cancel()
        opened.reconciliation.close()

    def close_all(self) -> None:
        """Forget them all: the client is gone."""
        for name in list(self._open):
            self.close(name)

    def look_after(self, now: float) -> None:
        """End those that were left alone. Called every few seconds with the monotonic clock."""
        for name, opened in list(self._open.items()):
            if opened.answering is None and now - opened.heard_at >= self._timeout_seconds:
                self._end(
                    name, Refusal(Prefix.CLOSED, f"nothing was said for {self._timeout_seconds:g} seconds")
                )

    def _go_on(self, name: str, opened: _Open, frame: bytes) -> None:
        opened.answering = self._begin(partial(self._answer, name, opened, frame))

    async def _answer(self, name: str, opened: _Open, frame: bytes) -> None:
        try:
            # A client that reads no answers gets no more of them.
            await self._outbox.room()
            answer = await opened.reconciliation.answer(frame)
        except StoreError as error:
            log.error("a reconciliation could not go on", error=str(error))
            answer = _FAILED
        opened.answering = None
        opened.heard_at = monotonic()
        if isinstance(answer, Refusal):
            self._end(name, answer)
        else:
            self._send(NegMsg(name, answer))

    def _end(self, name: str, reason: Refusal) -> None:
        self.close(name)
        is_too_big = reason.prefix is Prefix.BLOCKED
        self._send(NegErr(name, str(reason), self._limits.max_negentropy_events if is_too_big else None))
