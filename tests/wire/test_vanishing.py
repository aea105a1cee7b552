"""NIP-62 over the wire: who vanishes is gone through every door of every worker, and after a restore."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import orjson

from relay.nostr.event import Event
from relay.nostr.negentropy import Client as Negentropy
from relay.nostr.negentropy import Vector
from tests.serving import ROOT, Served, TorvServe
from tests.wire.client import Wire, dial, new_key, note
from tests.wire.test_search import until_found

ALICE, BOB = new_key(), new_key()
CONNECTIONS = 6
"""The kernel spreads them over the workers."""
DEADLINE_SECONDS = 20
GROUP = "vanishing"
ASKED = note(BOB, "Tea?", kind=1068, age=90, tags=[["option", "yes", "Yes"], ["option", "no", "No"]])
HERS = [
    note(ALICE, "a zebra of hers", age=80),
    note(ALICE, kind=1018, age=70, tags=[["e", ASKED.id], ["response", "yes"]]),
    note(ALICE, "+", kind=7, age=60, tags=[["e", ASKED.id]]),
    note(ALICE, "in the group", kind=9, age=50, tags=[["h", GROUP]]),
]


async def needed(wire: Wire) -> set[str]:
    """Return the ids that a reconciliation offers to who has nothing: few enough for one frame."""
    client = Negentropy(Vector.of([]))
    await wire.send("NEG-OPEN", "all", {}, client.initiate().hex())
    answer = await wire.receive()
    assert answer[:2] == ["NEG-MSG", "all"], answer
    _, differences = client.reconcile(bytes.fromhex(answer[2]))
    await wire.send("NEG-CLOSE", "all")
    return {id_.hex() for id_ in differences.need}


def voters(served: Served) -> int:
    with urlopen(f"{served.http}/api/poll/{ASKED.id}", timeout=20) as answer:
        found = orjson.loads(answer.read())["voters"]
    assert type(found) is int
    return found


async def members(wire: Wire) -> list[str]:
    lists: Sequence[Any] = await wire.query({"kinds": [39002], "#d": [GROUP]})
    return sorted(tag[1] for one in lists for tag in one["tags"] if tag[0] == "p")


async def gone_from(wire: Wire, served: Served) -> None:
    """Check every door of one worker."""
    assert [one["kind"] for one in await wire.query({"authors": [ALICE.public]})] == [62]
    assert await wire.query({"ids": [one.id for one in HERS]}) == []
    assert await wire.count({"kinds": [1, 7, 9, 1018], "authors": [ALICE.public]}) == 0
    assert await wire.query({"search": "zebra"}) == []
    assert (await needed(wire)).isdisjoint(one.id for one in HERS)
    assert await asyncio.to_thread(voters, served) == 0
    for one in HERS:
        accepted, reason = await wire.publish(one)
        assert (accepted, reason.partition(":")[0]) == (False, "blocked")


def torv(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "torv", "relay", *map(str, arguments)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=True)


@asynccontextmanager
async def everywhere(served: Served) -> Any:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(dial(served.url)) for _ in range(CONNECTIONS)]


async def test_who_vanishes_is_gone_everywhere_and_stays_so(torv_serve: TorvServe, tmp_path: Path) -> None:
    # Its events were made when all tests were collected, which may be long ago.
    served = torv_serve("[relay.polls]\nlate_seconds = 86400\n")
    vanish = note(ALICE, "farewell", kind=62, age=10, tags=[["relay", "ALL_RELAYS"]])
    async with everywhere(served) as wires:
        wire = wires[0]
        published: list[Event] = [
            note(BOB, kind=9007, age=95, tags=[["h", GROUP]]),
            note(BOB, kind=9000, age=94, tags=[["h", GROUP], ["p", ALICE.public]]),
            ASKED,
            *HERS,
        ]
        for one in published:
            assert await wire.publish(one) == (True, "")
        await until_found(wire, {"search": "zebra"}, 1)
        assert await members(wire) == sorted([ALICE.public, BOB.public])
        assert await asyncio.to_thread(voters, served) == 1

        assert await wire.publish(vanish) == (True, "")

        for other in wires:
            await gone_from(other, served)
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await members(wire) != [BOB.public]:  # noqa: ASYNC110  # another process's work
                await asyncio.sleep(0.1)
        newer = note(ALICE, "back again")
        assert await wire.publish(newer) == (True, "")

    backup = tmp_path / "backup.jsonl"
    torv("export", "-o", backup, "--data", served.data)
    exported = backup.read_bytes()
    assert not any(one.id.encode() in exported for one in HERS)
    served.stop()
    restored = torv_serve()
    torv("import", backup, "--data", restored.data)
    async with everywhere(restored) as wires:
        for other in wires:
            assert [one["kind"] for one in await other.query({"authors": [ALICE.public]})] == [1, 62]
            for one in HERS:
                assert not (await other.publish(one))[0]
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await members(wires[0]) != [BOB.public]:  # noqa: ASYNC110  # another process's work
                await asyncio.sleep(0.1)
