"""From lines to rows: verified on all cores, admitted by the relay's own rules, written in batches.

Lines are checked out of order, and written in order: the store's rules for replacing and removing give
the same rows in any order, but so a report says the same each time.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from relay.engine.admission import Admission
from relay.engine.feature import Origin
from relay.features.nip40 import expires_at
from relay.nostr.event import Event, decode
from relay.nostr.kinds import Retention, retention
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Outcome, Store, Write
from relay.transfer.report import Report
from relay.transfer.source import Chunk, Source, Unreadable
from relay.transfer.verification import Verdict, Verifiers

# The operator imports: limits per address and windows of time are not for this.
_ORIGIN = Origin(address="", url="", exempt=True)


@dataclass(frozen=True, slots=True)
class _Refused:
    """A line of a chunk that is not written."""

    index: int
    reason: str
    is_wrong: bool
    """False: a right event that this relay does not keep, such as a banned key's."""


class Importer:
    """Takes lines into a store."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        verifiers: Verifiers,
        *,
        max_line_bytes: int,
        now: Callable[[], int],
        stop: asyncio.Event,
    ) -> None:
        """`now` in unix seconds. Setting `stop` finishes what was begun, and no more."""
        self._store = store
        self._admission = admission
        self._verifiers = verifiers
        self._max_line_bytes = max_line_bytes
        self._now = now
        self._stop = stop

    async def run(
        self,
        source: Source,
        report: Report,
        *,
        on_done: Callable[[Chunk], Awaitable[None]],
        rejects: BinaryIO | None = None,
    ) -> bool:
        """Import what is left of a source; return whether it was read to its end.

        `on_done` is called after each chunk, in order, when its events are durable and counted in
        the report. Rejected lines go to `rejects` as they were. Raises StoreError, VerifierLost,
        Unreadable; what was done before is counted and durable.
        """
        # Enough for the verifiers to be busy while commits are under way.
        in_flight = 2 * self._verifiers.count + 2
        pending: deque[_Pending] = deque()
        turn = asyncio.Event()
        turn.set()

        async def settle() -> None:
            chunk, taking = pending[0]
            done, refused = await taking
            pending.popleft()
            report.include(done)
            if rejects is not None:
                rejects.writelines(chunk.lines[one.index] + b"\n" for one in refused if one.is_wrong)
            await on_done(chunk)

        reached_end = False
        broken: Unreadable | None = None
        try:
            while not (self._stop.is_set() or reached_end or broken):
                try:
                    chunk = await asyncio.to_thread(source.read_chunk)
                except Unreadable as error:
                    broken = error
                    continue
                if chunk is None:
                    reached_end = True
                    continue
                turn, ours = asyncio.Event(), turn
                taking = asyncio.create_task(self._take(chunk, source.name, ours, turn))
                pending.append(_Pending(chunk, taking))
                if len(pending) >= in_flight:
                    await settle()
            while pending:
                await settle()
        finally:
            for _, taking in pending:
                taking.cancel()
            await asyncio.gather(*(taking for _, taking in pending), return_exceptions=True)
        if broken is not None:
            raise broken
        return reached_end

    async def _take(
        self, chunk: Chunk, name: str, turn: asyncio.Event, next_turn: asyncio.Event
    ) -> tuple[Report, list["_Refused"]]:
        verdicts = await self._verifiers.check(chunk.lines, self._max_line_bytes)
        await turn.wait()
        writes, indexes, refused = _sort_out(verdicts, self._admission, self._now())
        writing = asyncio.create_task(self._write(writes))
        # Tasks begin in the order of their making, and a store keeps the order of its calls.
        next_turn.set()
        done = Report()
        for index, outcome in zip(indexes, await writing, strict=True):
            if isinstance(outcome, Refusal):
                refused.append(_Refused(index, outcome.text, is_wrong=False))
            else:
                done.add_outcome(outcome)
        for one in refused:
            count = done.reject if one.is_wrong else done.leave_out
            count(one.reason, f"{name}:{chunk.first + one.index}")
        return done, refused

    async def _write(self, writes: list[Write]) -> list[Outcome | Refusal]:
        return await self._store.write(writes) if writes else []


class _Pending(NamedTuple):
    chunk: Chunk
    taking: "asyncio.Task[tuple[Report, list[_Refused]]]"


def _sort_out(
    verdicts: list[Verdict], admission: Admission, now: int
) -> tuple[list[Write], list[int], list[_Refused]]:
    """Return what is to be written, which line each write comes from, and what is not written."""
    writes: list[Write] = []
    indexes: list[int] = []
    refused: list[_Refused] = []
    for index, verdict in enumerate(verdicts):
        if isinstance(verdict, str):
            refused.append(_Refused(index, verdict, is_wrong=True))
        elif verdict is not None:
            event = decode(verdict)
            reason = _not_kept(event, now)
            if reason is not None:
                refused.append(_Refused(index, reason, is_wrong=False))
                continue
            # Not the rules after the signature: who sends it does not count here, and a protected
            # event (NIP-70) is welcome from a backup.
            refusal = admission.before_signature(event, _ORIGIN, now)
            if refusal is not None:
                is_wrong = refusal.prefix is not Prefix.BLOCKED
                refused.append(_Refused(index, refusal.text, is_wrong=is_wrong))
            else:
                writes.append(admission.effects(event, verdict, live=False))
                indexes.append(index)
    return writes, indexes, refused


def _not_kept(event: Event, now: int) -> str | None:
    if retention(event.kind) is Retention.EPHEMERAL:
        return "an ephemeral event, which no relay keeps"
    at = expires_at(event)
    if at is not None and at <= now:
        return "expired (NIP-40)"
    return None
