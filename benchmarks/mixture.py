"""A mixed load such as a public relay has for hours, paced so that it leaves the machine's cores to others.

Publishers of all kinds of events, askers, subscribers that come and go, slow readers, visitors that leave at
once, and senders of what is no message. Raises ConnectionError or TimeoutError where the relay lets go of
somebody who did nothing wrong.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from itertools import count

import orjson

from benchmarks import questions
from benchmarks.dataset import AUTHORS, HASHTAGS, pubkeys, secret, written
from benchmarks.lines import Line, dialed
from benchmarks.questions import Subjects
from relay.nostr.event import Event, EventId, encode, sign

PUBLISHERS = 3
EVENTS_PER_BURST = 50
BURST_SECONDS = 1.0
ASK_SECONDS = 0.1
COUNT_SECONDS = 1.0
SUBSCRIBERS = 40
STAY_SECONDS = (5.0, 90.0)
"""So long subscribers stay, the shortest and the longest."""
SLOW_READERS = 2
SLOW_SECONDS = 30.0
"""So long slow readers read nothing; the relay may cut them meanwhile."""
VISIT_SECONDS = 0.5
MISTAKE_SECONDS = 0.5
_REMEMBERED = 2_000
"""Events that may be sent again or deleted."""
_EPHEMERAL = 20_001
_DELETION = 5


class Mixture:
    """The load on one relay."""

    def __init__(self, url: str, subjects: Subjects, *, seed: int = 9) -> None:
        """`subjects`: what the relay already holds."""
        self.done: Counter[str] = Counter()
        """What was done, by name."""
        self._url = url
        self._chance = random.Random(seed)
        self._subjects = subjects
        self._drafts = written((int(time.time()) for _ in count()), random.Random(seed))
        self._recent: deque[Event] = deque(maxlen=_REMEMBERED)

    async def run(self) -> None:
        """Go on until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(PUBLISHERS):
                tasks.create_task(self._publish(number / PUBLISHERS * BURST_SECONDS))
            tasks.create_task(self._ask(ASK_SECONDS, is_counting=False))
            tasks.create_task(self._ask(COUNT_SECONDS, is_counting=True))
            for _ in range(SUBSCRIBERS):
                tasks.create_task(self._subscribe())
            for _ in range(SLOW_READERS):
                tasks.create_task(self._read_slowly())
            tasks.create_task(self._visit())
            tasks.create_task(self._err())

    def _event(self) -> Event:
        """Return the next event: mostly a new one, of any kind."""
        chance, now = self._chance, int(time.time())
        luck = chance.random()
        if luck < 0.05 and self._recent:
            self.done["duplicates"] += 1
            return chance.choice(self._recent)
        if luck < 0.10:
            self.done["ephemeral events"] += 1
            author = secret(chance.randrange(AUTHORS))
            return sign(author, created_at=now, kind=_EPHEMERAL, content=f"here at {time.time_ns()}")
        draft = next(self._drafts)
        if luck < 0.12 and self._recent:
            self.done["deletions"] += 1
            # Of somebody else's event mostly, which does nothing, and of their own sometimes.
            target = chance.choice(self._recent)
            own = luck < 0.115
            author = secret(pubkeys().index(target.pubkey)) if own else secret(draft.author)
            return sign(author, created_at=now, kind=_DELETION, tags=(("e", target.id),))
        self.done["events"] += 1
        by, kind, tags = secret(draft.author), draft.kind, draft.tags
        event = sign(by, created_at=draft.created_at, kind=kind, tags=tags, content=draft.content)
        self._recent.append(event)
        return event

    async def _publish(self, delay: float) -> None:
        await asyncio.sleep(delay)
        async with dialed(self._url) as line:
            async for _ in _every(BURST_SECONDS):
                for _ in range(EVENTS_PER_BURST):
                    await line.send(b'["EVENT",' + encode(self._event()) + b"]")
                left = EVENTS_PER_BURST
                tail = b""
                async with asyncio.timeout(60):
                    while left:
                        data = tail + await line.read()
                        left -= data.count(b'["OK","')
                        tail = data[-6:]

    def _questions(self) -> Iterator[questions.Question]:
        """Yield questions without end; those about notes come to be about recent ones."""
        while True:
            recent = [event for event in self._recent if event.kind == 1]
            subjects = self._subjects
            if len(recent) > 100:
                parents = [event.tags[0][1] for event in recent if event.tags and event.tags[0][0] == "e"]
                notes: list[EventId] = [event.id for event in recent]
                subjects = Subjects(notes, parents, subjects.since, subjects.until)
            yield from questions.unanswered(subjects, 200)

    async def _ask(self, seconds: float, *, is_counting: bool) -> None:
        upcoming = self._questions()
        if is_counting:
            upcoming = (counted for question in upcoming for counted in questions.counted([question]))
        async with dialed(self._url) as line:
            async for number in _every(seconds):
                question = next(upcoming)
                name = f"{'c' if is_counting else 'q'}{number}"
                await line.send(question.message(name))
                end = f'["{"COUNT" if is_counting else "EOSE"}","{name}"'.encode()
                await line.read_until(end)
                if not is_counting:
                    await line.send(orjson.dumps(["CLOSE", name]))
                self.done["COUNTs" if is_counting else "REQs"] += 1

    async def _subscribe(self) -> None:
        chance = self._chance
        while True:
            wanted: dict[str, object] = {"limit": chance.choice((0, 20, 100))}
            match chance.randrange(4):
                case 0:
                    wanted |= {"kinds": [1]}
                case 1:
                    wanted |= {"authors": chance.sample(pubkeys(), 200), "kinds": [1, 6]}
                case 2:
                    wanted |= {"#p": [chance.choice(pubkeys())]}
                case _:
                    wanted |= {"#t": [chance.choice(HASHTAGS)]}
            async with dialed(self._url) as line:
                await line.send(orjson.dumps(["REQ", "live", wanted]))
                stay = chance.uniform(*STAY_SECONDS)
                try:
                    async with asyncio.timeout(stay):
                        while await line.read():
                            pass
                except TimeoutError:
                    pass
                if chance.random() < 0.5:
                    await line.send(b'["CLOSE","live"]')
            self.done["subscribers"] += 1

    async def _read_slowly(self) -> None:
        while True:
            async with dialed(self._url) as line:
                await line.send(b'["REQ","all",{"limit":500}]')
                await asyncio.sleep(SLOW_SECONDS)
            self.done["slow readers"] += 1

    async def _visit(self) -> None:
        async for number in _every(VISIT_SECONDS):
            async with dialed(self._url) as line:
                await line.send(b'["REQ","visit",{"kinds":[1],"limit":20}]')
                if number % 3:
                    await line.read_until(b'["EOSE"')
            self.done["visits"] += 1

    async def _err(self) -> None:
        while True:
            async with dialed(self._url) as line:
                try:
                    await self._err_on(line)
                except ConnectionError:
                    # Whoever only makes mistakes is let go.
                    self.done["let go for mistakes"] += 1
            await asyncio.sleep(MISTAKE_SECONDS)

    async def _err_on(self, line: Line) -> None:
        event = encode(sign(secret(0), created_at=int(time.time()), kind=1, content="forged"))
        mistakes = (
            b"{",
            b'["WHAT"]',
            b'["EVENT",{}]',
            b'["EVENT",' + event.replace(b"forged", b"proper") + b"]",
            b'["REQ"]',
            b'["REQ","",{}]',
            b'["REQ","x",{"kinds":"all"}]',
            b'["COUNT","x",{"#e":["nobody"]}]',
            b"[" * 5_000,
        )
        for mistake in mistakes:
            await line.send(mistake)
            await line.read_until(b'["NOTICE"', b'["OK"', b'["CLOSED"')
            self.done["mistakes"] += 1
            await asyncio.sleep(MISTAKE_SECONDS)
        # A frame with reserved bits set (RFC 6455, 5.2).
        await line.send_raw(b"\xff\xff" + bytes(14))
        while await line.read():
            pass


async def _every(seconds: float) -> AsyncIterator[int]:
    """Yield 0, 1, … so many seconds apart; late ones are not made up for."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for number in count():
        yield number
        due = max(due + seconds, loop.time())
        await asyncio.sleep(due - loop.time())
