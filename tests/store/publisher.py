"""A process that publishes, for tests that end it.

`python -m tests.store.publisher DATABASE NOTES AT_ONCE tiny|usual` publishes so many notes (`inf`:
until it is killed), some at once, into tiers of that size, and writes the id of each acknowledged one.
"""

import asyncio
import itertools
import os
import secrets
import sys
from pathlib import Path

from relay.store.sqlite import SqliteStore, Tuning
from tests.events import ALICE, NOW, note, write
from tests.store.writers import TINY


async def publish(database: Path, notes: float, at_once: int, tuning: Tuning) -> None:
    store = await SqliteStore.open(database, tuning=tuning)

    begun = itertools.count()

    async def one_after_another() -> None:
        while next(begun) < notes:
            event = note(ALICE, secrets.token_hex(), created_at=NOW + secrets.randbelow(1_000))
            await store.write([write(event)])
            # One system call, so that no line is cut by a kill between two.
            os.write(1, event.id.encode() + b"\n")

    async with asyncio.TaskGroup() as tasks:
        for _ in range(at_once):
            tasks.create_task(one_after_another())
    await store.close()


if __name__ == "__main__":
    database, notes, at_once, tiers = sys.argv[1:]
    asyncio.run(publish(Path(database), float(notes), int(at_once), TINY if tiers == "tiny" else Tuning()))
