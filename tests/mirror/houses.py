"""Relays of the real features around memory stores, as partners meet them."""

import random
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path

from relay.assembly import relay_features, tables_of
from relay.client import RelayClient
from relay.config import RelayConfig
from relay.engine.desk import Desk
from relay.engine.relay import Relay
from relay.mirror.exchange import Direction, Exchange
from relay.mirror.house import House, Partner
from relay.mirror.report import Report
from relay.nostr.event import Event, PubKey
from relay.nostr.filter import Filter
from relay.nostr.kinds import Retention, retention
from relay.store.api import Outcome, Write
from relay.store.memory import MemoryStore
from tests.events import NOW, author

KEY = author("the relay itself")


def house_of(*, now: int = NOW, **settings: object) -> House:
    """Return an empty relay with these settings."""
    config = RelayConfig.model_validate(settings)
    desk = Desk()
    features = relay_features(config, KEY, desk=desk)
    store = MemoryStore(tables_of(features))
    desk.open(store)
    relay = Relay(store, features, max_limit=500, buffer_bytes=2**20, now=lambda: now)
    return House(relay, PubKey(KEY.public), config)


async def keep(house: House, events: Iterable[Event]) -> None:
    """Store events as if they had been published here long ago."""
    writes: list[Write] = []
    for event in events:
        assert retention(event.kind) is not Retention.EPHEMERAL
        writes.append(house.relay.admission.effects(event))
    outcomes = await house.store.write(writes)
    assert set(outcomes) <= {Outcome.STORED}, outcomes


async def held(house: House) -> set[str]:
    """Return the ids of all that is stored."""
    head = await house.store.head()
    pages = house.store.scan(Filter(), upto=head, now=house.relay.now())
    return {row.id async for page in pages for row in page}


async def exchange(
    house: House,
    url: str,
    direction: Direction = Direction.BOTH,
    wanted: Filter | None = None,
    *,
    trusted: bool = False,
    answer_seconds: float = 10.0,
    **more: object,
) -> Report:
    """Have one exchange with the relay at `url`, over one connection."""
    report = Report()
    partner = Partner(url, trusted=trusted)
    async with RelayClient(url, answer_seconds=answer_seconds) as client:
        talk = Exchange(
            client,
            house,
            partner,
            report,
            direction=direction,
            chance=random.Random(1),
            pauses=lambda: repeat(0.0),
            **more,  # type: ignore[arg-type]  # the exchange's own settings
        )
        await talk.run(wanted or Filter())
        report.note_broken(client.discards)
    return report


def ids(events: Sequence[Event]) -> set[str]:
    return {event.id for event in events}


def write_key(folder: Path, name: str) -> Path:
    """Write the key of a name into a file for its owner's eyes only."""
    file = folder / f"{name}.key"
    file.touch(mode=0o600)
    file.write_text(author(name).secret_bytes().hex())
    return file
