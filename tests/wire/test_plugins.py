"""Plugins of a real relay: real programs beside real workers."""

import shlex
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from tests.serving import TorvServe
from tests.wire.client import dial, new_key, note

ROOT = Path(__file__).parents[2]
PROGRAM = f"{sys.executable} {ROOT / 'tests/plugins/program.py'}"
LIMITS = "[relay.limits]\nevents_per_minute = 0\nconnections_per_address = 0\n"


def plugged(command: str, *, seconds: float = 30) -> str:
    return f'{LIMITS}[relay.plugins.write]\ncommand = "{command}"\nseconds = {seconds}\n'


async def test_each_worker_asks_its_own_program(torv_serve: TorvServe) -> None:
    served = torv_serve(
        plugged(shlex.join([str(ROOT / "docs/operating/examples/no_invites.py"), ""])), workers=2
    )
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(served.url)) for _ in range(6)]

        for number, wire in enumerate(wires):
            assert await wire.publish(note(new_key(), f"note {number}")) == (True, "")
            assert await wire.publish(note(new_key(), "https://t.me/x")) == (
                False,
                "blocked: no invites, please",
            )

        assert len(await wires[0].query({"kinds": [1]})) == 6


async def test_a_program_that_dies_is_there_again(torv_serve: TorvServe) -> None:
    served = torv_serve(plugged(f"{PROGRAM} crash"), workers=1)
    no_answer = (False, "error: the relay's policy gave no answer; try again later")
    async with dial(served.url) as wire:
        assert await wire.publish(note(new_key(), "crash")) == no_answer

        for number in range(100_000):
            said = await wire.publish(note(new_key(), f"after {number}"))
            if said != no_answer:
                break

        assert said == (True, "")


async def test_what_a_program_was_asked_is_answered_before_the_relay_stops(torv_serve: TorvServe) -> None:
    served = torv_serve(plugged(f"{PROGRAM} hang", seconds=1), workers=1)
    async with dial(served.url) as wire:
        stuck = note(new_key(), "hang")
        await wire.send_event(stuck)
        assert await wire.publish(note(new_key(), "other")) == (True, "")

        assert served.stop() == 0

        assert await wire.receive() == [
            "OK",
            stuck.id,
            False,
            "error: the relay's policy gave no answer; try again later",
        ]


async def test_a_read_plugin_hides_in_every_worker(torv_serve: TorvServe) -> None:
    hide = ROOT / "docs/operating/examples/hide_drafts.py"
    served = torv_serve(f'{LIMITS}[relay.plugins.read]\ncommand = "{hide}"\nseconds = 30\n', workers=2)
    author = new_key()
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(served.url)) for _ in range(4)]
        await wires[0].authenticate(author)
        await wires[0].publish(note(author, "draft", kind=31_234, tags=[["d", "x"]]))
        await wires[0].publish(note(author, "open"))

        assert len(await wires[0].query({"authors": [author.public]})) == 2
        for wire in wires[1:]:
            assert [one["content"] for one in await wire.query({"authors": [author.public]})] == ["open"]
            assert await wire.count({"authors": [author.public]}) == 1
