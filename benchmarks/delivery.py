"""New notes to live subscribers: how many a second, and how soon."""

import random
import time
from collections.abc import Sequence
from time import perf_counter

import orjson

from benchmarks.dataset import AUTHORS, pubkeys, secret
from benchmarks.publishing import Lane, event_frames
from benchmarks.results import Result
from benchmarks.server import Relay, RelayFailed, Watch
from benchmarks.sockets import PATIENCE_SECONDS, Loop, Peer, Tally, dialed
from relay.nostr.event import Event, sign

_SEED = 3


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
        peer.ask(orjson.dumps(["REQ", "live", wanted]), b'["EOSE","live"')
        followed.append(authors)
    return followed


def fan_out(relay: Relay, subscribers: int, count: int, *, authors_each: int | None) -> Result:
    """Publish `count` notes at full speed to live subscribers; until the last delivery."""
    notes = fresh_notes(count, f"fan-out to {subscribers} by {authors_each}")
    frames = event_frames([event for _, event in notes])
    with dialed(relay.url, subscribers) as readers, dialed(relay.url, 1) as (publisher,):
        followed = _subscribe(readers, authors_each)
        expected = sum(authors is None or author in authors for authors in followed for author, _ in notes)
        lane = Lane(publisher, frames)
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
