"""A poll on the square: how fast votes are counted, how fast the tally is read, how soon watchers know it.

Every vote is by a key of its own. At the end the tally that the relay signed is audited: a second relay
learns by Negentropy which votes there are, fetches and counts them, and both their counts and a count by
brute force have to agree with what was signed.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

import orjson
from rich.console import Console

from benchmarks import machine, plots
from benchmarks.publishing import Lane, event_frames, publish
from benchmarks.results import Result, percentile
from benchmarks.server import Relay, RelayFailed, fresh_data, serve
from benchmarks.sockets import Loop, Peer, Tally, dialed, payloads
from relay.nostr import kinds, polls
from relay.nostr.event import Event, parse_event, sign
from relay.nostr.keys import SecretKey
from relay.nostr.negentropy import Client, Vector

OPTIONS = ("tea", "milk", "beer", "wine")
PUBLISHERS = 64
ROUNDS = 10
ROUND = 50
"""Votes at once, while the watchers' lag is measured."""
READS = 300
FETCHED_AT_ONCE = 500
LATE_SECONDS = 10
"""How late votes may come; the relay signs so long after the end."""
_SIGNED_SECONDS = 120.0


@dataclass(frozen=True)
class Found:
    """What the study found."""

    votes: int
    watchers: int
    notes_rate: float
    """Notes of as many keys that were taken in a second, before the poll."""
    votes_rate: float
    note_cpu_us: float
    """The relay's CPU time for each note."""
    vote_cpu_us: float
    read_ms: tuple[float, float]
    """p50 and the slowest of reading the tally by HTTP."""
    lag_seconds: list[float]
    """From the OK of the last vote of a round until the last watcher knew the tally with it; sorted."""
    second_rate: float
    """Votes that the second relay took in a second."""


def study(votes: int, watchers: int, *, config: Path, folder: Path, console: Console) -> Found:
    """Run the poll, audit it, write poll.json and print what was found."""
    with ExitStack() as stack:
        status = stack.enter_context(Console(stderr=True).status("signing"))
        settings = Path(stack.enter_context(TemporaryDirectory())) / "torv.toml"
        settings.write_text(f"{config.read_text()}\n[relay.polls]\nlate_seconds = {LATE_SECONDS}\n")
        relay = stack.enter_context(serve(settings, stack.enter_context(fresh_data()), search=False))
        keys = [SecretKey(sha256(b"voter %d" % number).digest()) for number in range(votes)]
        notes = _notes(keys)
        status.update("notes")
        before = publish(relay, event_frames(notes), PUBLISHERS)
        status.update("signing")
        asked, cast = _poll(keys)
        status.update("votes")
        with dialed(relay.url, 1) as (peer,):
            peer.ask(orjson.dumps(["EVENT", asked._asdict()]), b'["OK"')
        late = min(ROUNDS * ROUND, votes // 2)
        counted = publish(relay, event_frames(cast[:-late]), PUBLISHERS)
        status.update("watchers")
        lag = _lag(relay, asked, cast, late, watchers)
        status.update("reading")
        reads = _reads(relay, asked, votes)
        status.update("waiting for the end")
        tally = _signed(relay, asked)
        status.update("auditing")
        second = stack.enter_context(serve(config, stack.enter_context(fresh_data()), search=False))
        second_rate = _audit(relay, second, asked, tally)
    found = Found(
        votes=votes,
        watchers=watchers,
        notes_rate=before.rate,
        votes_rate=counted.rate,
        note_cpu_us=_cpu_us(before),
        vote_cpu_us=_cpu_us(counted),
        read_ms=(percentile(reads, 0.5) * 1000, reads[-1] * 1000),
        lag_seconds=lag,
        second_rate=second_rate,
    )
    plots.write_json({"machine": machine.describe(), "found": found}, folder / "poll.json")
    for line in lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return found


def _cpu_us(result: Result) -> float:
    return result.spent.server_cpu_seconds / result.count * 1e6


def _notes(keys: Sequence[SecretKey]) -> list[Event]:
    """Return a note by each key, as long as a vote and with as many tags."""
    now, thread = int(time.time()), sha256(b"a thread").hexdigest()
    return [
        sign(
            key, created_at=now, kind=kinds.NOTE, tags=[["e", thread], ["subject", OPTIONS[n % len(OPTIONS)]]]
        )
        for n, key in enumerate(keys)
    ]


def _poll(keys: Sequence[SecretKey]) -> tuple[Event, list[Event]]:
    """Return a poll and a vote of each key, of the poll's last second: signing them takes a while."""
    now = int(time.time())
    # Time enough to sign and to publish all of them.
    ends = now + 5 + len(keys) // 800
    tags = [["endsAt", str(ends)], *(["option", id_, id_.title()] for id_ in OPTIONS)]
    asked = sign(keys[0], created_at=now, kind=kinds.POLL, tags=tags, content="What do you drink?")
    cast = [
        sign(
            key,
            created_at=ends,
            kind=kinds.VOTE,
            tags=[["e", asked.id], ["response", OPTIONS[n % len(OPTIONS)]]],
        )
        for n, key in enumerate(keys)
    ]
    return asked, cast


def _lag(relay: Relay, asked: Event, cast: Sequence[Event], late: int, watchers: int) -> list[float]:
    """Cast the last votes in rounds, beside watchers who all have to hear of each round's end."""
    lags = []
    size = max(1, late // ROUNDS)
    frames = event_frames(cast[-late:])
    with dialed(relay.url, watchers) as readers, dialed(relay.url, 1) as (publisher,):
        wanted = {"kinds": [kinds.RUNNING_TALLY], "#e": [asked.id], "limit": 0}
        for peer in readers:
            peer.ask(orjson.dumps(["REQ", "poll", wanted]), b'["EOSE","poll"')
        for start in range(0, late, size):
            some = frames[start : start + size]
            lags.append(_round(publisher, readers, some, len(cast) - late + start + len(some)))
    return sorted(lags)


def _round(publisher: Peer, watchers: Sequence[Peer], frames: Sequence[bytes], voters: int) -> float:
    lane = Lane(publisher, frames)
    waiting = {peer: Tally(b'["voters","%d"]' % voters) for peer in watchers}
    accepted = 0.0

    def on_data(peer: Peer, data: bytes) -> None:
        nonlocal accepted
        if peer is publisher:
            lane.take(data)
            lane.fill()
            if lane.is_done:
                accepted = perf_counter()
        elif (tally := waiting.get(peer)) is not None and tally.take(data):
            del waiting[peer]

    lane.fill()
    Loop([publisher], watchers).run(on_data, lambda: lane.is_done and not waiting)
    if lane.refused:
        raise RelayFailed(f"{lane.refused} votes were refused")
    return perf_counter() - accepted


def _reads(relay: Relay, asked: Event, votes: int) -> list[float]:
    """Read the tally again and again over one connection; return how long each took, sorted."""
    where = urlsplit(relay.url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=30)
    took = []
    for _ in range(READS):
        began = perf_counter()
        document = _shown(connection, asked)
        took.append(perf_counter() - began)
        if document["voters"] != votes:
            raise RelayFailed(f"{document['voters']} voters of {votes}")
    connection.close()
    return sorted(took)


def _shown(connection: HTTPConnection, asked: Event) -> dict[str, Any]:
    connection.request("GET", f"/api/poll/{asked.id}")
    document: dict[str, Any] = orjson.loads(connection.getresponse().read())
    return document


def _signed(relay: Relay, asked: Event) -> Event:
    """Wait for the tally that the relay signs."""
    began = perf_counter()
    with dialed(relay.url, 1) as (peer,):
        while not (found := _find(peer, {"kinds": [kinds.TALLY], "#d": [asked.id]})):
            if perf_counter() - began > _SIGNED_SECONDS:
                raise RelayFailed("the tally was not signed")
            time.sleep(1)
    return found[0]


def _find(peer: Peer, *filters: dict[str, object]) -> list[Event]:
    answer = peer.ask(orjson.dumps(["REQ", "x", *filters]), b'["EOSE","x"')
    messages = map(orjson.loads, payloads(answer))
    return [parse_event(message[2]) for message in messages if message[:2] == ["EVENT", "x"]]


def _audit(relay: Relay, second: Relay, asked: Event, tally: Event) -> float:
    """Count anew in another relay, and by brute force; return how many votes a second the other took."""
    with dialed(relay.url, 1) as (peer,):
        missing = _missing(peer, {"kinds": [kinds.VOTE], "#e": [asked.id]})
        votes: list[Event] = []
        for start in range(0, len(missing), FETCHED_AT_ONCE):
            votes += _find(peer, {"ids": missing[start : start + FETCHED_AT_ONCE]})
    differences = polls.audit(polls.parse_poll(asked), votes, tally)
    # Here the votes come before their poll.
    taken = publish(second, event_frames([*votes, asked]), 1)
    where = urlsplit(second.url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=30)
    began = perf_counter()
    while not (document := _shown(connection, asked)).get("complete"):
        if perf_counter() - began > _SIGNED_SECONDS:
            raise RelayFailed("the second relay did not count all votes")
        time.sleep(0.1)
    connection.close()
    counts, voters, fingerprint = polls.parse_tally(tally)
    counted = {option["id"]: option["votes"] for option in document["options"]}
    if differences or (counted, document["voters"], document["fingerprint"]) != (counts, voters, fingerprint):
        raise RelayFailed(f"the audit found that {differences or document}")
    return taken.rate


def _missing(peer: Peer, wanted: dict[str, object]) -> list[str]:
    """Return the ids of what matches at the relay, as one who has nothing learns them."""
    client, found = Client(Vector.of([])), set[str]()
    request: list[object] = ["NEG-OPEN", "n", wanted, client.initiate().hex()]
    while True:
        answer = peer.ask(orjson.dumps(request), b'["NEG-MSG"', b'["NEG-ERR"')
        (message,) = map(orjson.loads, payloads(answer))
        if message[0] == "NEG-ERR":
            raise RelayFailed(message[2])
        frame, differences = client.reconcile(bytes.fromhex(message[2]))
        found.update(id_.hex() for id_ in differences.need)
        if frame is None:
            return sorted(found)
        request = ["NEG-MSG", "n", frame.hex()]


def lines(found: Found) -> list[str]:
    """Return what was found as Markdown."""
    lag = found.lag_seconds
    return [
        f"| a poll of {found.votes:,} votes | |",
        "|---|--:|",
        f"| votes a second, {PUBLISHERS} connections | {found.votes_rate:,.0f} |",
        f"| notes a second, the same way | {found.notes_rate:,.0f} |",
        f"| the relay's CPU for a vote | {found.vote_cpu_us:.0f} µs |",
        f"| the relay's CPU for a note | {found.note_cpu_us:.0f} µs |",
        f"| reading the tally by HTTP, p50 | {found.read_ms[0]:.1f} ms |",
        f"| slowest of {READS} | {found.read_ms[1]:.1f} ms |",
        f"| until {found.watchers:,} watchers know, p50 | {lag[len(lag) // 2] * 1000:.0f} ms |",
        f"| slowest | {lag[-1] * 1000:.0f} ms |",
        f"| votes a second in the relay that audits, 1 connection | {found.second_rate:,.0f} |",
        "",
        "- The signed tally agrees with a second relay's count and with one by brute force.",
    ]
