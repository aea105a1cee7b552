"""NIP-66: what the relay says of itself is what it does."""

from collections.abc import Mapping, Sequence

import pytest

from relay import features
from relay.config import RelayConfig
from relay.engine.desk import Desk
from relay.engine.feature import Context, Feature
from relay.features.nip11 import supported_nips
from relay.features.nip66 import announcement
from relay.nostr.event import check_event
from relay.nostr.filter import Filter
from relay.store.memory import MemoryStore
from tests.events import NOW
from tests.net.house import RELAY_KEY

Settings = Mapping[str, object]

ANNOUNCED: Settings = {"url": "wss://Relay.Test", "announce": True}


def enabled(settings: Settings, desk: Desk | None = None) -> tuple[Feature, ...]:
    config = RelayConfig.model_validate(settings)
    return features.enabled(config, Context(key=RELAY_KEY, desk=desk or Desk()), ())


def tags_of(settings: Settings, url: str = "wss://relay.test/") -> list[list[str]]:
    return [list(tag) for tag in announcement(RELAY_KEY, url, enabled(settings), NOW).tags]


def test_it_is_signed_by_the_relays_own_key_and_names_its_url() -> None:
    made = announcement(RELAY_KEY, "wss://relay.test/", enabled({}), NOW)

    check_event(made)
    assert (made.kind, made.pubkey, made.created_at, made.content) == (30_166, RELAY_KEY.public, NOW, "")
    assert made.tags[:2] == (("d", "wss://relay.test/"), ("n", "clearnet"))


@pytest.mark.parametrize(
    ("url", "network"),
    [
        ("ws://abc.onion/", "tor"),
        ("ws://abc.i2p/", "i2p"),
        ("ws://abc.loki/", "loki"),
        ("wss://onion.example.com/", "clearnet"),
        ("ws://[2001:db8::1]/", "clearnet"),
    ],
)
def test_the_network_follows_from_the_host(url: str, network: str) -> None:
    assert ["n", network] in tags_of({}, url)


def test_every_nip_that_is_switched_on_is_named_and_no_other() -> None:
    everything: Sequence[Settings] = ({}, ANNOUNCED, {**ANNOUNCED, "names": [f"a={RELAY_KEY.public}"]})
    for settings in everything:
        named = [int(tag[1]) for tag in tags_of(settings) if tag[0] == "N"]
        assert named == supported_nips(enabled(settings))
        assert (66 in named) == ("announce" in settings)


@pytest.mark.parametrize(
    ("settings", "requirements"),
    [
        ({}, ["!auth", "!payment", "!pow", "!writes"]),
        ({"limits": {"min_pow_difficulty": 8}}, ["!auth", "!payment", "pow", "writes"]),
        ({"auth": {"read": True, "write": True}}, ["auth", "!payment", "!pow", "writes"]),
    ],
)
def test_requirements_follow_from_the_settings(settings: Settings, requirements: list[str]) -> None:
    assert sorted(tag[1] for tag in tags_of(settings) if tag[0] == "R") == sorted(requirements)


async def test_the_job_replaces_the_announcement_of_before() -> None:
    store, desk = MemoryStore(), Desk()
    desk.open(store)
    (job,) = (job for feature in enabled(ANNOUNCED, desk) if feature.nip == 66 for job in feature.jobs)

    await job.run(NOW)
    await job.run(NOW + 43_200)

    rows = [row async for page in store.scan(Filter(), upto=await store.head(), now=NOW) for row in page]
    assert [(row.event().kind, row.created_at) for row in rows] == [(30_166, NOW + 43_200)]
    assert rows[0].event().tags[0] == ("d", "wss://relay.test/")


def test_a_relay_that_was_not_told_to_does_not_announce_itself() -> None:
    settings: Settings
    for settings in ({}, {"url": "wss://relay.test"}):
        enabled_ = enabled(settings)
        assert "announce the relay" not in [job.name for feature in enabled_ for job in feature.jobs]
        assert 66 not in supported_nips(enabled_)
