"""Questions made to be slow, and a reader of small ones beside them."""

import asyncio
from itertools import cycle
from time import perf_counter
from typing import Any

from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from tests.serving import UNLIMITED, TorvServe
from tests.wire.client import Wire, dial, new_key, note

EVENTS = 1_500
ASKERS = 16
SMALL_QUESTIONS = 200
TIMES_SLOWER = 5
FLOOR_SECONDS = 0.5
"""A machine that is busy with other things delays a single answer by so much, whatever the relay does."""


def worst(keys: list[SecretKey]) -> list[dict[str, Any]]:
    """Return filters that look at as much as they can and find next to nothing."""
    strangers = [f"{n:064x}" for n in range(3_500)]
    authors = [key.public for key in keys]
    return [
        {"authors": strangers + authors, "#t": ["nobody wrote this"]},
        {"authors": authors, "kinds": [1], "#t": ["even"], "#p": ["ab" * 32]},
        {"ids": strangers},
        {"kinds": list(range(4_900)), "#t": ["even", "odd"], "#p": ["cd" * 32], "until": 2_000_000_000},
        {"#t": [f"{n}" for n in range(2_000)], "#p": strangers[:2_000]},
        {"authors": authors, "kinds": list(range(2, 2_000)), "limit": 500},
        {"kinds": [1], "#e": strangers},
        {"since": 1, "until": 2_000_000_000, "#t": ["odd"], "authors": strangers},
    ]


async def fill(wire: Wire, events: list[Event]) -> None:
    """Publish all; wait for all the answers."""

    async def send() -> None:
        for one in events:
            await wire.send_event(one)

    sending = asyncio.create_task(send())
    for _ in events:
        _, _, accepted, reason = await wire.receive()
        assert accepted, reason
    await sending


async def p99_of_small_questions(wire: Wire, keys: list[SecretKey]) -> float:
    """Return what all but one in a hundred answers take, in seconds."""
    took = []
    for number in range(SMALL_QUESTIONS):
        asked = perf_counter()
        # No CLOSE before the next REQ, which would wait for its acknowledgement (Nagle's algorithm).
        found = await wire.subscribe({"authors": [keys[number % len(keys)].public], "limit": 20})
        took.append(perf_counter() - asked)
        assert len(found) == 20
    return sorted(took)[SMALL_QUESTIONS * 99 // 100 - 1]


async def test_no_question_however_built_keeps_the_others_waiting(torv_serve: TorvServe) -> None:
    served = torv_serve(UNLIMITED, workers=1)
    keys = [new_key() for _ in range(30)]
    events = [
        note(keys[n % 30], f"{n}", age=n, tags=[["t", "odd" if n % 2 else "even"], ["t", f"{n}"]])
        for n in range(EVENTS)
    ]
    answered, is_over = 0, False

    async def ask(first: int) -> None:
        nonlocal answered
        questions = worst(keys)
        async with dial(served.url) as wire:
            for wanted in cycle(questions[first % len(questions) :] + questions[: first % len(questions)]):
                await (wire.count(wanted) if first % 3 == 0 else wire.query(wanted))
                answered += 1
                if is_over:
                    return

    async with dial(served.url) as reader:
        await fill(reader, events)
        quiet = await p99_of_small_questions(reader, keys)
        async with asyncio.TaskGroup() as tasks:
            for number in range(ASKERS):
                tasks.create_task(ask(number))
            while answered < ASKERS:
                await reader.subscribe({"authors": [keys[0].public], "limit": 20})
            beside = await p99_of_small_questions(reader, keys)
            is_over = True

    assert beside < max(TIMES_SLOWER * quiet, FLOOR_SECONDS)
