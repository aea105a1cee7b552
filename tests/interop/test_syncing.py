"""`torv relay sync` with a relay that nobody here wrote: nostr-sdk's, which reconciles (NIP-77)."""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relay.client import RelayClient
from relay.nostr.event import Event, encode
from relay.nostr.filter import Filter
from tests.events import ALICE, BOB, CAROL, event, note, notes
from tests.interop.conftest import HERE
from tests.test_cli import lines, torv


@contextmanager
def nostr_sdk_relay(events: Sequence[Event], folder: Path) -> Iterator[str]:
    """Serve these events by nostr-sdk's relay; yield its URL."""
    (folder / "theirs.jsonl").write_bytes(b"\n".join(map(encode, events)))
    # LMDB maps a file of its greatest size at once: not where the tests' folders may be kept.
    with tempfile.TemporaryDirectory() as database:
        command = [sys.executable, "nostr_sdk_relay.py", database, str(folder / "theirs.jsonl")]
        with subprocess.Popen(command, cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None and process.stdout is not None
            yield process.stdout.readline().decode().strip()
            process.stdin.close()
            assert process.wait(30) == 0


async def everything_at(url: str) -> set[str]:
    async with RelayClient(url) as client:
        return {one.id async for one in client.page_back(Filter())}


def exported(data: Path) -> set[str]:
    text = torv("relay", "export", "--data", data).stdout
    return {json.loads(line)["id"] for line in text.splitlines()}


def test_down_up_and_both_ways(tmp_path: Path) -> None:
    data = tmp_path / "data"
    shared = notes(ALICE, 300, step=1)
    ours, theirs = notes(BOB, 60, step=3), notes(CAROL, 30, step=3)
    their_reactions = [event(CAROL, 7, f"{n}") for n in range(10)]
    letter = event(ALICE, 1059, tags=[["p", BOB.public]])
    protected = note(ALICE, "protected", tags=[["-"]])
    (tmp_path / "ours.jsonl").write_bytes(lines(*shared[:200], *ours, letter, protected))
    assert torv("relay", "import", tmp_path / "ours.jsonl", "--data", data).returncode == 0

    def sync(url: str, direction: str, **wanted: object) -> Any:
        arguments = ("relay", "sync", url, "--direction", direction, "--json", "--data", data)
        done = torv(*arguments, "--filter", json.dumps(wanted))
        assert done.returncode == 0, done.stdout + done.stderr
        report = json.loads(done.stdout)
        assert report["by_paging"] is None
        return report["received"], report["sent"]

    with nostr_sdk_relay([*shared[100:], *theirs, *their_reactions], tmp_path) as url:
        assert sync(url, "down", authors=[CAROL.public], kinds=[7]) == (10, 0)
        assert sync(url, "up", authors=[BOB.public], since=1) == (0, 60)
        assert sync(url, "both") == (100 + 30, 100)

        public = {one.id for one in (*shared, *ours, *theirs, *their_reactions)}
        assert asyncio.run(everything_at(url)) == public
        assert exported(data) == public | {letter.id, protected.id}
