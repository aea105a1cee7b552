"""Unsigned events, for databases so large that signing them would take longer than filling.

The crowd of the data sets writes them, one every twenty seconds over months and years; each fifth is by
one prolific author. `python -m benchmarks.filler COUNT` writes them to standard output, in a process of
its own, because making them costs as much as storing them; with `prose` behind, in the words of
`benchmarks.prose`.
"""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from benchmarks.dataset import AUTHORS, NEWEST, Writer, pubkeys, secret, written
from benchmarks.prose import Prose
from benchmarks.server import ROOT
from relay.nostr.event import Event, PubKey, compute_id, encode

MOST = 3_000_000
EVERY_SECONDS = 20
FIRST = NEWEST - 70_000_000
"""Unix seconds: `MOST` events end before the first of a data set."""
PROLIFIC_SHARE = 5
"""One of so many events is by the prolific author."""
_SEED = 5
_NO_SIGNATURE = "0" * 128


def prolific() -> PubKey:
    """Return the public key of the author who writes a fifth of all."""
    return PubKey(secret(AUTHORS).public)


def unsigned(count: int, *, prose: bool = False) -> Iterator[bytes]:
    """Yield canonical JSON in order of created_at: its ids are right, its signatures are zeros."""
    if count > MOST:
        raise ValueError(f"at most {MOST} events")
    chance = random.Random(_SEED)
    author, writer = prolific(), Prose(chance) if prose else Writer(chance)
    times = iter(range(FIRST, FIRST + count * EVERY_SECONDS, EVERY_SECONDS))
    crowd = written(times, chance, writer if prose else None)
    for number in range(count):
        if number % PROLIFIC_SHARE == PROLIFIC_SHARE - 1:
            created_at, content = next(times), writer.text(60, 600)
            id_ = compute_id(author, created_at, 1, (), content)
            yield encode(Event(id_, author, created_at, 1, (), content, _NO_SIGNATURE))
        else:
            by = next(crowd)
            pubkey = pubkeys()[by.author]
            yield encode(Event(by.id, pubkey, by.created_at, by.kind, by.tags, by.content, _NO_SIGNATURE))


@contextmanager
def streamed(count: int, *, prose: bool = False) -> Iterator[BinaryIO]:
    """Make events in another process; gives its JSON lines. It waits for its reader."""
    command = [sys.executable, "-m", "benchmarks.filler", str(count), *(["prose"] if prose else [])]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, bufsize=2**20) as process:
        assert process.stdout is not None
        try:
            yield process.stdout  # type: ignore[misc]  # a buffered reader, though typed as IO[bytes]
        finally:
            process.kill()


if __name__ == "__main__":
    sys.stdout.buffer.writelines(
        line + b"\n" for line in unsigned(int(sys.argv[1]), prose="prose" in sys.argv)
    )
