"""Events on their way in: admitted in small batches, written with others, answered after the commit.

A batch is what arrived while the one before was being checked. Nothing waits for a timer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import structlog

from relay.engine.admission import Admission
from relay.engine.feature import Origin, Request
from relay.engine.repetition import Repetition
from relay.nostr import event as events
from relay.nostr.event import Event, EventId
from relay.nostr.kinds import Retention, retention
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.store.api import Outcome, Store, StoreError, Write

log = structlog.get_logger(__name__)

# About 3 ms of signature checks: after each batch the event loop serves everybody else.
BATCH = 64
LOOKED_UP_TOGETHER = 256
"""Events whose rules and ids are looked at before signatures are: known ones are answered at once, and the
answers to one client go out in one write; four times as many at a time cost duplicates a fifth less."""
# Batches that were handed to the store and wait for their commit.
BATCHES_IN_FLIGHT = 16
MAX_ARRIVALS = 2_048
"""Events that wait for admission; connections stop reading when it is reached. With four times as many, what
is done to an event finds it outside of the processor's caches, and costs up to a tenth more."""
TAKEN_AT_ONCE = 32
"""Events that a connection brings once it may go on, as it is reckoned here."""

Reply = Callable[[str, bool, str], None]
"""(event id, accepted, reason): called once per event, after its commit or its refusal."""

_WRONG_ID = str(invalid("id is not the hash of the event"))
_WRONG_SIGNATURE = str(invalid("signature does not verify"))
_DUPLICATE = str(Refusal(Prefix.DUPLICATE, "already have this event"))
_FAILED = str(Refusal(Prefix.ERROR, "the event could not be stored; try again later"))
_MUTE = str(Refusal(Prefix.MUTE, "no one was listening for this event"))

_ANSWERS: dict[Outcome, tuple[bool, str]] = {
    Outcome.STORED: (True, ""),
    Outcome.DUPLICATE: (True, _DUPLICATE),
    # NIP-01 has no prefix of its own for this; clients take `duplicate:` as "nothing left to do".
    Outcome.SUPERSEDED: (False, str(Refusal(Prefix.DUPLICATE, "a newer version of this event is stored"))),
    Outcome.DELETED: (False, str(Refusal(Prefix.BLOCKED, "this event was deleted"))),
}


class Arrival(NamedTuple):
    """An event whose shape is right, nothing else."""

    event: Event
    json: bytes
    """Its canonical JSON."""
    origin: Origin
    reply: Reply


class Intake:
    """The way in, for all connections of one process."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        *,
        now: Callable[[], int],
        is_heard: Callable[[Event], bool] | None,
        requests: Mapping[int, Request] | None = None,
        catch_up: Callable[[], None] = lambda: None,
    ) -> None:
        """`is_heard` says whether an ephemeral event has a listener; None where that is not known.

        `requests` answer events of their kinds; `catch_up` is called before each batch.
        """
        self._requests = requests or {}
        self._catch_up = catch_up
        self._store = store
        self._admission = admission
        self._adopted: tuple[Admission, Mapping[int, Request]] | None = None
        """What the next batch is judged by, if not by what the last one was."""
        self._now = now
        self._is_heard = is_heard
        self._arrivals: deque[Arrival] = deque()
        self._repetition = Repetition()
        self._arrived = asyncio.Event()
        self._waiting: deque[asyncio.Future[None]] = deque()
        """Who waits for room, first come first served."""
        self._in_flight: dict[EventId, list[Reply]] = {}
        self._slots = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        self._commits: set[asyncio.Task[None]] = set()
        self._busy = False

    def adopt(self, admission: Admission, requests: Mapping[int, Request]) -> None:
        """Judge by these from the next batch on; the one under way is judged to its end as it began."""
        self._adopted = (admission, requests)

    def be_one_of_several(self) -> None:
        """Take it from now on that other processes serve subscribers too."""
        self._is_heard = None

    def take(self, arrival: Arrival) -> None:
        """Take an event; its reply is called later, also when it is refused."""
        self._arrivals.append(arrival)
        self._arrived.set()

    async def room(self) -> None:
        """Wait until more events may be taken."""
        if self.is_full:
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting

    @property
    def is_full(self) -> bool:
        return len(self._arrivals) >= MAX_ARRIVALS

    async def run(self) -> None:
        """Admit what arrives, until cancelled."""
        async with asyncio.TaskGroup() as commits:
            while True:
                await self._arrived.wait()
                if self._adopted is not None:
                    self._admission, self._requests = self._adopted
                    self._adopted = None
                due = min(LOOKED_UP_TOGETHER, len(self._arrivals))
                arrived = [self._arrivals.popleft() for _ in range(due)]
                if not self._arrivals:
                    self._arrived.clear()
                self._make_room()
                self._busy = True
                try:
                    now = self._now()
                    look_up = self._repetition.is_common
                    fresh = await self._sift(arrived, now, look_up=look_up)
                    for start in range(0, len(fresh), BATCH):
                        await self._slots.acquire()
                        batch = fresh[start : start + BATCH]
                        await self._admit(batch, now, commits, looked_up=look_up)
                        # Sockets are read and written between two batches.
                        await asyncio.sleep(0)
                finally:
                    self._busy = False
                if not fresh:
                    await asyncio.sleep(0)

    def _make_room(self) -> None:
        """Let as many go on as there is room for: if all did, each could bring one event only."""
        left = len(self._arrivals)
        if left >= MAX_ARRIVALS // 2:
            return
        places = (MAX_ARRIVALS - left) // TAKEN_AT_ONCE if left else len(self._waiting)
        while places > 0 and self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)
                places -= 1

    async def drain(self) -> None:
        """Wait until everything that was taken has been answered."""
        while self._arrivals or self._busy or self._commits:
            if self._commits:
                await asyncio.wait(self._commits)
            else:
                await asyncio.sleep(0.005)

    async def _sift(self, arrived: list[Arrival], now: int, *, look_up: bool) -> list[Arrival]:
        """Answer what can be answered without looking at signatures; return the others."""
        try:
            self._catch_up()
        except StoreError as error:
            # Rules then judge by what was known; tables, where it counts, by what is.
            log.warning("keeping up with records failed", error=str(error))
        hashed = [arrival for arrival in arrived if self._has_right_id(arrival, now)]
        if not look_up or not hashed:
            return hashed
        known = await self._known([arrival.event.id for arrival in hashed])
        for arrival in hashed:
            if arrival.event.id in known:
                arrival.reply(arrival.event.id, True, _DUPLICATE)
        return [arrival for arrival in hashed if arrival.event.id not in known]

    async def _admit(
        self, batch: list[Arrival], now: int, commits: asyncio.TaskGroup, *, looked_up: bool
    ) -> None:
        writes: list[Write] = []
        replies: list[Reply] = []
        passing: list[bytes] = []
        for arrival in batch:
            event, json, origin, reply = arrival
            if (waiting := self._in_flight.get(event.id)) is not None:
                # Not durable yet: its answer comes with the commit.
                waiting.append(reply)
            elif not events.has_right_signature(event):
                reply(event.id, False, _WRONG_SIGNATURE)
            elif (refusal := self._admission.after_signature(event, origin, now)) is not None:
                reply(event.id, False, str(refusal))
            elif (request := self._requests.get(event.kind)) is not None:
                asking = commits.create_task(self._ask(request, arrival, now))
                self._commits.add(asking)
                asking.add_done_callback(self._commits.discard)
            elif retention(event.kind) is Retention.EPHEMERAL:
                if self._is_heard is not None and not self._is_heard(event):
                    reply(event.id, False, _MUTE)
                else:
                    passing.append(json)
                    reply(event.id, True, "")
            else:
                self._in_flight[event.id] = []
                writes.append(self._admission.effects(event, json))
                replies.append(reply)
        if passing:
            await self._store.announce(passing)
        if not writes:
            self._slots.release()
            return
        commit = commits.create_task(self._commit(writes, replies, looked_up=looked_up))
        self._commits.add(commit)
        commit.add_done_callback(self._commits.discard)

    async def _ask(self, request: Request, arrival: Arrival, now: int) -> None:
        event, _, origin, reply = arrival
        try:
            accepted, reason = await request(event, origin, now)
        except StoreError as error:
            log.error("a request could not be answered", kind=event.kind, error=str(error))
            accepted, reason = False, _FAILED
        except Exception:
            # A mistake of ours must not take the other clients down.
            log.exception("a request failed", event_id=event.id[:8], kind=event.kind)
            accepted, reason = False, _FAILED
        reply(event.id, accepted, reason)

    async def _known(self, ids: list[EventId]) -> set[EventId]:
        try:
            known = await self._store.known(ids)
        except StoreError as error:
            # The signature check decides alone then, and the write finds duplicates anyway.
            log.warning("looking for duplicates failed", error=str(error))
            return set()
        self._repetition.observe(len(ids), len(known))
        return known

    def _has_right_id(self, arrival: Arrival, now: int) -> bool:
        event, _, origin, reply = arrival
        refusal = self._admission.before_signature(event, origin, now)
        if refusal is not None:
            reply(event.id, False, str(refusal))
            return False
        if not events.has_right_id(event):
            reply(event.id, False, _WRONG_ID)
            return False
        return True

    async def _commit(self, writes: list[Write], replies: list[Reply], *, looked_up: bool) -> None:
        answers: list[tuple[bool, str]]
        try:
            outcomes = await self._store.write(writes)
            if not looked_up:
                self._repetition.observe(len(outcomes), outcomes.count(Outcome.DUPLICATE))
            answers = [
                _ANSWERS[outcome] if isinstance(outcome, Outcome) else (False, str(outcome))
                for outcome in outcomes
            ]
        except StoreError as error:
            log.error("events could not be stored", events=len(writes), error=str(error))
            answers = [(False, _FAILED)] * len(writes)
        finally:
            self._slots.release()
        for write, reply, (accepted, reason) in zip(writes, replies, answers, strict=True):
            id_ = write.event.id
            reply(id_, accepted, reason)
            for waiting in self._in_flight.pop(id_):
                waiting(id_, accepted, _DUPLICATE if accepted else reason)
