"""New settings and features for a relay that has clients: they stay, and are judged by the new ones."""

from dataclasses import replace
from typing import Any

from relay import features, policies
from relay.config import LimitsConfig, RelayConfig
from relay.engine.feature import Context, Feature
from relay.features.management import book, commands
from relay.nostr.event import PubKey
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import RELAY_KEY, Client, House


def settings(**tables: dict[str, Any]) -> RelayConfig:
    """Return settings with other values in some tables: `limits={"max_limit": 1}`."""
    return RelayConfig.model_validate(tables)


def adopt(house: House, config: RelayConfig, *extra: Feature) -> None:
    """Do what a worker does with new settings."""
    context = Context(key=RELAY_KEY, spend=house.board.spend, desk=house.desk)
    first = (*policies.enabled(config, context), *extra)
    limits = config.limits
    house.relay.adopt(
        features.enabled(config, context, first),
        max_limit=limits.max_limit,
        buffer_bytes=limits.max_outbox_bytes,
    )
    for client in house.clients:
        client.connection.adopt(config, frozenset(map(PubKey, config.trust_bridge_keys)))


async def test_a_subscription_stays_and_loses_nothing(house: House, client: Client) -> None:
    await client.subscribe("s", {"kinds": [1]})
    await client.publish(note(ALICE, "before"))

    adopt(house, settings(limits={"max_filters": 2}))
    await client.publish(note(ALICE, "after", created_at=NOW + 1))

    assert await client.live() == [("s", "before"), ("s", "after")]


async def test_what_may_no_longer_be_read_ends_subscriptions_and_hides_events(
    house: House, client: Client
) -> None:
    known = await house.connect()
    await known.authenticate(BOB, NOW)
    await client.subscribe("s", {})
    await known.subscribe("s", {})

    adopt(house, settings(auth={"read": True}))
    await house.clients[1].publish(note(ALICE, "note"))

    assert await known.live() == [("s", "note")]
    assert await client.heard() == [
        ["CLOSED", "s", "auth-required: this relay is read only by who proved a key"]
    ]
    assert len(house.relay.index) == 1


async def test_a_kind_that_was_veiled_meanwhile_does_not_reach_open_subscriptions(
    house: House, client: Client
) -> None:
    await client.subscribe("s", {})

    adopt(house, settings(auth={"read_kinds": [7]}))
    await client.publish(event(ALICE, 7, "reaction"))
    await client.publish(note(ALICE, "note"))

    assert await client.live() == [("s", "note")]


async def test_a_gate_narrows_what_is_open(house: House, client: Client) -> None:
    await client.subscribe("s", {})
    await client.subscribe("t", {"kinds": [1]})

    adopt(house, settings(), Feature("gate", gates=(lambda f, origin: replace(f, kinds=frozenset({1})),)))
    await client.publish(event(ALICE, 7, "reaction"))
    await client.publish(note(ALICE, "note"))

    assert sorted(await client.live()) == [("s", "note"), ("t", "note")]


async def test_new_limits_bind_who_is_connected(house: House, client: Client) -> None:
    adopt(
        house,
        settings(limits={"max_filters": 1, "max_subscriptions": 1, "max_limit": 1, "max_content_chars": 3}),
    )
    await client.publish(note(ALICE, "a"))
    await client.publish(note(ALICE, "b", created_at=NOW + 1))

    assert await client.refusal("REQ", {}, {}) == "invalid: 2 filters, this relay takes 1"
    assert await client.publish(note(ALICE, "long")) == (
        False,
        "invalid: content has 4 characters, this relay takes 3",
    )
    assert await client.find({}) == ["b"]
    await client.subscribe("s", {})
    assert await client.refusal("REQ", {}) == "rate-limited: at most 1 subscriptions at a time"


async def test_a_longer_message_is_taken_once_it_may_be(clock: Clock) -> None:
    async with House(clock, settings(limits={"max_message_bytes": 1024})) as house:
        client = await house.connect()

        adopt(house, settings(limits={"max_message_bytes": 65_536}))

        assert await client.publish(note(ALICE, "x" * 2_000)) == (True, "")


async def test_who_is_exempt_is_found_anew(house: House, client: Client) -> None:
    await client.authenticate(ALICE, NOW)

    adopt(house, RelayConfig(trust_bridge_keys=(ALICE.public,), limits=LimitsConfig(min_pow_difficulty=60)))

    assert await client.publish(note(ALICE, "no work")) == (True, "")

    adopt(house, settings(limits={"min_pow_difficulty": 60}))

    accepted, reason = await client.publish(note(ALICE, "no work either"))
    assert (accepted, reason[:4]) == (False, "pow:")


async def test_bans_are_known_to_the_new_rules_at_once(clock: Clock) -> None:
    managed = RelayConfig(admins=(ALICE.public,))
    async with House(clock, managed) as house:
        client = await house.connect()
        ban = commands.call("banpubkey", [BOB.public, "spam"], ALICE.public, "0" * 64)
        await house.desk.command(book.TABLE, ban)

        adopt(house, managed)

        assert (await client.publish(note(BOB, "refused")))[1][:8] == "blocked:"
