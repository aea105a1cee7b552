"""One process in the place of another: the line between them, and who stands in."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from relay.net.handover import Inheritance, Successor
from relay.net.workers import bind, bind_beside

HEAR = "import sys; from relay.net.handover import Inheritance\nheir = Inheritance.read(int(sys.argv[-1]))\n"
ROOT = Path(__file__).parent.parent.parent


def heir(code: str) -> list[str]:
    return [sys.executable, "-c", HEAR + code]


def estate(**more: object) -> dict[str, object]:
    return {"pid": os.getpid(), "sockets": [], "locks": {}, "address": ["127.0.0.1", 0], **more}


async def test_the_two_hear_each_other() -> None:
    code = (
        "heir.say('prepared', understands=True)\nimport asyncio\nasyncio.run(heir.go())\nheir.say('ready')\n"
    )
    successor = Successor.start(heir(code), estate(), [])

    assert await successor.hear(30) == {"say": "prepared", "understands": True}
    successor.say("go")
    assert await successor.hear(30) == {"say": "ready"}
    await successor.end()


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("sys.exit(3)", "the new process ended with exit code 3"),
        ("heir.say('failed', why='no such thing')", "no such thing"),
    ],
)
async def test_a_successor_that_cannot_start_says_why_or_ends(code: str, why: str) -> None:
    successor = Successor.start(heir(code), estate(), [])

    said = await successor.hear(30)

    assert (said["say"], said["why"]) == ("failed", why)
    await successor.end()


async def test_a_successor_that_is_silent_is_given_up_and_killed() -> None:
    successor = Successor.start([sys.executable, "-c", "import time; time.sleep(600)"], estate(), [])

    assert (await successor.hear(0.05))["why"] == "the new process said nothing within 0.05 seconds"
    await successor.end()
    with pytest.raises(ProcessLookupError):
        os.kill(successor.pid, 0)


async def test_a_successor_that_is_told_when_it_is_gone_is_no_failure() -> None:
    successor = Successor.start(heir("sys.exit(0)"), estate(), [])
    await successor.hear(30)

    successor.say("go")

    await successor.end()


async def test_sockets_are_inherited_for_the_same_address_only() -> None:
    (listening,) = bind("127.0.0.1", 0, 1)
    listening.listen()
    code = (
        "same, other = heir.estate['same'], heir.estate['other']\n"
        "found = heir.sockets(*other) if other else heir.sockets(*same)\n"
        "heir.say('prepared', found=[one.getsockname()[1] for one in found])\n"
    )
    told = []
    for other in (None, ["127.0.0.1", 7]):
        given = estate(sockets=[listening.fileno()], same=["127.0.0.1", 0], other=other)
        successor = Successor.start(heir(code), given, [listening.fileno()])
        told.append((await successor.hear(30))["found"])
        await successor.end()

    assert told == [[listening.getsockname()[1]], []]
    listening.close()


def test_more_sockets_share_an_address() -> None:
    (first,) = bind("127.0.0.1", 0, 1)

    more = bind_beside(first, 2)

    assert {one.getsockname() for one in more} == {first.getsockname()}
    for one in (first, *more):
        one.close()


STAND_IN = """
import os, subprocess, sys
from relay.net.handover import stand_in
first = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
sys.exit(stand_in(first.pid))
"""
GENERATION = """
import os, signal, subprocess, sys
if {left}:
    subprocess.Popen([sys.executable, "-c", {code!r}])
    sys.exit(0)
def stop(number, frame):
    print("stopped", flush=True)
    sys.exit(5)
signal.signal(signal.SIGTERM, stop)
print("serves", os.getpid(), flush=True)
while True:
    signal.pause()
"""


def test_who_stands_in_watches_successors_passes_signals_on_and_ends_with_the_last_ones_code() -> None:
    last = GENERATION.format(left=0, code="")
    first = GENERATION.format(left=1, code=last)
    argv = [sys.executable, "-c", STAND_IN, first]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("serves")

        process.send_signal(signal.SIGTERM)

        assert process.stdout.readline() == "stopped\n"
        assert process.wait(30) == 5


async def test_an_heir_whose_predecessor_died_goes_on() -> None:
    line, theirs = socket.socketpair()
    theirs.close()
    with line:
        alone = Inheritance(line, estate())

        alone.say("prepared")
        async with asyncio.timeout(10):
            await alone.go()
