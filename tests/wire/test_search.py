"""NIP-50 over the wire: the indexer as a process, its lag, every worker, restarts, and a lost index."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack
from typing import Any

from tests.serving import TorvServe
from tests.wire.client import Wire, dial, new_key, note

DEADLINE_SECONDS = 20


async def until_found(wire: Wire, wanted: dict[str, Any], count: int) -> list[str]:
    """Search until so many events are found; the index follows a moment behind."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(found := await wire.query(wanted)) < count:  # noqa: ASYNC110  # another process's work
            await asyncio.sleep(0.05)
    return [event["content"] for event in found]


async def test_notes_are_found_by_rank_in_every_worker_and_after_a_restart(torv_serve: TorvServe) -> None:
    served = torv_serve()
    key = new_key()
    danish = [
        "Rødgrød, rødgrød og mere rødgrød med fløde",
        "Vi gik en lang tur langs havnen og fik en portion rødgrød hos bageren, før regnen kom ind over byen",
    ]
    english, japanese = "The harbour is lovely in autumn", "東京の港でラーメンを食べた"
    async with dial(served.url) as wire:
        for age, content in enumerate([danish[1], danish[0], english, japanese]):
            assert await wire.publish(note(key, content, age=60 * age)) == (True, "")
        await until_found(wire, {"search": "ラーメン"}, 1)

    for restarted in (False, True):
        if restarted:
            served.stop()
            served.restart()
        async with AsyncExitStack() as stack:
            for _ in range(8):  # which the kernel spreads over both workers
                wire = await stack.enter_async_context(dial(served.url))
                assert await until_found(wire, {"search": "rodgrod", "kinds": [1]}, 2) == danish
                assert await until_found(wire, {"search": "RØDGRØD", "limit": 1}, 1) == danish[:1]
                assert await until_found(wire, {"search": "autumn harbour"}, 1) == [english]
                assert await until_found(wire, {"search": "港 東京"}, 1) == [japanese]


async def test_a_killed_indexer_goes_on_and_a_lost_index_is_made_anew(torv_serve: TorvServe) -> None:
    served = torv_serve(workers=1)
    key = new_key()
    async with dial(served.url) as wire:
        await wire.publish(note(key, "apple pie"))
        await until_found(wire, {"search": "apple"}, 1)
        (indexer,) = (pid for pid, name in served.children().items() if name.startswith("torv indexer"))
        os.kill(indexer, signal.SIGKILL)
        await wire.publish(note(key, "apple tree"))
        assert sorted(await until_found(wire, {"search": "apple"}, 2)) == ["apple pie", "apple tree"]

    served.kill()
    for path in served.data.glob("torv-search*"):
        path.unlink()
    served.restart()

    async with dial(served.url) as wire:
        assert sorted(await until_found(wire, {"search": "apple"}, 2)) == ["apple pie", "apple tree"]


async def test_a_relay_without_search_has_no_index(torv_serve: TorvServe) -> None:
    served = torv_serve("[relay.search]\nenabled = false\n", workers=1)

    async with dial(served.url) as wire:
        await wire.send("REQ", "x", {"search": "apple"})
        assert await wire.receive() == ["CLOSED", "x", "unsupported: this relay does not search"]
    assert not any(name.startswith("torv indexer") for name in served.children().values())
    assert list(served.data.glob("torv-search*")) == []
