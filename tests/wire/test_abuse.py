"""Clients that hold what they can, or say what they can, and an ordinary one beside them.

Questions built to be slow have tests of their own (test_worst_questions.py).
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.sockets import dialed
from relay.nostr.keys import SecretKey
from tests.serving import ROOT, UNLIMITED, Served, TorvServe
from tests.wire.attacking import UNDER_WAY
from tests.wire.client import new_key
from tests.wire.test_worst_questions import ROUNDS, TIMES_SLOWER, fill_relay, p99_of_small_questions

QUESTIONS = 100
FLOODERS = 20
STARVED_SECONDS = 1.0
"""Of the worker's work between a question and its answer."""
ATTACKS = {"half handshakes": 300, "half messages": 300, "idle": 1_000}


@pytest.fixture(scope="module")
def keys() -> list[SecretKey]:
    return [new_key() for _ in range(30)]


@pytest.fixture(scope="module")
def served(_serving: TorvServe, keys: list[SecretKey]) -> Served:
    served = _serving(f"[relay]\ncompression = true\n{UNLIMITED}", workers=1)
    asyncio.run(fill_relay(served.url, keys))
    return served


@pytest.fixture(scope="module")
def quiet(served: Served, keys: list[SecretKey]) -> float:
    """What the ordinary client waits for as long as nobody attacks."""
    return min(p99(served, keys) for _ in range(3))


def p99(served: Served, keys: list[SecretKey]) -> float:
    (worker,) = served.workers()
    with dialed(served.url, 1) as (peer,):
        return p99_of_small_questions(peer, keys, worker, QUESTIONS)


@contextmanager
def attacked(url: str, kind: str, count: int) -> Iterator[None]:
    """Have somebody attack from a process of its own."""
    command = [sys.executable, "-m", "tests.wire.attacking", kind, url, str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == UNDER_WAY
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_ordinary_client_hardly_notices_an_attack(
    served: Served, keys: list[SecretKey], quiet: float, kind: str
) -> None:
    times_slower = []
    for _ in range(ROUNDS):
        with attacked(served.url, kind, ATTACKS[kind]):
            times_slower.append(p99(served, keys) / quiet)
        if times_slower[-1] < TIMES_SLOWER:
            break

    assert min(times_slower) < TIMES_SLOWER, times_slower


@pytest.mark.parametrize("kind", ["bombs", "pings", "fragments", "nonsense"])
def test_an_ordinary_client_is_served_amid_a_flood(served: Served, keys: list[SecretKey], kind: str) -> None:
    """Not as fast as ever: all flooders may be read at one turn of the event loop."""
    with attacked(served.url, kind, FLOODERS):
        assert p99(served, keys) < STARVED_SECONDS
