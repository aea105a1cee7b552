"""What this machine can do at most: Schnorr verifications, each of which an event needs once."""

import multiprocessing
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Barrier
from pathlib import Path
from time import perf_counter

from coincurve import PublicKeyXOnly

from relay.nostr.event import Event

SAMPLE = 4_000


@dataclass(frozen=True)
class Limit:
    """Verifications a second, each with the parsing of its key: libsecp256k1 through coincurve."""

    one_core: float
    all_cores: float

    def mean(self, other: "Limit") -> "Limit":
        """Return what lies between two measurements."""
        return Limit((self.one_core + other.one_core) / 2, (self.all_cores + other.all_cores) / 2)


@dataclass(frozen=True)
class Machine:
    """Where a run took place."""

    processor: str
    cores: int
    memory_bytes: int
    system: str
    python: str


def describe() -> Machine:
    """Return what this machine is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return Machine(
        processor=names[0] if names else platform.machine(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=platform.platform(terse=True),
        python=platform.python_version(),
    )


def limit(events: Sequence[Event]) -> Limit:
    """Measure on one core, then on all at once."""
    work = [
        (bytes.fromhex(event.pubkey), bytes.fromhex(event.sig), bytes.fromhex(event.id))
        for event in events[:SAMPLE]
    ]
    cores = os.cpu_count() or 1
    return Limit(sum(_rates(work, 1)), sum(_rates(work, cores)))


def _rates(work: list[tuple[bytes, bytes, bytes]], processes: int) -> list[float]:
    """Return the rate of each of so many processes that verify at the same time."""
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(processes)
    results = context.SimpleQueue()
    running = [context.Process(target=lambda: results.put(_rate(work, barrier))) for _ in range(processes)]
    for process in running:
        process.start()
    rates = [results.get() for _ in running]
    for process in running:
        process.join()
    return rates


def _rate(work: list[tuple[bytes, bytes, bytes]], barrier: Barrier) -> float:
    barrier.wait()
    began = perf_counter()
    valid = sum(PublicKeyXOnly(pubkey).verify(sig, id_) for pubkey, sig, id_ in work)
    rate = len(work) / (perf_counter() - began)
    if valid != len(work):
        raise ValueError("the set holds events that do not verify")
    return rate
