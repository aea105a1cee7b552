"""Searching a large database: how long questions take by type, what the index costs, and how far it lags.

The events are unsigned, as in `benchmarks.growth`, in words of which some are everywhere. Each answer is
checked first: every event holds all words, none comes twice, and the limit holds.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from urllib.request import urlopen

import orjson
from rich.console import Console

from benchmarks import asking, machine, plots, prose
from benchmarks.dataset import pubkeys, secret
from benchmarks.filling import filling
from benchmarks.questions import Question
from benchmarks.results import Result, percentile
from benchmarks.server import Relay, RelayFailed, serve, tree, usage_of
from benchmarks.sockets import dialed
from relay.nostr.event import encode, parse_event, sign
from relay.search.words import entry_of, parse_question, text_of

MIX = {
    "one very common word": 20,
    "two very common words": 15,
    "four very common words": 5,
    "phrase of two very common": 5,
    "very common and middling": 15,
    "very common and rare": 10,
    "two middling words": 10,
    "one rare word": 10,
    "two Japanese characters": 5,
    "very common, one author": 5,
}
"""Types of question, and how often each is asked."""
VERY_COMMON, MIDDLING, RARE = slice(0, 20), slice(200, 2_000), slice(10_000, 50_000)
"""Ranks of words."""
LIMIT = 50
BURSTS = 5
BURST = 200
"""Events that are published at once, a burst each second, while the lag is measured."""
_SEED = 13
_INDEX = "torv-search.sqlite3"
_INDEXING_SECONDS = 3_600.0
_FOUND_SECONDS = 60.0


@dataclass(frozen=True)
class Found:
    """What the study found."""

    events: int
    indexing_cpu_us: float
    """The indexer's CPU time for each event of the log, of all kinds."""
    index_bytes_each: float
    """For each stored event, of all kinds."""
    milliseconds: dict[str, tuple[float, float, float]]
    """p50, p99 and the slowest, by type; "the mix" for all."""
    relay_us: float
    """The relay's CPU time for one question of the mix."""
    lag_seconds: list[float]
    """From the OK of an event until it was found, at `BURST` events a second; sorted."""


def study(events: int, asks: int, *, config: Path, folder: Path, console: Console) -> Found:
    """Fill, index, ask `asks` questions of the mix, publish; write search.json and print what was found."""
    with filling(events, prose=True) as filled, Console(stderr=True).status("") as status:
        filled.grow(events, lambda done: status.update(f"filling, {done:,} of {events:,}"))
        with serve(config, filled.data) as relay:
            status.update("indexing")
            _await_index(relay)
            cpu = _indexer_seconds(relay)
            status.update("asking")
            asked = _checked(relay, mix(asks))
            answers = asking.query(relay, asked, 1, asks=asks)
            status.update("publishing and asking")
            lag = _lag(relay)
        # Its stop has copied the log into the file.
        size = (filled.data / _INDEX).stat().st_size
    milliseconds = {name: _spread(answers.of(name)) for name in MIX if answers.of(name).count}
    found = Found(
        events=events,
        indexing_cpu_us=cpu / events * 1e6,
        index_bytes_each=size / filled.stored,
        milliseconds=milliseconds | {"the mix": _spread(answers)},
        relay_us=answers.spent.server_cpu_seconds / asks * 1e6,
        lag_seconds=lag,
    )
    plots.write_json({"machine": machine.describe(), "found": found}, folder / "search.json")
    for line in lines(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return found


def mix(count: int) -> list[Question]:
    """Return so many questions of all types: the same ones at any time."""
    chance = random.Random(_SEED)
    words = prose.vocabulary()
    names = chance.choices(list(MIX), list(MIX.values()), k=count)
    return [Question(name, (_filter(name, words, chance),)) for name in names]


def _filter(name: str, words: Sequence[str], chance: random.Random) -> dict[str, object]:
    common, middling, rare = (chance.sample(words[rank], 4) for rank in (VERY_COMMON, MIDDLING, RARE))
    wanted: dict[str, object] = {"limit": LIMIT, "kinds": [1]}
    match name:
        case "one very common word":
            search = common[0]
        case "two very common words":
            search = " ".join(common[:2])
        case "four very common words":
            search = " ".join(common)
        case "phrase of two very common":
            search = f'"{common[0]} {common[1]}"'
        case "very common and middling":
            search = f"{common[0]} {middling[0]}"
        case "very common and rare":
            search = f"{common[0]} {rare[0]}"
        case "two middling words":
            search = " ".join(middling[:2])
        case "one rare word":
            search = rare[0]
        case "two Japanese characters":
            search = prose.japanese(chance, 2)
        case _:
            search = common[0]
            wanted["authors"] = [chance.choice(pubkeys())]
    return wanted | {"search": search}


def _checked(relay: Relay, asked: Sequence[Question]) -> list[Question]:
    """Ask everything once; return the questions with what came, if it can be right."""
    checked = []
    with dialed(relay.url, 1) as (peer,):
        for question in asked:
            wanted = parse_question(str(question.filters[0]["search"]))
            events = [parse_event(event) for event in asking.answer(peer, question)]
            ids = tuple(event.id for event in events)
            if len(set(ids)) != len(ids) or len(ids) > LIMIT:
                raise RelayFailed(f"{len(ids)} events for {question.filters}")
            if not all(wanted.are_in(entry_of(text_of(event))) for event in events):
                raise RelayFailed(f"wrong answer to {question.filters}")
            checked.append(replace(question, answer=ids))
    return checked


def _await_index(relay: Relay) -> None:
    began = perf_counter()
    while _metric(relay, "torv_search_lag_events") != 0:
        if perf_counter() - began > _INDEXING_SECONDS:
            raise RelayFailed("the index was not made in time")
        time.sleep(1)


def _metric(relay: Relay, name: str) -> float:
    with urlopen(relay.url.replace("ws://", "http://", 1) + "metrics") as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"{name} "):
                return float(line.split()[1])
    return float("inf")


def _indexer_seconds(relay: Relay) -> float:
    """Return the CPU time that the indexer has used."""
    indexers = [pid for pid in tree(relay.pid) if _is_indexer(Path(f"/proc/{pid}"))]
    return sum(usage_of(pid).cpu_seconds for pid in indexers)


def _is_indexer(process: Path) -> bool:
    """Say whether a process is the indexer, by its name or by the module that it runs."""
    return (
        b"indexer" in (process / "comm").read_bytes() or b"relay.search" in (process / "cmdline").read_bytes()
    )


def _lag(relay: Relay) -> list[float]:
    """Publish bursts, and look for the last note of each as soon as it was accepted."""
    lags = []
    with dialed(relay.url, 2) as (publisher, asker):
        for number in range(BURSTS):
            began = perf_counter()
            unique = f"needle{number}"
            for of in range(BURST):
                last = of == BURST - 1
                content = unique if last else f"one of many {number} {of}"
                note = sign(secret(of), created_at=int(time.time()), kind=1, content=content)
                publisher.ask(b'["EVENT",' + encode(note) + b"]", b'["OK"')
            accepted = perf_counter()
            request = orjson.dumps(["REQ", "x", {"search": unique, "limit": 1}])
            while b'["EVENT"' not in asker.ask(request, b'["EOSE","x"'):
                if perf_counter() - accepted > _FOUND_SECONDS:
                    raise RelayFailed(f"{unique} was not found")
                time.sleep(0.02)
            lags.append(perf_counter() - accepted)
            time.sleep(max(0.0, began + 1 - perf_counter()))
    return sorted(lags)


def _spread(result: Result) -> tuple[float, float, float]:
    return tuple(percentile(result.latencies, share) * 1000 for share in (0.5, 0.99, 1))  # type: ignore[return-value]


def lines(found: Found) -> list[str]:
    """Return what was found as Markdown."""
    rows = [
        f"| {name} | {p50:.1f} | {p99:.1f} | {slowest:.1f} |"
        for name, (p50, p99, slowest) in found.milliseconds.items()
    ]
    lag = found.lag_seconds
    return [
        f"| searching {found.events:,} events | p50 ms | p99 ms | slowest ms |",
        "|---|--:|--:|--:|",
        *rows,
        "",
        f"- {found.relay_us / 1000:.1f} ms of the relay's CPU for a question.",
        f"- Indexing: {found.indexing_cpu_us:.0f} µs and {found.index_bytes_each:,.0f} B of disk an event.",
        f"- At {BURST} events a second found after {lag[len(lag) // 2]:.2f} s, at most {lag[-1]:.2f} s.",
    ]
