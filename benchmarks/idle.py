"""Connections that only wait."""

import random
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter

import orjson

from benchmarks.dataset import pubkeys
from benchmarks.results import Result
from benchmarks.server import Relay, Watch, usage
from benchmarks.sockets import Loop, dialed

_SEED = 3


@dataclass(frozen=True)
class Idle:
    """What waiting connections cost."""

    opening: Result
    bytes_each: float
    """Growth of the relay's own memory for each."""
    cpu_share: float
    """Of one core, while nothing happens."""


def idle(relay: Relay, connections: int, *, seconds: float) -> Idle:
    """Open connections with one subscription of 20 authors each, then let them be."""
    chance = random.Random(_SEED)
    with ExitStack() as stack:
        before = usage(relay.pid)
        watch = Watch(relay.pid)
        peers = []
        for _ in range(connections):
            (peer,) = stack.enter_context(dialed(relay.url, 1))
            wanted = {"kinds": [1], "authors": chance.sample(pubkeys(), 20), "limit": 1}
            peer.ask(orjson.dumps(["REQ", "feed", wanted]), b'["EOSE","feed"')
            peers.append(peer)
        opening = Result(connections, watch.stop())
        after = usage(relay.pid)
        waiting = Watch(relay.pid)
        until = perf_counter() + seconds
        # Reads too: pings want their pongs.
        Loop(peers).run(
            lambda peer, data: None,
            lambda: perf_counter() >= until,
            before_wait=lambda: max(0.0, until - perf_counter()),
        )
        spent = waiting.stop()
    grown = after.anonymous_bytes - before.anonymous_bytes
    return Idle(opening, grown / connections, spent.server_cpu_seconds / spent.seconds)
