"""What holds for imports: all that was decided here; nothing of who sends, nor how fast, nor how late."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from relay.assembly import DATABASE, KEY, read_key, relay_features, tables_of
from relay.config import RelayConfig
from relay.engine.admission import Admission
from relay.features.management.book import TABLE
from relay.features.management.commands import call
from relay.nostr.event import Event, encode
from relay.store.sqlite import SqliteStore
from tests.events import ALICE, BOB, CAROL, DAVE, event, note

ROOT = Path(__file__).parents[2]
NOW = int(time.time())
SETTINGS = f"""
[relay]
admins = ["{ALICE.public}"]
[relay.limits]
max_age_seconds = 60
min_pow_difficulty = 40
events_per_minute = 1
[relay.auth]
write = true
[relay.members]
enabled = true
write = true
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (tmp_path / "torv.toml").write_text(SETTINGS)
    return folder


async def decided(data: Path, *events: Event, calls: tuple[tuple[str, object], ...]) -> None:
    """Let a relay in this folder take events and calls of its administrator, and stop."""
    features = relay_features(RelayConfig(admins=(ALICE.public,)), read_key(data / KEY))
    store = await SqliteStore.open(data / DATABASE, tables=tables_of(features))
    admission = Admission(features)
    await store.write([admission.effects(one) for one in events])
    for number, (method, *params) in enumerate(calls):
        assert await store.command(TABLE, call(method, params, ALICE.public, f"{number:064x}")) == b"{}"
    await store.close()


def imported(data: Path, *events: Event) -> tuple[int, list[str]]:
    """Run `torv relay import`; return its status and what it printed."""
    config = data.parent / "torv.toml"
    command = [sys.executable, "-m", "torv", "relay", "import", "--config", str(config), "--data", str(data)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}
    done = subprocess.run(
        command,
        input=b"".join(encode(one) + b"\n" for one in events),
        capture_output=True,
        env=environment,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    return done.returncode, [line.strip() for line in done.stdout.decode().splitlines()]


async def test_what_was_decided_here_holds_for_imports(data: Path) -> None:
    deleted, banned = note(DAVE, "deleted", created_at=NOW - 9), note(DAVE, "banned", created_at=NOW - 9)
    await decided(
        data,
        event(DAVE, 5, created_at=NOW - 8, tags=[["e", deleted.id]]),
        event(CAROL, 62, created_at=NOW - 8, tags=[["relay", "ALL_RELAYS"]]),
        calls=(("banpubkey", BOB.public), ("banevent", banned.id), ("disallowkind", 7)),
    )

    status, report = imported(
        data,
        deleted,
        banned,
        note(BOB, "by a banned key", created_at=NOW - 9),
        note(CAROL, "from before she vanished", created_at=NOW - 9),
        note(CAROL, "from after", created_at=NOW - 7),
        event(DAVE, 7, "+", created_at=NOW - 9),
    )

    assert report == [
        "6 events: 1 stored",
        "2 deleted by their author",
        "2 left out: this event or its author is banned here (standard input:2, standard input:3)",
        "1 left out: kind 7 is not taken here (standard input:6)",
    ]
    assert status == 0


def test_who_sends_how_fast_and_how_late_does_not_count(data: Path) -> None:
    old = [note(BOB, f"of no member, {n}", created_at=NOW - 100_000 + n) for n in range(3)]
    protected = event(BOB, 1, created_at=NOW - 100_000, tags=[["-"]])

    assert imported(data, *old, protected) == (0, ["4 events: 4 stored"])
