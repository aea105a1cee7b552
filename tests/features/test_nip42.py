"""NIP-42: what proves a key to this relay on this connection, and what does not."""

import pytest

from relay.config import RelayConfig
from relay.features.nip42 import MAX_KEYS
from relay.nostr.event import Event, EventId
from tests.events import ALICE, BOB, NOW, Clock, author, event, note
from tests.net.house import Client, House

SECRET = {"kinds": [4]}


def proof(client: Client, *, kind: int = 22_242, created_at: int = NOW, **tags: str) -> Event:
    named = {"relay": "ws://relay.test/", "challenge": client.challenge, **tags}
    return event(ALICE, kind, created_at=created_at, tags=list(named.items()))


async def is_alice(client: Client) -> bool:
    """Say whether the connection counts as Alice's: kind 4 alone is refused to strangers."""
    (answer,) = await client.request("REQ", "probe", SECRET)
    client.send("CLOSE", "probe")
    return bool(answer[0] == "EOSE")


async def test_every_connection_gets_a_challenge_of_its_own(house: House) -> None:
    first, second = await house.connect(), await house.connect()

    assert len(first.challenge) == 32
    assert first.challenge != second.challenge


async def test_a_right_proof_counts_from_then_on(client: Client) -> None:
    assert not await is_alice(client)

    assert await client.authenticate_with(proof(client)) == (True, "")

    assert await is_alice(client)


@pytest.mark.parametrize(
    "named",
    [
        "wss://relay.test",
        "wss://relay.test/",
        "ws://relay.test:7777/path?query",
        "WSS://RELAY.TEST",
        "https://relay.test",
        "wss://user@relay.test/",
    ],
)
async def test_the_host_of_the_relay_tag_is_what_counts(client: Client, named: str) -> None:
    assert await client.authenticate_with(proof(client, relay=named)) == (True, "")


@pytest.mark.parametrize(
    "named",
    [
        "wss://other.test",
        "wss://relay.test.evil.example",
        "wss://evil.example/relay.test",
        "wss://relay.test@evil.example",
        "relay.test",
        "ws://[",
        "ws://[::1",
        "ws://]",
        "//",
        "ws://",
        "",
        "ws://\u2100.test",
    ],
)
async def test_another_or_a_malformed_relay_url_is_refused(client: Client, named: str) -> None:
    assert await client.authenticate_with(proof(client, relay=named)) == (
        False,
        "invalid: the relay tag names another relay than ws://relay.test/",
    )
    assert not await is_alice(client)


@pytest.mark.parametrize("url", ["ws://[/", "ws:///", "ws://"])
async def test_a_client_that_came_by_a_malformed_host_cannot_authenticate(house: House, url: str) -> None:
    client = await house.connect(url=url)

    accepted, reason = await client.authenticate(ALICE, NOW)

    assert (accepted, reason) == (False, f"invalid: the relay tag names another relay than {url}")


async def test_a_configured_url_may_have_port_and_path(house: House) -> None:
    client = await house.connect(url="wss://relay.example.com:8443/nostr")

    assert await client.authenticate(ALICE, NOW, relay="wss://relay.example.com") == (True, "")


@pytest.mark.parametrize("seconds", [-600, -1, 0, 1, 600])
async def test_a_proof_within_ten_minutes_counts(client: Client, seconds: int) -> None:
    assert await client.authenticate_with(proof(client, created_at=NOW + seconds)) == (True, "")


@pytest.mark.parametrize("seconds", [-601, 601])
async def test_a_stale_or_a_future_proof_is_refused(client: Client, seconds: int) -> None:
    assert await client.authenticate_with(proof(client, created_at=NOW + seconds)) == (
        False,
        "invalid: created_at is more than 600 seconds off",
    )
    assert not await is_alice(client)


@pytest.mark.parametrize("kind", [1, 22_241, 24_242, 27_235])
async def test_another_kind_is_refused(client: Client, kind: int) -> None:
    assert await client.authenticate_with(proof(client, kind=kind)) == (
        False,
        "invalid: AUTH takes an event of kind 22242",
    )
    assert not await is_alice(client)


@pytest.mark.parametrize("challenge", ["", "0" * 32])
async def test_a_wrong_challenge_is_refused(client: Client, challenge: str) -> None:
    assert await client.authenticate_with(proof(client, challenge=challenge)) == (
        False,
        "invalid: the challenge is not this connection's",
    )


async def test_a_proof_for_another_connection_is_refused(house: House, client: Client) -> None:
    other = await house.connect()

    assert (await client.authenticate_with(proof(other)))[0] is False


@pytest.mark.parametrize("missing", ["relay", "challenge"])
@pytest.mark.parametrize("instead", [[], ["{}"]])
async def test_a_proof_without_one_of_its_tags_is_refused(
    client: Client, missing: str, instead: list[str]
) -> None:
    tags = [["relay", "ws://relay.test/"], ["challenge", client.challenge]]
    tags = [tag for tag in tags if tag[0] != missing] + [[part.format(missing) for part in instead]]
    tags = [["relay"] if tag == ["{}"] else tag for tag in tags]

    assert (await client.authenticate_with(event(ALICE, 22_242, tags=tags)))[0] is False


async def test_a_wrong_signature_is_refused(client: Client) -> None:
    right = proof(client)

    assert await client.authenticate_with(right._replace(sig=proof(client, more="x").sig)) == (
        False,
        "invalid: signature does not verify",
    )
    assert not await is_alice(client)


async def test_a_wrong_id_is_refused(client: Client) -> None:
    right = proof(client)

    assert await client.authenticate_with(right._replace(id=EventId("0" * 64))) == (
        False,
        "invalid: id is not the hash of the event",
    )


async def test_a_proof_by_another_key_than_it_names_is_refused(client: Client) -> None:
    stolen = proof(client)._replace(pubkey=event(BOB, 1).pubkey)

    assert (await client.authenticate_with(stolen))[0] is False


async def test_several_keys_on_one_connection_all_count(client: Client) -> None:
    await client.publish(event(ALICE, 4, "to nobody"))
    await client.publish(event(BOB, 4, "from bob"))

    assert await client.authenticate(ALICE, NOW) == (True, "")
    assert await client.authenticate(BOB, NOW) == (True, "")

    assert sorted(await client.find(SECRET)) == ["from bob", "to nobody"]


async def test_a_failed_proof_leaves_the_earlier_keys(client: Client) -> None:
    await client.authenticate(ALICE, NOW)

    assert (await client.authenticate(BOB, NOW, challenge="wrong"))[0] is False

    assert await is_alice(client)


async def test_a_proof_may_be_given_twice(client: Client) -> None:
    assert await client.authenticate_with(proof(client)) == (True, "")
    assert await client.authenticate_with(proof(client)) == (True, "")


async def test_one_connection_proves_a_bounded_number_of_keys(client: Client) -> None:
    for n in range(MAX_KEYS):
        assert await client.authenticate(author(f"key {n}"), NOW) == (True, "")

    assert await client.authenticate(ALICE, NOW) == (
        False,
        f"restricted: at most {MAX_KEYS} keys on one connection",
    )
    assert await client.authenticate(author("key 0"), NOW) == (True, "")


async def test_a_key_counts_on_its_own_connection_only(house: House, client: Client) -> None:
    other = await house.connect()

    await client.authenticate(ALICE, NOW)

    assert not await is_alice(other)


async def test_authenticating_widens_what_live_subscriptions_see(house: House, client: Client) -> None:
    reader = await house.connect()
    await reader.subscribe("s", {"kinds": [1, 4]})
    await client.publish(event(BOB, 4, "before", tags=[["p", ALICE.public]]))
    await reader.authenticate(ALICE, NOW)

    await client.publish(event(BOB, 4, "after", tags=[["p", ALICE.public]]))

    assert await reader.live() == [("s", "after")]


@pytest.mark.parametrize("kind", [22_242, 24_242, 27_235])
async def test_credentials_are_neither_stored_nor_passed_on(house: House, client: Client, kind: int) -> None:
    listener = await house.connect()
    await listener.subscribe("s", {})

    assert await client.publish(event(ALICE, kind)) == (
        False,
        f"blocked: kind {kind} is for one server's eyes, not for publishing",
    )

    assert await listener.heard() == []
    assert await client.find({}) == []


@pytest.mark.parametrize("body", [None, [], "challenge", {"kind": 22_242}])
async def test_what_is_no_event_gets_a_notice(client: Client, body: object) -> None:
    client.send("AUTH", body)

    ((kind, text),) = await client.heard()

    assert kind == "NOTICE"
    assert text.startswith("invalid: ")


async def test_a_malformed_event_with_an_id_gets_ok_false(client: Client) -> None:
    client.send("AUTH", {"id": "a" * 64})

    assert await client.heard() == [["OK", "a" * 64, False, "invalid: the event has no pubkey"]]


async def test_keys_of_the_bridge_are_exempt_from_rate_limits(clock: Clock) -> None:
    config = RelayConfig.model_validate(
        {"trust_bridge_keys": [ALICE.public], "limits": {"events_per_minute": 1, "requests_per_minute": 1}}
    )
    async with House(clock, config) as house:
        client = await house.connect()
        await client.authenticate(ALICE, NOW)

        for n in range(5):
            assert await client.publish(event(ALICE, 1, str(n))) == (True, "")
            assert await client.count({}) == n + 1


async def test_auth_is_not_required(house: House) -> None:
    (feature,) = (one for one in house.relay.features if one.nip == 42)

    assert feature.limitation == {"auth_required": False}


def demanding(**auth: object) -> RelayConfig:
    return RelayConfig.model_validate({"auth": auth})


STRANGE = "auth-required: kind 1 is taken only from who proved a key"


@pytest.mark.parametrize("auth", [{"write": True}, {"write_kinds": [1, 1059]}])
async def test_publishing_takes_a_key_where_the_operator_wants_it(
    clock: Clock, auth: dict[str, object]
) -> None:
    async with House(clock, demanding(**auth)) as house:
        client = await house.connect()

        assert await client.publish(note(ALICE)) == (False, STRANGE)
        await client.authenticate(BOB, NOW)

        assert await client.publish(note(ALICE)) == (True, "")


async def test_other_kinds_take_none_where_some_are_named(clock: Clock) -> None:
    async with House(clock, demanding(write_kinds=[1059])) as house:
        client = await house.connect()

        assert await client.publish(note(ALICE)) == (True, "")
        assert await client.publish(event(ALICE, 1059)) == (
            False,
            "auth-required: kind 1059 is taken only from who proved a key",
        )


@pytest.mark.parametrize("kind", [62, 10_002, 10_050])
async def test_what_everybody_has_to_be_able_to_say_takes_no_key(clock: Clock, kind: int) -> None:
    async with House(clock, demanding(write=True)) as house:
        client = await house.connect()

        assert await client.publish(event(ALICE, kind, tags=[["relay", "ALL_RELAYS"]])) == (True, "")


async def test_reading_takes_a_key_where_the_operator_wants_it(clock: Clock) -> None:
    async with House(clock, demanding(read=True)) as house:
        client = await house.connect()
        assert await client.publish(note(ALICE, "members")) == (True, "")

        for verb in ("REQ", "COUNT"):
            for wanted in ({}, {"ids": [note(ALICE, "members").id]}, {"limit": 0}):
                assert await client.refusal(verb, wanted) == (
                    "auth-required: this relay is read only by who proved a key"
                )
        await client.authenticate(BOB, NOW)

        assert await client.find({}) == ["members"]
        assert await client.count({}) == 1


async def test_some_kinds_are_shown_only_to_who_proved_a_key(clock: Clock) -> None:
    async with House(clock, demanding(read_kinds=[7])) as house:
        stranger, known = await house.connect(), await house.connect()
        await known.authenticate(BOB, NOW)
        await stranger.subscribe("s", {})
        await known.subscribe("s", {})

        for published in (note(ALICE, "note"), event(ALICE, 7, "like", created_at=NOW - 1)):
            await stranger.publish(published)

        assert await stranger.live() == [("s", "note")]
        assert await known.live() == [("s", "note"), ("s", "like")]
        assert await stranger.find({}) == ["note"]
        assert await stranger.count({"kinds": [1, 7]}) == 1
        assert (await stranger.refusal("REQ", {"kinds": [7]})).startswith("auth-required: ")
        assert await known.find({"kinds": [7]}) == ["like"]
