"""Events on their way in: admitted in small batches, written with others, answered after the commit.

A batch is half of what has arrived meanwhile: the other half is checked while it is being written. Nothing
waits for a timer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from time import monotonic
from typing import NamedTuple

import structlog

from relay.engine.admission import Admission
from relay.engine.feature import Origin, Quietly, Request, SlowRule
from relay.engine.repetition import Repetition
from relay.nostr import event as events
from relay.nostr.event import Event, EventId
from relay.nostr.kinds import Retention, retention
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.store.api import Outcome, Store, StoreError, Write

log = structlog.get_logger(__name__)

# About 3 ms of signature checks: after so many the event loop serves everybody else.
CHECKED_AT_ONCE = 64
MOST_TOGETHER = 512
"""Events that are looked up together before signatures are checked, and written together after. An event
costs the writer 98 µs in commits of 64, 70 of 128 or 256, 61 of 512 and 54 of 1,024."""
# Batches that were handed to the store and wait for their commit.
BATCHES_IN_FLIGHT = 16
MAX_ARRIVALS = 2_048
"""Events that wait for admission; connections stop reading when it is reached. With four times as many, what
is done to an event finds it outside of the processor's caches, and costs up to a tenth more."""
MAX_JUDGED = 4_096
"""Events that slow rules are asked about at a time; nothing more is admitted meanwhile."""
TAKEN_AT_ONCE = 32
"""Events that a connection brings once it may go on, as it is reckoned here."""

Reply = Callable[[str, bool, str], None]
"""(event id, accepted, reason): called once per event, after its commit or its refusal."""

_WRONG_ID = str(invalid("id is not the hash of the event"))
_WRONG_SIGNATURE = str(invalid("signature does not verify"))
_DUPLICATE = str(Refusal(Prefix.DUPLICATE, "already have this event"))
_FAILED = str(Refusal(Prefix.ERROR, "the event could not be stored; try again later"))
_UNRULED = Refusal(Prefix.ERROR, "the relay could not judge this event")
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


class _Taking(NamedTuple):
    """Events that all rules let pass."""

    writes: list[Write]
    replies: list[Reply]
    """Of the writes, in their order."""
    passing: list[bytes]
    """The canonical JSON of ephemeral events."""


class _Round(NamedTuple):
    """What events are judged by that slow rules are asked about, to the end."""

    admission: Admission
    now: int
    commits: asyncio.TaskGroup
    looked_up: bool
    """Whether known events were sorted out before."""


def _nobody_watches(*_: float) -> None:
    """Take no note."""


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
        self._judged: dict[EventId, list[Arrival]] = {}
        """Events that slow rules are asked about, and copies of them that came meanwhile: what is decided of
        one client is not decided of another."""
        self._fewer_judged = asyncio.Event()
        self._slots = asyncio.Semaphore(BATCHES_IN_FLIGHT)
        self._commits: set[asyncio.Task[None]] = set()
        self._busy = False
        self.on_verified: Callable[[float], None] = _nobody_watches
        """Told how many seconds it took to check some signatures, and what follows from them."""
        self.on_written: Callable[[int, float], None] = _nobody_watches
        """Told of how many events, and how many seconds later, a batch was committed, or failed."""

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

    def __len__(self) -> int:
        """Return how many events wait to be looked at."""
        return len(self._arrivals)

    async def run(self) -> None:
        """Admit what arrives, until cancelled."""
        async with asyncio.TaskGroup() as commits:
            while True:
                await self._arrived.wait()
                if self._adopted is not None:
                    self._admission, self._requests = self._adopted
                    self._adopted = None
                arrived = self._next_batch()
                self._make_room()
                self._busy = True
                try:
                    await self._take_batch(arrived, commits)
                finally:
                    self._busy = False
                await asyncio.sleep(0)

    def _next_batch(self) -> list[Arrival]:
        waiting = len(self._arrivals)
        due = min(waiting, max(CHECKED_AT_ONCE, min(waiting // 2, MOST_TOGETHER)))
        batch = [self._arrivals.popleft() for _ in range(due)]
        if due == waiting:
            self._arrived.clear()
        return batch

    async def _take_batch(self, arrived: list[Arrival], commits: asyncio.TaskGroup) -> None:
        now, looked_up = self._now(), self._repetition.pays(len(arrived))
        fresh = await self._sift(arrived, now, look_up=looked_up)
        while len(self._judged) >= MAX_JUDGED:
            self._fewer_judged.clear()
            await self._fewer_judged.wait()
        taking = _Taking([], [], [])
        slow: list[Arrival] = []
        for start in range(0, len(fresh), CHECKED_AT_ONCE):
            if start:
                # Sockets are read and written meanwhile.
                await asyncio.sleep(0)
            self._admit(fresh[start : start + CHECKED_AT_ONCE], now, commits, taking, slow)
        if slow:
            self._have_judged(slow, 0, _Round(self._admission, now, commits, looked_up))
        await self._slots.acquire()
        await self._finish(taking, commits, looked_up=looked_up)

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

    def _admit(
        self,
        arrived: list[Arrival],
        now: int,
        commits: asyncio.TaskGroup,
        taking: "_Taking",
        slow: list[Arrival],
    ) -> None:
        """Check signatures. What only slow rules are left for goes to `slow`."""
        began = monotonic()
        for arrival in arrived:
            event, _, origin, reply = arrival
            if (waiting := self._in_flight.get(event.id)) is not None:
                # Not durable yet: its answer comes with the commit.
                waiting.append(reply)
            elif (copies := self._judged.get(event.id)) is not None:
                copies.append(arrival)
            elif not events.has_right_signature(event):
                reply(event.id, False, _WRONG_SIGNATURE)
            elif (refusal := self._admission.after_signature(event, origin, now)) is not None:
                reply(event.id, False, str(refusal))
            elif self._admission.is_slow and self._admission.slow_rules(event):
                self._judged[event.id] = []
                slow.append(arrival)
            else:
                self._take_in(arrival, now, commits, taking)
        self.on_verified(monotonic() - began)

    def _take_in(self, arrival: Arrival, now: int, commits: asyncio.TaskGroup, taking: "_Taking") -> None:
        event, json, _, reply = arrival
        if (request := self._requests.get(event.kind)) is not None:
            self._begin(commits, self._ask(request, arrival, now))
        elif retention(event.kind) is Retention.EPHEMERAL:
            if self._is_heard is not None and not self._is_heard(event):
                reply(event.id, False, _MUTE)
            else:
                taking.passing.append(json)
                reply(event.id, True, "")
        else:
            self._in_flight[event.id] = []
            taking.writes.append(self._admission.effects(event, json))
            taking.replies.append(reply)

    async def _finish(self, taking: "_Taking", commits: asyncio.TaskGroup, *, looked_up: bool) -> None:
        """Announce and begin to write what was taken in; the slot is let go of after the commit."""
        writes, replies, passing = taking
        if passing:
            await self._store.announce(passing)
        if not writes:
            self._slots.release()
            return
        self._begin(commits, self._commit(writes, replies, looked_up=looked_up))

    def _begin(self, commits: asyncio.TaskGroup, work: Coroutine[None, None, None]) -> None:
        task = commits.create_task(work)
        self._commits.add(task)
        task.add_done_callback(self._commits.discard)

    def _have_judged(self, arrivals: list[Arrival], asked: int, round_: "_Round") -> None:
        """Begin to ask the slow rules behind the first `asked`."""
        by_rule: dict[SlowRule, list[Arrival]] = {}
        for arrival in arrivals:
            by_rule.setdefault(round_.admission.slow_rules(arrival.event)[asked], []).append(arrival)
        for rule, concerned in by_rule.items():
            self._begin(round_.commits, self._judge(rule, concerned, asked + 1, round_))

    async def _judge(self, rule: SlowRule, arrivals: list[Arrival], asked: int, round_: "_Round") -> None:
        """Take in what a rule lets pass, as it answers; after it, `asked` have been asked."""
        left = dict(enumerate(arrivals))
        try:
            async with aclosing(rule(arrivals, round_.now)) as rulings:
                async for ruled in rulings:
                    settled = [(left.pop(position), ruling) for position, ruling in ruled]
                    await self._settle(settled, asked, round_)
        except Exception:
            # A mistake of ours must not take all clients down.
            log.exception("a slow rule failed; its events are refused", events=len(left))
        await self._settle([(arrival, _UNRULED) for arrival in left.values()], asked, round_)

    async def _settle(
        self,
        settled: Sequence[tuple[Arrival, Refusal | Quietly | None]],
        asked: int,
        round_: "_Round",
    ) -> None:
        passed: list[Arrival] = []
        further: list[Arrival] = []
        for arrival, ruling in settled:
            event, _, _, reply = arrival
            if ruling is None:
                rules = round_.admission.slow_rules(event)
                (further if len(rules) > asked else passed).append(arrival)
                continue
            if ruling is Quietly.DROPPED:
                reply(event.id, True, "")
            else:
                reply(event.id, False, str(ruling))
            self._let_go(event.id)
        if further:
            self._have_judged(further, asked, round_)
        if passed:
            await self._slots.acquire()
            taking = _Taking([], [], [])
            for arrival in passed:
                self._take_in(arrival, round_.now, round_.commits, taking)
                self._let_go(arrival.event.id)
            await self._finish(taking, round_.commits, looked_up=round_.looked_up)

    def _let_go(self, id_: EventId) -> None:
        """Slow rules have spoken about an event: its copies are taken up again."""
        for copy in self._judged.pop(id_):
            self.take(copy)
        self._fewer_judged.set()

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
        began = monotonic()
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
        self.on_written(len(writes), monotonic() - began)
        for write, reply, (accepted, reason) in zip(writes, replies, answers, strict=True):
            id_ = write.event.id
            reply(id_, accepted, reason)
            for waiting in self._in_flight.pop(id_):
                waiting(id_, accepted, _DUPLICATE if accepted else reason)
