"""NIP-29 over the wire: a group's life, on a relay with two workers, and its fork on another relay."""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from relay.nostr.negentropy import Client as Negentropy
from relay.nostr.negentropy import Vector
from tests.serving import TorvServe
from tests.wire.client import Wire, dial, new_key, note

DEADLINE_SECONDS = 20
CONNECTIONS = 6
"""Which the kernel spreads over both workers."""

ALICE, BOB, CAROL = new_key(), new_key(), new_key()


def told(key: SecretKey, kind: int, *tags: Sequence[str], content: str = "", group: str = "pizza") -> Event:
    return note(key, content, kind=kind, tags=[["h", group], *tags])


async def do(wire: Wire, key: SecretKey, kind: int, *tags: Sequence[str], content: str = "") -> Event:
    event = told(key, kind, *tags, content=content)
    assert await wire.publish(event) == (True, "")
    return event


async def refusal(wire: Wire, key: SecretKey, kind: int, *tags: Sequence[str]) -> str:
    accepted, reason = await wire.publish(told(key, kind, *tags))
    assert not accepted
    return reason


async def notice(wire: Wire, kind: int) -> list[list[str]]:
    """Return the tags of what the relay says of the group, but for `d`."""
    (found,) = await wire.query({"kinds": [kind], "#d": ["pizza"]})
    tags: list[list[str]] = found["tags"][1:]
    return tags


async def members(wire: Wire) -> list[str]:
    return sorted(tag[1] for tag in await notice(wire, 39002))


async def contents(wire: Wire, wanted: dict[str, Any]) -> list[str]:
    return sorted(event["content"] for event in await wire.query(wanted))


async def offered(wire: Wire, wanted: dict[str, Any]) -> int:
    """Return how many events a reconciliation offers to who has none."""
    negentropy = Negentropy(Vector.of([]))
    await wire.send("NEG-OPEN", "neg", wanted, negentropy.initiate().hex())
    verb, _, frame = await wire.receive()
    assert verb == "NEG-MSG"
    await wire.send("NEG-CLOSE", "neg")
    return len(negentropy.reconcile(bytes.fromhex(frame))[1].need)


def torv(*args: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-m", "torv", *map(str, args)], capture_output=True, timeout=60)


async def test_the_life_of_a_group(torv_serve: TorvServe, tmp_path: Path) -> None:
    served = torv_serve()
    a, b, c = (key.public for key in (ALICE, BOB, CAROL))
    async with AsyncExitStack() as stack:

        async def connected(url: str, key: SecretKey | None = None) -> Wire:
            wire = await stack.enter_async_context(dial(url))
            if key is not None:
                assert await wire.authenticate(key) == (True, "")
            return wire

        wire = await connected(served.url)

        # Created, and closed to those who were not invited.
        await do(wire, ALICE, 9007)
        await do(wire, ALICE, 9002, ["name", "Pizza Lovers"], ["private"], ["restricted"], ["closed"])
        assert await notice(wire, 39000) == [
            ["name", "Pizza Lovers"],
            ["private"],
            ["restricted"],
            ["closed"],
        ]
        assert (await refusal(wire, BOB, 9021)).startswith("restricted: ")

        # Invited: of two who use one invite at once, one gets in.
        await do(wire, ALICE, 9009, ["code", "sesame"])
        wires = [await connected(served.url) for _ in range(2)]
        answers = await asyncio.gather(
            *(
                one.publish(told(key, 9021, ["code", "sesame"]))
                for one, key in zip(wires, (BOB, CAROL), strict=True)
            )
        )
        assert sorted(accepted for accepted, _ in answers) == [False, True]
        first, second = (BOB, CAROL) if answers[0][0] else (CAROL, BOB)
        await do(wire, ALICE, 9009, ["code", "open sesame"])
        await do(wire, second, 9021, ["code", "open sesame"])
        assert (await refusal(wire, first, 9021)).startswith("duplicate: ")

        # Members write, and nobody else; they alone read, live and stored, on every worker.
        said = await do(wire, BOB, 9, content="Margherita")
        await do(wire, CAROL, 9, ["previous", said.id[:8]], content="Marinara")
        assert (await refusal(wire, new_key(), 9)).startswith("restricted: ")
        about_it: list[dict[str, Any]] = [{"#h": ["pizza"]}, {"kinds": [9]}, {"ids": [said.id]}]
        for _ in range(CONNECTIONS):
            stranger = await connected(served.url, new_key())
            for wanted in about_it:
                assert await stranger.query(wanted) == []
                assert await stranger.count(wanted) == 0
                assert await offered(stranger, wanted) == 0
            assert await stranger.query({"search": "Margherita"}) == []
            assert await stranger.query({"kinds": [39002]}) == []
            member = await connected(served.url, BOB)
            assert await contents(member, {"kinds": [9]}) == ["Margherita", "Marinara"]
            assert await member.count({"kinds": [9]}) == 2
            assert await offered(member, {"kinds": [9]}) == 2
            assert await members(member) == sorted([a, b, c])

        # Promoted, and not lifted further by himself.
        await do(wire, ALICE, 9000, ["p", b, "moderator"])
        assert sorted(await notice(wire, 39001)) == sorted([["p", a, "owner"], ["p", b, "moderator"]])
        assert (await refusal(wire, BOB, 9000, ["p", b, "owner"])).startswith("restricted: ")
        await do(wire, BOB, 9005, ["e", said.id])

        # Removed: what follows is not for her.
        carol = await connected(served.url, CAROL)
        assert len(await carol.subscribe({"kinds": [9]})) == 1
        await do(wire, BOB, 9001, ["p", c])
        await do(wire, ALICE, 9, content="Without Carol")
        assert await contents(carol, {"kinds": [9], "authors": [a]}) == []
        assert (await refusal(wire, CAROL, 9)).startswith("restricted: ")
        member = await connected(served.url, BOB)
        assert await members(member) == sorted([a, b])

    # Forked: taken with its history to another relay, which goes its own way.
    backup = tmp_path / "group.jsonl"
    assert torv("relay", "export", "-o", backup, "--data", served.data).returncode == 0
    fork = torv_serve()
    imported = torv("relay", "import", backup, "--data", fork.data)
    assert imported.returncode == 0, imported.stderr
    async with dial(fork.url) as wire, dial(served.url) as before:
        assert await wire.authenticate(BOB) == (True, "")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not await wire.query({"kinds": [39002]}):  # noqa: ASYNC110  # another process's work
                await asyncio.sleep(0.1)
        assert await notice(wire, 39000) == await notice(before, 39000)
        assert sorted(await notice(wire, 39001)) == sorted(await notice(before, 39001))
        assert await members(wire) == sorted([a, b])
        assert await contents(wire, {"kinds": [9]}) == ["Marinara", "Without Carol"]
        await do(wire, ALICE, 9000, ["p", c, "admin"])
        await do(wire, CAROL, 9, content="Here I am welcome")
        assert await members(wire) == sorted([a, b, c])
        assert (await refusal(before, CAROL, 9)).startswith("restricted: ")
