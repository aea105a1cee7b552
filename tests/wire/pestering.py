"""Many who ask for as much as they can, without pause, in a process of their own.

    python -m tests.wire.pestering URL COUNT

reads a JSON list of filters from standard input. Each of COUNT connections asks all of them, one after the
other, again and again until the process is killed; by REQ or, every third one, by COUNT. It writes one line
when each connection has had an answer.
"""

import asyncio
import sys
from itertools import cycle
from typing import Any

import orjson

from tests.wire.client import dial


async def pester(url: str, count: int, questions: list[dict[str, Any]]) -> None:
    answered: set[int] = set()

    async def ask(number: int) -> None:
        first = number % len(questions)
        async with dial(url) as wire:
            for wanted in cycle(questions[first:] + questions[:first]):
                await (wire.count(wanted) if number % 3 == 0 else wire.query(wanted))
                if len(answered) < count:
                    answered.add(number)
                    if len(answered) == count:
                        print("everybody is served", flush=True)  # noqa: T201

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(ask(number))


if __name__ == "__main__":
    asyncio.run(pester(sys.argv[1], int(sys.argv[2]), orjson.loads(sys.stdin.buffer.read())))
