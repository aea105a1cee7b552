"""The questions that clients ask, and their right answers by brute force."""

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
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
USUAL = ("author", "thread", "mentions", "profiles")
"""What a reader asks all the time, and awaits at once."""


@dataclass(frozen=True)
class Question:
    """Filters, and the ids of the events that answer them, newest first."""

    name: str
    filters: tuple[dict[str, Any], ...]
    answer: tuple[str, ...] = ()
    verb: str = "REQ"

    def message(self, name: str) -> bytes:
        """Return the client message that asks it under this name."""
        return orjson.dumps([self.verb, name, *self.filters])


@dataclass(frozen=True)
class Subjects:
    """What questions are about."""

    notes: Sequence[str]
    """Ids."""
    parents: Sequence[str]
    """Ids of notes that have replies."""
    since: int
    until: int
    """The time that the events span, in unix seconds."""


def ask(dataset: DataSet, count: int) -> list[Question]:
    """Return so many questions of all kinds with their answers: the same ones for the same set."""
    notes = [event for event in dataset.events if event.kind == 1]
    parents = [event.tags[0][1] for event in notes if event.tags and event.tags[0][0] == "e"]
    subjects = Subjects([note.id for note in notes], parents, NEWEST - SECONDS, NEWEST)
    return _answered(dataset, unanswered(subjects, count))


def counted(questions: Sequence[Question]) -> list[Question]:
    """Return the questions that are asked by COUNT too: without limits and answers."""
    return [
        Question(
            question.name,
            tuple({k: v for k, v in wanted.items() if k != "limit"} for wanted in question.filters),
            verb="COUNT",
        )
        for question in questions
        if question.name in COUNTED
    ]


def count(dataset: DataSet, questions: Sequence[Question]) -> list[Question]:
    """Return the questions that are asked by COUNT too, with their unlimited answers."""
    return _answered(dataset, counted(questions))


def _answered(dataset: DataSet, asked: Sequence[Question]) -> list[Question]:
    with ProcessPoolExecutor(initializer=_keep, initargs=(dataset.surviving,)) as processes:
        answers = processes.map(_answer, [question.filters[0] for question in asked], chunksize=10)
        return [replace(question, answer=answer) for question, answer in zip(asked, answers, strict=True)]


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


def unanswered(subjects: Subjects, count: int) -> list[Question]:
    """Return so many questions of all kinds: the same ones for the same subjects."""
    chance = random.Random(_SEED)
    crowd = Crowd(chance)
    keys = pubkeys()
    asked = []
    for _ in range(count):
        (name,) = chance.choices(NAMES, WEIGHTS)
        wanted: dict[str, Any]
        match name:
            case "ids":
                wanted = {"ids": chance.sample(subjects.notes, min(20, len(subjects.notes)))}
            case "author":
                wanted = {"authors": [keys[crowd.author()]], "kinds": [1], "limit": 20}
            case "feed":
                authors = [keys[author] for author in crowd.authors(200)]
                wanted = {"authors": authors, "kinds": [1, 6], "limit": 100}
            case "thread":
                wanted = {"#e": [chance.choice(subjects.parents)], "kinds": [1], "limit": 200}
            case "mentions":
                wanted = {"#p": [keys[crowd.author()]], "limit": 50}
            case "global":
                wanted = {"kinds": [1], "limit": 500}
            case "profiles":
                wanted = {"kinds": [0], "authors": [keys[author] for author in crowd.authors(50)]}
            case _:
                since = chance.randrange(subjects.since, max(subjects.since + 1, subjects.until - 21_600))
                wanted = {"kinds": [1], "since": since, "until": since + 21_600, "limit": 200}
        asked.append(Question(name, (wanted,)))
    return asked
