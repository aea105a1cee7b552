"""NIP-77 with implementations that nobody here wrote: nostr-tools frame by frame, nostr-sdk as a whole."""

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from relay.nostr.event import encode
from relay.nostr.negentropy import Client, Item, Server, Vector, exhaust
from tests.events import ALICE, NOW, notes
from tests.interop.conftest import HERE, Driver
from tests.serving import Served, TorvServe

SYNC_SECONDS = 240


@pytest.fixture(scope="module")
def tools() -> Iterator[Driver]:
    """The process of nostr-tools' Negentropy."""
    driver = Driver(["node", "negentropy.mjs"])
    yield driver
    driver.end()


def dealt(chance: random.Random) -> tuple[list[Item], list[Item]]:
    """Return what the client has, and what the server has: some of it the same."""
    count, per_second = chance.choice([0, 1, 31, 32, 33, 500, 3_000]), chance.choice([1, 3, 1_000])
    client_has, server_has = chance.choice([(1, 1), (0.99, 1), (1, 0.99), (0.5, 0.5), (0, 1), (0.9, 0.2)])
    client: list[Item] = []
    server: list[Item] = []
    for n in range(count):
        item = NOW + n // per_second, sha256(b"%d %d" % (per_second, n)).digest()
        if chance.random() < client_has:
            client.append(item)
        if chance.random() < server_has:
            server.append(item)
    return client, server


@pytest.mark.parametrize("seed", range(40))
def test_a_client_says_what_nostr_tools_says(tools: Driver, seed: int) -> None:
    chance = random.Random(seed)
    client, server = dealt(chance)
    # Room for everything: where a frame is full, ours says more than theirs.
    ours = Client(Vector.of(client))
    other = Server(Vector.of(server), max_frame_bytes=chance.choice([0, 4_096, 60_000]))
    items = [(time, id_.hex()) for time, id_ in client]
    theirs = tools.call("initiate", f"{seed}", items=items, limit=1_000_000)
    frame: bytes | None = ours.initiate()
    have: set[str] = set()
    need: set[str] = set()

    while frame is not None:
        assert frame.hex() == theirs
        answer = exhaust(other.answer(frame))
        frame, found = ours.reconcile(answer)
        told = tools.call("reconcile", f"{seed}", frame=answer.hex())
        assert [id_.hex() for id_ in found.have] == told["have"]
        assert {id_.hex() for id_ in found.need} == set(told["need"])
        theirs = told["next"]
        have.update(told["have"])
        need.update(told["need"])

    assert theirs is None
    assert have == {id_.hex() for _, id_ in set(client) - set(server)}
    assert need == {id_.hex() for _, id_ in set(server) - set(client)}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Path]:
    """A folder for a database that commits each event by itself: in memory, for on a disk that takes long."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def import_events(served: Served, file: Path) -> None:
    """Have a running relay store the events of a file."""
    command = [sys.executable, "-m", "torv", "relay", "import", "--data", str(served.data), str(file)]
    subprocess.run(command, env=served.environment, check=True, capture_output=True)


def test_nostr_sdk_syncs_20_000_events_both_ways(
    torv_serve: TorvServe, tmp_path: Path, database: Path
) -> None:
    served = torv_serve()
    lines = [encode(one) for one in notes(ALICE, 20_000, step=1)]
    (tmp_path / "relay.jsonl").write_bytes(b"\n".join(lines[:18_000]))
    (tmp_path / "client.jsonl").write_bytes(b"\n".join(lines[2_000:]))
    import_events(served, tmp_path / "relay.jsonl")

    done = subprocess.run(
        [sys.executable, "nostr_sdk_sync.py", served.url, str(database), str(tmp_path / "client.jsonl")],
        cwd=HERE,
        check=True,
        capture_output=True,
        timeout=SYNC_SECONDS,
    )

    answer = json.loads(done.stdout)
    assert answer["held"] == 20_000
    assert answer["lacked"][0] == [2_000, 2_000]
    assert answer["lacked"][-1] == [0, 0]
