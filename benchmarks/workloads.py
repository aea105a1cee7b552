"""What is measured. Each function does one thing to a running relay, checks the answers, says how fast.

Raises RelayFailed where an answer is missing or wrong: a fast relay that answers wrong is not measured.
"""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from time import perf_counter

import orjson

from benchmarks.dataset import AUTHORS, pubkeys, secret
from benchmarks.questions import Question, request
from benchmarks.server import Relay, Spent, Watch, usage
from benchmarks.sockets import PATIENCE_SECONDS, Loop, Peer, RelayFailed, Tally, dialed, frame, payloads
from relay.nostr.event import Event, encode, sign

WINDOW = 256
"""Unanswered events of one connection."""
_SEED = 3


@dataclass
class Result:
    """One measurement."""

    count: int
    """Of what the rate counts."""
    spent: Spent
    latencies: list[float] = field(default_factory=list)
    """Seconds, one for each question or delivery."""

    @property
    def rate(self) -> float:
        return self.count / self.spent.seconds


class _Lane:
    """One publishing connection: keeps its window full."""

    def __init__(self, peer: Peer, frames: Sequence[bytes]) -> None:
        self._peer = peer
        self._frames = frames
        self._sent = 0
        self._accepted, self._refused = Tally(b'",true,"'), Tally(b'",false,"')

    @property
    def accepted(self) -> int:
        return self._accepted.count

    @property
    def refused(self) -> int:
        return self._refused.count

    @property
    def is_done(self) -> bool:
        return self.accepted + self.refused == len(self._frames)

    def take(self, data: bytes) -> None:
        """Count the answers in `data`."""
        self._accepted.take(data)
        self._refused.take(data)

    def fill(self) -> None:
        """Send as many events as the window has room for, once it is half empty."""
        in_flight = self._sent - self.accepted - self.refused
        if in_flight <= WINDOW // 2 and self._sent < len(self._frames) and not self._peer.has_unsent:
            due = self._frames[self._sent : self._sent + WINDOW - in_flight]
            self._sent += len(due)
            self._peer.send(b"".join(due))


def event_frames(events: Sequence[Event]) -> list[bytes]:
    """Return the EVENT messages as frames, ready to be sent."""
    return [frame(b'["EVENT",' + encode(event) + b"]") for event in events]


def publish(relay: Relay, frames: Sequence[bytes], connections: int, *, refusable: int = 0) -> Result:
    """Publish everything, event i on connection i modulo `connections`; until the last OK.

    At most `refusable` of them may be refused: versions that were overtaken by newer ones.
    """
    with dialed(relay.url, connections) as peers:
        lanes = {peer: _Lane(peer, frames[n::connections]) for n, peer in enumerate(peers)}
        busy = set(lanes.values())

        def on_data(peer: Peer, data: bytes) -> None:
            lane = lanes[peer]
            lane.take(data)
            lane.fill()
            if lane.is_done:
                busy.discard(lane)

        watch = Watch(relay.pid)
        for lane in lanes.values():
            lane.fill()
        Loop(peers).run(on_data, lambda: not busy)
        spent = watch.stop()
    refused = sum(lane.refused for lane in lanes.values())
    if refused > refusable:
        raise RelayFailed(f"{refused} events were refused")
    return Result(len(frames), spent)


def check(relay: Relay, questions: Sequence[Question], counted: Sequence[Question]) -> None:
    """Ask everything once and compare with brute force: the ids in their order, and the counts."""
    with dialed(relay.url, 1) as (peer,):
        for question in questions:
            received = peer.ask(request("REQ", "q", question), b'["EOSE","q"]')
            ids = tuple(
                orjson.loads(payload)[2]["id"] for payload in payloads(received) if payload[:8] == b'["EVENT"'
            )
            if ids != question.answer:
                raise RelayFailed(f"wrong answer to {question.name}: {len(ids)} of {len(question.answer)}")
            peer.send(frame(b'["CLOSE","q"]'))
        for question in counted:
            received = peer.ask(request("COUNT", "q", question), b'{"count":')
            (count,) = (orjson.loads(payload)[2]["count"] for payload in payloads(received) if payload)
            if count != len(question.answer):
                raise RelayFailed(f"counted {count} for {question.name}, not {len(question.answer)}")


class _Asker:
    """One asking connection: a question after the other, each after the end of the one before."""

    def __init__(self, peer: Peer, verb: str, questions: Iterator[tuple[int, Question]]) -> None:
        self._peer = peer
        self._verb = verb
        self._questions = questions
        self._close = b""
        self.is_done = False
        self.latencies: list[float] = []
        self.events = 0

    def next(self) -> None:
        """Close the last question and ask the next in one write."""
        following = next(self._questions, None)
        if following is None:
            self.is_done = True
            return
        number, self._question = following
        name = f"q{number}"
        self._end = f'["{"EOSE" if self._verb == "REQ" else "COUNT"}","{name}"'.encode()
        self._arrived, self._tail = Tally(b'["EVENT","'), b""
        self._asked = perf_counter()
        self._peer.send(self._close + frame(request(self._verb, name, self._question)))
        if self._verb == "REQ":
            self._close = frame(orjson.dumps(["CLOSE", name]))

    def take(self, data: bytes) -> None:
        """Count what came; after the end go on with the next question."""
        self._arrived.take(data)
        # The end is the last that comes, and short.
        end = self._tail + data[-128:]
        self._tail = end[-64:]
        if self._end not in end:
            return
        self.latencies.append(perf_counter() - self._asked)
        if self._verb == "REQ" and self._arrived.count != len(self._question.answer):
            raise RelayFailed(f"{self._arrived.count} events for {self._question.name}")
        self.events += self._arrived.count
        self.next()


def query(
    relay: Relay, questions: Sequence[Question], connections: int, *, asks: int, verb: str = "REQ"
) -> tuple[Result, int]:
    """Ask `asks` times in turn, each connection one question at a time; also return the events sent."""
    upcoming = iter([(n, questions[n % len(questions)]) for n in range(asks)])
    with dialed(relay.url, connections) as peers:
        askers = {peer: _Asker(peer, verb, upcoming) for peer in peers}
        watch = Watch(relay.pid)
        for asker in askers.values():
            asker.next()
        Loop(peers).run(
            lambda peer, data: askers[peer].take(data), lambda: all(a.is_done for a in askers.values())
        )
        spent = watch.stop()
    latencies = [seconds for asker in askers.values() for seconds in asker.latencies]
    return Result(asks, spent, latencies), sum(asker.events for asker in askers.values())


def fresh_notes(count: int, serial: str) -> list[tuple[int, Event]]:
    """Return new notes with their authors' numbers; `serial` makes them differ from earlier ones."""
    chance = random.Random(_SEED)
    now = int(time.time())
    notes = []
    for number in range(count):
        author = chance.randrange(AUTHORS)
        content = f"{serial} #{number:08d} " + "the square is full of people " * chance.randint(1, 12)
        notes.append((author, sign(secret(author), created_at=now, kind=1, content=content)))
    return notes


def _subscribe(peers: Sequence[Peer], authors_each: int | None) -> list[frozenset[int] | None]:
    """Open one live subscription on each connection: all notes, or those of so many random authors."""
    chance = random.Random(_SEED)
    followed: list[frozenset[int] | None] = []
    for peer in peers:
        wanted: dict[str, object] = {"kinds": [1], "limit": 0}
        authors = None if authors_each is None else frozenset(chance.sample(range(AUTHORS), authors_each))
        if authors is not None:
            wanted["authors"] = [pubkeys()[author] for author in authors]
        peer.ask(orjson.dumps(["REQ", "live", wanted]), b'["EOSE","live"]')
        followed.append(authors)
    return followed


def fan_out(relay: Relay, subscribers: int, count: int, *, authors_each: int | None) -> Result:
    """Publish `count` notes at full speed to live subscribers; until the last delivery."""
    notes = fresh_notes(count, f"fan-out to {subscribers} by {authors_each}")
    frames = event_frames([event for _, event in notes])
    with dialed(relay.url, subscribers) as readers, dialed(relay.url, 1) as (publisher,):
        followed = _subscribe(readers, authors_each)
        expected = sum(authors is None or author in authors for authors in followed for author, _ in notes)
        lane = _Lane(publisher, frames)
        arrived = {peer: Tally(b'["EVENT","') for peer in readers}
        total = 0

        def on_data(peer: Peer, data: bytes) -> None:
            nonlocal total
            if peer is publisher:
                lane.take(data)
                lane.fill()
            else:
                total += arrived[peer].take(data)

        watch = Watch(relay.pid)
        lane.fill()
        Loop([publisher], readers).run(on_data, lambda: lane.is_done and total >= expected)
        spent = watch.stop()
    if total != expected or lane.refused:
        raise RelayFailed(f"{total} deliveries instead of {expected}, {lane.refused} events refused")
    return Result(total, spent)


def live_latency(relay: Relay, subscribers: int, count: int, *, per_second: float) -> Result:
    """Publish `count` notes at a steady rate; the latency is from their sending to each subscriber."""
    notes = fresh_notes(count, f"steadily to {subscribers}")
    frames = event_frames([event for _, event in notes])
    expected = count * subscribers
    with dialed(relay.url, subscribers) as readers, dialed(relay.url, 1) as (publisher,):
        _subscribe(readers, None)
        sent: list[float] = []
        latencies: list[float] = []
        tails = dict.fromkeys(readers, b"")

        def on_data(peer: Peer, data: bytes) -> None:
            if peer is publisher:
                return
            now = perf_counter()
            data = tails[peer] + data
            end = 0
            while (mark := data.find(b" #", end)) >= 0 and mark + 10 <= len(data):
                latencies.append(now - sent[int(data[mark + 2 : mark + 10])])
                end = mark + 10
            tails[peer] = data[max(end, len(data) - 9) :]

        def before_wait() -> float:
            elapsed = perf_counter() - began
            if len(sent) < count and elapsed >= len(sent) / per_second:
                publisher.send(frames[len(sent)])
                sent.append(perf_counter())
                elapsed = perf_counter() - began
            return max(0.0, len(sent) / per_second - elapsed) if len(sent) < count else PATIENCE_SECONDS

        watch = Watch(relay.pid)
        began = perf_counter()
        Loop([publisher], readers).run(on_data, lambda: len(latencies) >= expected, before_wait=before_wait)
        spent = watch.stop()
    return Result(expected, spent, latencies)


@dataclass(frozen=True)
class Idle:
    """Connections that only wait."""

    opening: Result
    bytes_each: float
    """Growth of the relay's own memory for each."""
    cpu_share: float
    """Of one core, while nothing happens."""


def idle(relay: Relay, connections: int, *, seconds: float) -> Idle:
    """Open connections with one subscription of 20 authors each, then let them be."""
    chance = random.Random(_SEED)
    with ExitStack() as stack:
        before = usage(relay.pid)
        watch = Watch(relay.pid)
        peers = []
        for _ in range(connections):
            (peer,) = stack.enter_context(dialed(relay.url, 1))
            wanted = {"kinds": [1], "authors": chance.sample(pubkeys(), 20), "limit": 1}
            peer.ask(orjson.dumps(["REQ", "feed", wanted]), b'["EOSE","feed"]')
            peers.append(peer)
        opening = Result(connections, watch.stop())
        after = usage(relay.pid)
        waiting = Watch(relay.pid)
        until = perf_counter() + seconds
        # Reads too: pings want their pongs.
        Loop(peers).run(
            lambda peer, data: None,
            lambda: perf_counter() >= until,
            before_wait=lambda: max(0.0, until - perf_counter()),
        )
        spent = waiting.stop()
    grown = after.anonymous_bytes - before.anonymous_bytes
    return Idle(opening, grown / connections, spent.server_cpu_seconds / spent.seconds)
