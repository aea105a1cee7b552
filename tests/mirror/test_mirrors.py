"""Two relays that mirror each other, as processes: what stops and starts ends equal (show 5)."""

import asyncio
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from relay.net.streams import read_status
from relay.nostr.event import Event
from tests.mirror.houses import write_key
from tests.serving import UNLIMITED, Served, TorvServe
from tests.test_cli import torv
from tests.wire.client import dial, new_key, note

WAIT_SECONDS = 90
"""Generous: the machine may be busy with other tests."""


def mirror_of(url: str, **settings: object) -> str:
    """Return the configuration of a relay that mirrors the one at `url`."""
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join([UNLIMITED, "[relay.router.mirror]", f'urls = ["{url}"]', 'direction = "both"', *lines])


async def publish(served: Served, events: Sequence[Event]) -> None:
    async with dial(served.url) as wire:
        for one in events:
            assert await wire.publish(one) == (True, "")


async def contents(served: Served, **wanted: object) -> set[str]:
    async with dial(served.url) as wire:
        return {one["id"] for one in await wire.query(wanted)}


async def until_equal(one: Served, other: Served, count: int, **wanted: object) -> None:
    """Wait until both have all of it, and nothing else that is wanted."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            here, there = await contents(one, **wanted), await contents(other, **wanted)
            if here == there and len(here) == count:
                return
            await asyncio.sleep(0.1)


def exported(served: Served) -> bytes:
    """Return what a relay holds: equal stores give equal files."""
    done = torv("relay", "export", "--data", served.data)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.xdist_group("relay")
async def test_two_mirrors_survive_stops_of_either_and_end_equal(torv_serve: TorvServe) -> None:
    key = new_key()
    there = torv_serve(workers=1)
    here = torv_serve(mirror_of(there.url), workers=1)
    ours = {"authors": [key.public], "limit": 500}

    # Live, both ways.
    await publish(here, [note(key, "here")])
    await publish(there, [note(key, "there")])
    await until_equal(here, there, 2, **ours)

    # The partner stops; then it is killed.
    assert there.stop() == 0
    await publish(here, [note(key, f"while it was stopped {n}") for n in range(10)])
    there.restart()
    await until_equal(here, there, 12, **ours)
    there.kill()
    await publish(here, [note(key, f"while it was dead {n}") for n in range(10)])
    there.restart()
    await until_equal(here, there, 22, **ours)

    # The one with the router stops; then it is killed.
    assert here.stop() == 0
    await publish(there, [note(key, f"while we were stopped {n}", age=100) for n in range(10)])
    here.restart()
    await publish(here, [note(key, "again")])
    await until_equal(here, there, 33, **ours)
    here.kill()
    await publish(there, [note(key, f"while we were dead {n}", age=100) for n in range(10)])
    here.restart()
    await until_equal(here, there, 43, **ours)

    # A deletion crosses as everything else does.
    victim = note(key, "deleted", age=1)
    await publish(there, [victim])
    await until_equal(here, there, 44, **ours)
    await publish(here, [note(key, kind=5, tags=[["e", victim.id]])])
    await until_equal(here, there, 44, **ours)
    assert victim.id not in await contents(here, **ours)
    assert exported(here) == exported(there)


@pytest.mark.xdist_group("relay")
async def test_a_stream_begun_while_serving_keeps_secrets_and_tells_how_it_does(
    torv_serve: TorvServe, tmp_path: Path
) -> None:
    key, friend = new_key(), new_key()
    there = torv_serve(UNLIMITED + "[relay.auth]\nwrite = true\n", workers=1)
    here = torv_serve(workers=1)
    to_friend = [["p", friend.public]]
    group = [["h", f"secret{key.public[:8]}"]]
    secrets = [
        note(key, "sealed", kind=1059, tags=to_friend),
        note(key, "old letter", kind=4, tags=to_friend),
        note(key, kind=9007, tags=group),
        note(key, kind=9002, tags=[*group, ["name", "Secret"], ["private"]]),
        note(key, "among us", kind=9, tags=group),
        note(key, "mine alone", tags=[["-"]]),
    ]
    stream = mirror_of(there.url, key=str(write_key(tmp_path, "mirror")))
    (here.data.parent / "torv.toml").write_text(stream)
    here.process.send_signal(signal.SIGHUP)
    await until_told(here, connected=True, state="live")

    async with dial(here.url) as wire:
        await wire.authenticate(key)
        for one in secrets:
            assert await wire.publish(one) == (True, "")
        # Behind them in the log: when it has arrived, the others would have too.
        await wire.publish(last := note(key, "for all"))

    await until_equal(here, there, 1, ids=[last.id])
    assert json.loads(exported(there))["id"] == last.id

    await until_told(here, connected=True, state="live", sent=1, lag_events=0)
    table = torv("relay", "router", "--status", "--data", here.data)
    assert table.returncode == 0
    assert there.url in table.stdout.decode() and "live" in table.stdout.decode()
    metrics = await fetched(here.http + "/metrics")
    labels = f'{{partner="{there.url}",stream="mirror"}}'
    assert f"torv_router_sent_total{labels} 1.0" in metrics
    assert f"torv_router_connected{labels} 1.0" in metrics

    there.kill()
    await until_told(here, connected=False)
    assert torv("relay", "router", "--json", "--data", here.data).returncode == 1
    assert torv("relay", "router", "--data", there.data).returncode == 1


async def until_told(served: Served, **wanted: object) -> None:
    """Wait until the router says this of its only link."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            status = read_status(served.data, time.time())
            match status:
                case {"links": [dict(link)]} if wanted.items() <= link.items():
                    return
            await asyncio.sleep(0.1)


async def fetched(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return await response.text()
