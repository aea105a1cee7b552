"""A configuration that is read again, under load: by SIGHUP and by `torv relay reload`."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.exceptions import ConnectionClosed

from tests.serving import ROOT, UNLIMITED, Served, TorvServe
from tests.wire.client import Wire, dial, new_key, note
from tests.wire.test_durability import load, missing
from tests.wire.test_http import request

RELOADS = 2


def configure(served: Served, text: str) -> None:
    """Write the file that the relay was started with."""
    served.data.with_name("torv.toml").write_text(text)


async def information(served: Served) -> dict[str, Any]:
    """Return the information document, as the worker tells it that accepts the connection."""
    _, _, text = await asyncio.to_thread(request, f"{served.http}/", accept="application/nostr+json")
    found: dict[str, Any] = orjson.loads(text)
    return found


async def reload(served: Served) -> tuple[int, Any, str]:
    """Run `torv relay reload --json`; return its status, what it printed, and what it said besides."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "torv", "relay", "reload", "--json", "--data", str(served.data)),
        cwd=ROOT,
        env=served.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, orjson.loads(out) if out else None, err.decode()


async def test_a_reload_under_load_drops_no_subscription_and_loses_no_ok(torv_serve: TorvServe) -> None:
    served = torv_serve(workers=2)
    key = new_key()
    heard: set[str] = set()

    async def listen(wire: Wire) -> None:
        while True:
            heard.add((await wire.live())["id"])

    async with dial(served.url) as first, dial(served.url) as second, asyncio.TaskGroup() as tasks:
        for wire in (first, second):
            await wire.subscribe({"authors": [key.public]})
        listening = [tasks.create_task(listen(wire)) for wire in (first, second)]
        async with load(served.url, key) as under_load:
            for number in range(RELOADS):
                await under_load.reaches(len(under_load.acknowledged) + 100)
                configure(served, f"{UNLIMITED}\nmax_filters = {number + 2}\n[relay.auth]\nread_kinds = [7]")
                told = await reload(served)
                assert told[:2] == (
                    0,
                    {
                        "changed": [
                            "relay.limits.max_filters",
                            *(() if number else ("relay.auth.read_kinds",)),
                        ],
                        "restart": [],
                        "mistakes": "",
                        "failed": [],
                    },
                )
            await under_load.reaches(len(under_load.acknowledged) + 100)
            acknowledged = set(under_load.acknowledged)
        async with asyncio.timeout(60):
            while not acknowledged <= heard:  # noqa: ASYNC110  # what it waits for comes from a process
                await asyncio.sleep(0.05)
        # No connection was lost: each would have made one of these fail.
        assert not any(task.done() for task in listening)
        for task in listening:
            task.cancel()

    assert await missing(served.url, acknowledged) == set()


async def test_a_mistake_changes_nothing_and_is_named(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay]\nname = 'Before'", workers=2)
    async with dial(served.url) as wire:
        configure(served, "[relay]\nname = 'After'\n[relay.limits]\nmax_filters = 0\nmax_limits = 1")

        status, _, said = await reload(served)

        assert status == 2
        assert said.replace(f"{served.data.parent}/", "").splitlines() == [
            "the configuration has 2 mistakes:",
            "  torv.toml:4: relay.limits.max_filters: expected at least 1, found 0",
            "    Filters in one REQ or COUNT.",
            "  torv.toml:5: relay.limits.max_limits: unknown setting",
            "    Did you mean relay.limits.max_limit?",
            "the relay goes on as before",
        ]
        assert (await information(served))["name"] == "Before"
        assert await wire.publish(note(new_key(), "still served")) == (True, "")
    assert "relay.limits.max_filters: expected at least 1, found 0" in served.log.read_text()


async def test_every_worker_and_the_writer_go_by_the_new_settings(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay.groups]\nenabled = false", workers=2)
    before = set(served.children())
    configure(served, "[relay]\nname = 'After'\nport = 1\nworkers = 5\n[relay.groups]\nenabled = true")

    status, told, _ = await reload(served)

    assert (status, told["changed"]) == (0, ["relay.name", "relay.groups.enabled"])
    # What the command line says wins: the port and the workers are the same ones as before.
    assert told["restart"] == []
    assert set(served.children()) == before
    key = new_key()
    for number in range(6):
        assert (await information(served))["name"] == "After"
        async with dial(served.url) as wire:
            made = note(key, kind=9007, tags=[["h", f"group{number}"]])
            assert (await wire.publish(made)) == (True, "") or number >= 2  # two groups a minute
            assert 29 in (await information(served))["supported_nips"]


async def test_what_takes_a_restart_is_named_each_time(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay]\npath = '/'")
    configure(served, "[relay]\npath = '/nostr'\n[relays.home]\nhosts = ['home.test']")

    first, second = await reload(served), await reload(served)

    assert first[1]["restart"] == second[1]["restart"] == ["relay.path", "relays.home"]
    assert first[1]["changed"] == []
    async with dial(served.url) as wire:
        assert await wire.query({"kinds": [1]}) == []


async def test_of_quick_reloads_the_last_one_counts(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay]\nname = 'First'", workers=2)

    for name in ("Second", "Third", "Last"):
        configure(served, f"[relay]\nname = '{name}'")
        served.process.send_signal(signal.SIGHUP)
    # Whoever asks now waits for those before.
    assert (await reload(served))[0] == 0

    assert {(await information(served))["name"] for _ in range(6)} == {"Last"}


async def test_a_worker_that_dies_after_a_reload_comes_back_with_its_settings(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay]\nname = 'Before'", workers=1)
    configure(served, "[relay]\nname = 'After'")
    assert (await reload(served))[0] == 0
    (worker,) = served.workers()

    async with dial(served.url) as wire:
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(ConnectionClosed):
            await wire.receive()

    assert (await information(served))["name"] == "After"


async def test_search_can_be_switched_on_and_off(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay.search]\nenabled = false", workers=1)
    async with dial(served.url) as wire:
        await wire.publish(note(new_key(), "a heron stands"))
        configure(served, "[relay.search]\nenabled = true")
        assert (await reload(served))[0] == 0

        async with asyncio.timeout(60):
            while not await wire.query({"search": "heron"}):  # noqa: ASYNC110  # the indexer is a process
                await asyncio.sleep(0.1)

        configure(served, "[relay.search]\nenabled = false")
        assert (await reload(served))[0] == 0
        assert 50 not in (await information(served))["supported_nips"]
        assert not [name for name in served.children().values() if name.startswith("torv indexer")]


async def test_without_a_relay_there_is_nothing_to_reload(tmp_path: Path) -> None:
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "torv", "relay", "reload", "--data", str(tmp_path)],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )

    assert ended.returncode == 1
    assert b"no relay runs on this folder" in ended.stderr
