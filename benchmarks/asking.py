"""Questions to a relay, whose answers are checked.

Raises RelayFailed where an answer is missing or wrong: a fast relay that answers wrong is not measured.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count, repeat
from multiprocessing.synchronize import Event
from time import perf_counter
from typing import Any, NamedTuple

import orjson

from benchmarks.questions import Question
from benchmarks.results import Result
from benchmarks.server import Relay, RelayFailed, Watch
from benchmarks.sockets import PATIENCE_SECONDS, Loop, Peer, Tally, dialed, frame, payloads
from relay.nostr.event import parse_event
from relay.nostr.filter import parse_filter

PAGE = 500
"""Events of a page: the limit a relay allows by default."""
LONGEST_END = 1_024
"""Bytes of the message that ends an answer, at most."""


def check(relay: Relay, questions: Sequence[Question]) -> None:
    """Ask everything once and compare with what is known: the ids in their order, and the counts."""
    with dialed(relay.url, 1) as (peer,):
        for question in questions:
            if question.verb == "COUNT":
                if (counted := _counted(peer, question)) != len(question.answer):
                    raise RelayFailed(f"counted {counted} for {question.name}, not {len(question.answer)}")
            elif (ids := tuple(event["id"] for event in answer(peer, question))) != question.answer:
                raise RelayFailed(f"wrong answer to {question.name}: {len(ids)} of {len(question.answer)}")


def first_answers(relay: Relay, questions: Sequence[Question]) -> list[Question]:
    """Ask everything once and take what comes for the answer, if it can be right.

    Where a database is too large for brute force: each event matches, they are newest first and not too
    many. That none is missing is for `check` to say, in a smaller one.
    """
    answered = []
    with dialed(relay.url, 1) as (peer,):
        for question in questions:
            if question.verb == "COUNT":
                _counted(peer, question)
                answered.append(question)
                continue
            (wanted,) = map(parse_filter, question.filters)
            events = [parse_event(event) for event in answer(peer, question)]
            times = [event.created_at for event in events]
            if not all(map(wanted.matches, events)) or times != sorted(times, reverse=True):
                raise RelayFailed(f"wrong answer to {question.name}")
            if wanted.limit is not None and len(events) > wanted.limit:
                raise RelayFailed(f"{len(events)} events for {question.name}")
            answered.append(replace(question, answer=tuple(event.id for event in events)))
    return answered


def answer(peer: Peer, question: Question) -> list[dict[str, Any]]:
    """Ask and return the events that come."""
    received = peer.ask(question.message("q"), b'["EOSE","q"')
    peer.send(frame(b'["CLOSE","q"]'))
    return [orjson.loads(payload)[2] for payload in payloads(received) if payload[:8] == b'["EVENT"']


def _counted(peer: Peer, question: Question) -> int:
    received = peer.ask(question.message("q"), b'{"count":')
    (found,) = (orjson.loads(payload)[2]["count"] for payload in payloads(received) if payload)
    return int(found)


class Answered(NamedTuple):
    """One question that was answered."""

    name: str
    seconds: float
    events: int


@dataclass
class Answers(Result):
    """What asking gave."""

    answered: list[Answered] = field(default_factory=list)

    @property
    def events(self) -> int:
        """So many were sent."""
        return sum(one.events for one in self.answered)

    def of(self, name: str) -> "Answers":
        """Return those to one type of question; what they cost is not known apart."""
        chosen = [one for one in self.answered if one.name == name]
        return Answers(len(chosen), self.spent, [one.seconds for one in chosen], chosen)


class Asker:
    """One asking connection: a question after the other, each after the end of the one before."""

    def __init__(
        self, peer: Peer, questions: Iterator[tuple[int, Question]], *, is_checked: bool = True
    ) -> None:
        """Take numbered questions. `is_checked` False: any number of events will do, and a refusal too."""
        self._peer = peer
        self._questions = questions
        self._is_checked = is_checked
        self._close = b""
        self.is_done = False
        self.answered: list[Answered] = []

    def fill(self) -> None:
        """Close the last question and ask the next in one write."""
        following = next(self._questions, None)
        if following is None:
            self.is_done = True
            return
        number, self._question = following
        name = f"q{number}"
        self._end = f'["{"EOSE" if self._question.verb == "REQ" else "COUNT"}","{name}"'.encode()
        self._refusal = f'["CLOSED","{name}"'.encode()
        self._arrived, self._tail = Tally(b'["EVENT","'), b""
        self._asked = perf_counter()
        self._peer.send(self._close + frame(self._question.message(name)))
        self._close = frame(orjson.dumps(["CLOSE", name])) if self._question.verb == "REQ" else b""

    def take(self, data: bytes) -> None:
        """Count what came; after the end go on with the next question."""
        self._arrived.take(data)
        # The end is the last that comes, and not long: a COUNT may carry 512 digits (NIP-45).
        end = self._tail + data[-LONGEST_END:]
        self._tail = end[-LONGEST_END:]
        if self._end not in end:
            if self._refusal not in end:
                return
            if self._is_checked:
                raise RelayFailed(f"{self._question.name} was refused: {end!r}")
        seconds = perf_counter() - self._asked
        expected = len(self._question.answer) if self._question.verb == "REQ" else 0
        if self._is_checked and self._arrived.count != expected:
            raise RelayFailed(f"{self._arrived.count} events for {self._question.name}")
        self.answered.append(Answered(self._question.name, seconds, self._arrived.count))
        self.fill()


def query(relay: Relay, questions: Sequence[Question], connections: int, *, asks: int) -> Answers:
    """Ask `asks` times in turn, each connection one question at a time."""
    upcoming = iter([(n, questions[n % len(questions)]) for n in range(asks)])
    with dialed(relay.url, connections) as peers:
        askers = {peer: Asker(peer, upcoming) for peer in peers}
        watch = Watch(relay.pid)
        for asker in askers.values():
            asker.fill()
        Loop(peers).run(
            lambda peer, data: askers[peer].take(data), lambda: all(a.is_done for a in askers.values())
        )
        spent = watch.stop()
    answered = [one for asker in askers.values() for one in asker.answered]
    return Answers(asks, spent, [one.seconds for one in answered], answered)


@contextmanager
def repeated(relay: Relay, questions: Sequence[Question]) -> Iterator[None]:
    """Ask each question without pause on a connection of its own; begins when each has had an answer.

    In a process of its own: what it reads keeps nobody here from reading.
    """
    processes = multiprocessing.get_context("fork")
    under_way = processes.Event()
    process = processes.Process(target=_repeat, args=(relay.url, questions, under_way), daemon=True)
    process.start()
    try:
        if not under_way.wait(PATIENCE_SECONDS):
            raise RelayFailed("the relay leaves questions unanswered")
        yield
    finally:
        process.kill()
        process.join()


def _repeat(url: str, questions: Sequence[Question], under_way: Event) -> None:
    with dialed(url, len(questions)) as peers:
        askers = {
            peer: Asker(peer, zip(count(), repeat(question)), is_checked=False)
            for peer, question in zip(peers, questions, strict=True)
        }
        for asker in askers.values():
            asker.fill()

        def take(peer: Peer, data: bytes) -> None:
            askers[peer].take(data)
            if not under_way.is_set() and all(asker.answered for asker in askers.values()):
                under_way.set()

        Loop(peers).run(take, lambda: False)


def check_is_taken(relay: Relay, question: Question) -> None:
    """Ask once; raise RelayFailed if the relay refuses it, for then it is no work."""
    with dialed(relay.url, 1) as (peer,):
        end = b'["EOSE","q"' if question.verb == "REQ" else b'{"count":'
        received = peer.ask(question.message("q"), end, b'["CLOSED","q"', b'["NOTICE"')
        if end not in received:
            raise RelayFailed(f"{question.name} was refused: {received!r}")


def page_back(relay: Relay, author: str, expected: int) -> Result:
    """Read all of an author's events, newest first, in pages; the latencies are the pages'."""
    wanted: dict[str, Any] = {"authors": [author], "limit": PAGE}
    latencies: list[float] = []
    found = 0
    with dialed(relay.url, 1) as (peer,):
        watch = Watch(relay.pid)
        while True:
            asked = perf_counter()
            received = peer.ask(orjson.dumps(["REQ", "page", wanted]), b'["EOSE","page"')
            latencies.append(perf_counter() - asked)
            peer.send(frame(b'["CLOSE","page"]'))
            *events, _ = payloads(received)
            if not events:
                break
            found += len(events)
            # No two events of a filler share a second.
            wanted["until"] = orjson.loads(events[-1])[2]["created_at"] - 1
        spent = watch.stop()
    if found != expected:
        raise RelayFailed(f"{found} events of the author instead of {expected}")
    return Result(len(latencies), spent, latencies)


def first_answer(relay: Relay) -> float:
    """Return the seconds from the relay's start to the end of its first answer."""
    with dialed(relay.url, 1) as (peer,):
        peer.ask(b'["REQ","first",{"kinds":[1],"limit":1}]', b'["EOSE","first"')
        return perf_counter() - relay.began
