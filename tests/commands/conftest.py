"""Commands as an operator types them, and a folder with a relay's events."""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from relay.assembly import DATABASE, read_key, relay_features, tables_of
from relay.config import RelayConfig
from relay.engine.admission import Admission
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.store.sqlite import SqliteStore
from tests.events import ALICE, BOB, CAROL, NOW, event, note
from tests.store.writers import TINY
from torv import main


@dataclass(frozen=True)
class Ended:
    """What a command printed, and how it ended."""

    status: int
    output: str
    errors: str

    @property
    def value(self) -> dict[str, Any]:
        """What it printed with --json."""
        parsed: dict[str, Any] = json.loads(self.output)
        return parsed


Torv = Callable[..., Ended]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}


@pytest.fixture
def torv(monkeypatch: pytest.MonkeyPatch) -> Torv:
    """Runs `torv relay …` with these words, in this process; gives what came of it."""
    for name in os.environ.keys() - environment().keys():
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "nice", lambda more: more)

    def run(*words: object) -> Ended:
        ended = CliRunner().invoke(main, ["relay", *map(str, words)])
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return Ended(ended.exit_code, ended.stdout, ended.stderr)

    return run


GONE = note(ALICE, "gone", created_at=NOW - 900)
POLL = event(
    ALICE,
    1_068,
    "tea?",
    created_at=NOW - 500,
    tags=[["option", "yes", "Yes"], ["option", "no", "No"], ["endsAt", "4000000000"]],
)
VOTES = [
    event(key, 1_018, created_at=NOW - 400, tags=[["e", POLL.id], ["response", "yes"]])
    for key in (ALICE, BOB)
]


def a_bit_of_everything() -> list[Event]:
    """Return what a relay gets: notes, replaced profiles, pages, deletions, a poll, what expires, wraps."""
    events = [
        note(ALICE, f"note {n}", created_at=NOW - n, tags=[["t", f"topic {n % 7}"], ["p", BOB.public]])
        for n in range(200)
    ]
    events += [event(BOB, kinds.PROFILE, f"{n}", created_at=NOW - 100 + n) for n in range(20)]
    events += [
        event(CAROL, 30_023, f"page {n}", created_at=NOW - n, tags=[["d", f"{n % 10}"]]) for n in range(40)
    ]
    page = f"30023:{CAROL.public}:3"
    events += [
        GONE,
        event(ALICE, kinds.DELETION, created_at=NOW, tags=[["e", GONE.id]]),
        event(CAROL, kinds.DELETION, created_at=NOW + 1, tags=[["a", page]]),
        note(ALICE, "fleeting", created_at=NOW + 2, tags=[["expiration", "4000000000"]]),
        event(BOB, kinds.GIFT_WRAP, "for alice", created_at=NOW, tags=[["p", ALICE.public]]),
        POLL,
        *VOTES,
    ]
    return events


async def fill(data: Path, events: list[Event]) -> None:
    features = relay_features(RelayConfig(), read_key(data / "relay.key"))
    admission = Admission(features)
    store = await SqliteStore.open(data / DATABASE, tables=tables_of(features), tuning=TINY)
    for start in range(0, len(events), 16):
        await store.write([admission.effects(one, live=False) for one in events[start : start + 16]])
    await store.close()


@pytest.fixture(scope="session")
def _filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("filled") / "data"
    data.mkdir(mode=0o700)
    asyncio.run(fill(data, a_bit_of_everything()))
    return data


@pytest.fixture
def data(_filled: Path, tmp_path: Path) -> Path:
    """The folder of a stopped relay, with a bit of everything."""
    copy = tmp_path / "data"
    copy.mkdir(mode=0o700)
    for name in (DATABASE, "relay.key"):
        (copy / name).write_bytes((_filled / name).read_bytes())
        (copy / name).chmod(0o600)
    return copy
