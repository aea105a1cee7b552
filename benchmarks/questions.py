"""The questions that clients ask, and their right answers by brute force."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from benchmarks.dataset import NEWEST, SECONDS, Crowd, DataSet, pubkeys
from relay.nostr.event import Event
from relay.nostr.filter import parse_filter

_SEED = 2
NAMES = ("ids", "author", "feed", "thread", "mentions", "global", "profiles", "window")
WEIGHTS = (15, 20, 20, 15, 10, 5, 10, 5)
COUNTED = ("author", "thread", "mentions")
"""Which of them are asked by COUNT too, without their limit."""


@dataclass(frozen=True)
class Question:
    """A filter, and the ids of the events that answer it, newest first."""

    name: str
    filter: dict[str, Any]
    answer: tuple[str, ...]


def ask(dataset: DataSet, count: int) -> list[Question]:
    """Return so many questions of all kinds with their answers: the same ones for the same set."""
    asked = list(_filters(dataset, count))
    return _answered(dataset, asked)


def counted(dataset: DataSet, questions: Sequence[Question]) -> list[Question]:
    """Return the questions that are asked by COUNT, with their unlimited answers."""
    chosen = [question for question in questions if question.name in COUNTED]
    unlimited = [{k: v for k, v in question.filter.items() if k != "limit"} for question in chosen]
    return _answered(dataset, [(q.name, f) for q, f in zip(chosen, unlimited, strict=True)])


def _answered(dataset: DataSet, asked: Sequence[tuple[str, dict[str, Any]]]) -> list[Question]:
    with ProcessPoolExecutor(initializer=_keep, initargs=(dataset.surviving,)) as processes:
        answers = processes.map(_answer, [wanted for _, wanted in asked], chunksize=10)
        return [Question(name, wanted, answer) for (name, wanted), answer in zip(asked, answers, strict=True)]


_events: Sequence[Event] = ()
"""In the processes that answer: what a relay keeps, newest first."""


def _keep(events: Sequence[Event]) -> None:
    global _events
    _events = events


def _answer(filter_: dict[str, Any]) -> tuple[str, ...]:
    """Look at every event, the way the protocol defines a filter."""
    wanted = parse_filter(filter_)
    found: list[str] = []
    for event in _events:
        if len(found) == wanted.limit:
            break
        if wanted.matches(event):
            found.append(event.id)
    return tuple(found)


def _filters(dataset: DataSet, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    chance = random.Random(_SEED)
    crowd = Crowd(chance)
    keys = pubkeys()
    notes = [event for event in dataset.events if event.kind == 1]
    replies = [event for event in notes if event.tags and event.tags[0][0] == "e"]
    name_of = partial(chance.choices, NAMES, WEIGHTS)
    for _ in range(count):
        (name,) = name_of()
        wanted: dict[str, Any]
        match name:
            case "ids":
                wanted = {"ids": [note.id for note in chance.sample(notes, min(20, len(notes)))]}
            case "author":
                wanted = {"authors": [keys[crowd.author()]], "kinds": [1], "limit": 20}
            case "feed":
                authors = [keys[author] for author in crowd.authors(200)]
                wanted = {"authors": authors, "kinds": [1, 6], "limit": 100}
            case "thread":
                wanted = {"#e": [chance.choice(replies).tags[0][1]], "kinds": [1], "limit": 200}
            case "mentions":
                wanted = {"#p": [keys[crowd.author()]], "limit": 50}
            case "global":
                wanted = {"kinds": [1], "limit": 500}
            case "profiles":
                wanted = {"kinds": [0], "authors": [keys[author] for author in crowd.authors(50)]}
            case _:
                since = NEWEST - SECONDS + chance.randrange(SECONDS - 21_600)
                wanted = {"kinds": [1], "since": since, "until": since + 21_600, "limit": 200}
        yield name, wanted


def request(verb: str, name: str, question: Question) -> bytes:
    """Return the client message that asks."""
    return orjson.dumps([verb, name, question.filter])
