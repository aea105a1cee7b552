"""AUTH (NIP-42), and what only authenticated readers may see or write: NIP-04, 59, 70, through every door."""

from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest

from relay.nostr.event import Event, encode
from relay.nostr.keys import SecretKey
from tests.serving import TorvServe
from tests.wire.client import Refused, dial, new_key, note, now, proof

PRIVATE_KINDS = [4, 1059]


def letter(kind: int, sender: SecretKey, recipient: SecretKey) -> Event:
    return note(sender, "sealed", kind=kind, tags=[["p", recipient.public]])


# AUTH


async def test_every_connection_gets_a_challenge_of_its_own(relay_url: str) -> None:
    async with dial(relay_url) as one, dial(relay_url) as two:
        assert len(one.challenge) >= 16
        assert one.challenge != two.challenge


async def test_a_right_proof_is_accepted(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        assert await wire.authenticate(new_key()) == (True, "")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": 1},
        {"age": 1_000},
        {"age": -1_000},
        {"relay": "ws://elsewhere.example/"},
        {"relay": "127.0.0.1"},
        {"relay": "http://[::"},
        {"tags": []},
        {"tags": [["relay", "ws://127.0.0.1/"]]},
        {"tags": [["relay", "ws://127.0.0.1/"], ["challenge"]]},
    ],
    ids=str,
)
async def test_a_wrong_proof_is_refused(relay_url: str, wrong: dict[str, object]) -> None:
    key = new_key()

    async with dial(relay_url) as wire:
        accepted, reason = await wire.authenticate(key, **wrong)

        assert not accepted
        assert reason.startswith("invalid: ")
        with pytest.raises(Refused, match=r"^auth-required: "):
            await wire.query({"kinds": [1059], "#p": [key.public]})


async def test_a_proof_for_one_connection_is_refused_on_another(relay_url: str) -> None:
    key = new_key()

    async with dial(relay_url) as one, dial(relay_url) as two:
        stolen = orjson.loads(encode(proof(key, one.challenge)))
        await one.send("AUTH", stolen)
        assert await one.receive() == ["OK", stolen["id"], True, ""]
        await two.send("AUTH", stolen)
        verb, _, accepted, reason = await two.receive()

    assert (verb, accepted) == ("OK", False)
    assert reason.startswith("invalid: ")


async def test_a_proof_with_a_foreign_signature_is_refused(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        forged = orjson.loads(encode(proof(new_key(), wire.challenge)))
        forged["sig"] = proof(new_key(), wire.challenge).sig
        await wire.send("AUTH", forged)

        _, _, accepted, reason = await wire.receive()

    assert not accepted
    assert reason.startswith("invalid: ")


async def test_a_proof_is_never_passed_on(relay_url: str) -> None:
    key = new_key()

    async with dial(relay_url) as wire, dial(relay_url) as reader:
        await reader.subscribe({"authors": [key.public]})
        await wire.authenticate(key)
        await wire.publish(note(key, "marker"))

        assert (await reader.live())["content"] == "marker"
        assert await reader.count({"authors": [key.public]}) == 1


async def test_a_public_url_setting_decides_what_a_proof_must_name(torv_serve: TorvServe) -> None:
    served = torv_serve('[relay]\nurl = "wss://square.example"\n', workers=1)

    async with dial(served.url) as wire:
        assert (await wire.authenticate(new_key(), relay="ws://127.0.0.1/"))[0] is False
        assert await wire.authenticate(new_key(), relay="wss://square.example/") == (True, "")


@pytest.mark.parametrize("kind", PRIVATE_KINDS)
async def test_all_keys_proved_on_a_connection_count(relay_url: str, kind: int) -> None:
    alice, bob, carol = new_key(), new_key(), new_key()
    to_bob, to_carol = letter(kind, alice, bob), letter(kind, alice, carol)

    async with dial(relay_url) as wire:
        await wire.publish(to_bob)
        await wire.publish(to_carol)
        await wire.authenticate(bob)
        await wire.authenticate(carol)
        await wire.authenticate(new_key(), kind=1)

        assert await wire.count({"kinds": [kind], "#p": [bob.public, carol.public]}) == 2


# Private messages, door by door


@pytest.mark.parametrize("kind", PRIVATE_KINDS)
@pytest.mark.parametrize("reader", ["stranger", "another person"])
async def test_no_door_shows_a_private_message_to_others(relay_url: str, kind: int, reader: str) -> None:
    alice, bob, mallory = new_key(), new_key(), new_key()
    sealed = letter(kind, alice, bob)
    public = note(alice, "public", tags=[["p", bob.public]])
    doors: list[dict[str, Any]] = [
        {"ids": [sealed.id]},
        {"ids": [sealed.id], "kinds": [1, kind]},
        {"authors": [alice.public]},
        {"#p": [bob.public]},
        {"#p": [bob.public], "kinds": [1, kind]},
        {"#p": [bob.public], "since": now() - 60, "until": now() + 60},
        {"authors": [alice.public], "#p": [bob.public], "limit": 1},
    ]

    async with dial(relay_url) as wire, dial(relay_url) as publisher:
        if reader == "another person":
            await wire.authenticate(mallory)
        await wire.subscribe({"authors": [alice.public]}, {"#p": [bob.public]}, {"ids": [sealed.id]})
        assert await publisher.publish(sealed) == (True, "")
        assert await publisher.publish(public) == (True, "")

        assert (await wire.live())["id"] == public.id
        for door in doors:
            found = [event["id"] for event in await wire.query(door)]
            expected = [] if "ids" in door else [public.id]
            assert (door, found) == (door, expected)
            assert (door, await wire.count(door)) == (door, len(expected))


@pytest.mark.parametrize("wanted", [{"kinds": [4]}, {"kinds": [1059]}, {"kinds": [4, 1059, 21_059]}], ids=str)
async def test_a_stranger_who_asks_for_nothing_else_is_told_to_authenticate(
    relay_url: str, wanted: dict[str, object]
) -> None:
    async with dial(relay_url) as wire:
        for ask in (wire.query, wire.count):
            with pytest.raises(Refused, match=r"^auth-required: "):
                await ask(wanted)


async def test_a_limit_counts_visible_events_only(relay_url: str) -> None:
    alice, bob = new_key(), new_key()
    public = [note(alice, f"public {n}", age=100 + 10 * n) for n in range(3)]

    async with dial(relay_url) as wire:
        for n in range(5):
            await wire.publish(note(alice, f"sealed {n}", kind=1059, age=10 * n, tags=[["p", bob.public]]))
        for event in public:
            await wire.publish(event)
        found = await wire.query({"authors": [alice.public], "limit": 2})

    assert [event["id"] for event in found] == [public[0].id, public[1].id]


@pytest.mark.parametrize("kind", PRIVATE_KINDS)
async def test_the_recipient_sees_a_private_message_through_every_door(relay_url: str, kind: int) -> None:
    alice, bob = new_key(), new_key()
    sealed = letter(kind, alice, bob)

    async with dial(relay_url) as wire, dial(relay_url) as publisher:
        await wire.authenticate(bob)
        await wire.subscribe({"#p": [bob.public]})
        await publisher.publish(sealed)

        assert (await wire.live())["id"] == sealed.id
        for door in (
            {"ids": [sealed.id]},
            {"kinds": [kind], "#p": [bob.public]},
            {"authors": [alice.public]},
        ):
            assert [event["id"] for event in await wire.query(door)] == [sealed.id]
            assert await wire.count(door) == 1


async def test_an_old_style_message_is_seen_by_its_author_and_a_wrap_is_not(relay_url: str) -> None:
    alice, bob = new_key(), new_key()
    message, wrap = letter(4, alice, bob), letter(1059, alice, bob)

    async with dial(relay_url) as wire:
        await wire.authenticate(alice)
        await wire.publish(message)
        await wire.publish(wrap)

        assert [event["id"] for event in await wire.query({"authors": [alice.public]})] == [message.id]


async def test_auth_widens_what_open_subscriptions_see(relay_url: str) -> None:
    alice, bob = new_key(), new_key()
    before, after = letter(1059, alice, bob), letter(4, alice, bob)

    async with dial(relay_url) as wire, dial(relay_url) as publisher:
        await wire.subscribe({"#p": [bob.public]})
        await publisher.publish(before)
        await publisher.publish(note(alice, "marker", tags=[["p", bob.public]]))
        assert (await wire.live())["content"] == "marker"
        await wire.authenticate(bob)
        await publisher.publish(after)

        assert (await wire.live())["id"] == after.id


async def test_an_ephemeral_wrap_reaches_its_recipient_only(relay_url: str) -> None:
    alice, bob = new_key(), new_key()

    async with AsyncExitStack() as stack:
        strangers = [await stack.enter_async_context(dial(relay_url)) for _ in range(8)]
        recipient = await stack.enter_async_context(dial(relay_url))
        publisher = await stack.enter_async_context(dial(relay_url))
        await recipient.authenticate(bob)
        for wire in (recipient, *strangers):
            await wire.subscribe({"#p": [bob.public]})
        await publisher.publish(letter(21_059, alice, bob))
        await publisher.publish(note(alice, "marker", kind=20_000, tags=[["p", bob.public]]))

        assert [(await recipient.live())["kind"] for _ in range(2)] == [21_059, 20_000]
        assert {(await wire.live())["kind"] for wire in strangers} == {20_000}


async def test_the_recipient_may_delete_a_wrap_and_others_may_not(relay_url: str) -> None:
    alice, bob, mallory = new_key(), new_key(), new_key()
    wrap = letter(1059, alice, bob)

    async with dial(relay_url) as wire:
        await wire.authenticate(bob)
        await wire.publish(wrap)
        await wire.publish(note(mallory, kind=5, tags=[["e", wrap.id]]))
        assert await wire.count({"ids": [wrap.id]}) == 1
        await wire.publish(note(bob, kind=5, tags=[["e", wrap.id]]))

        assert await wire.count({"ids": [wrap.id]}) == 0


# Protected events


async def test_a_protected_event_of_a_stranger_asks_for_auth(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        accepted, reason = await wire.publish(note(new_key(), tags=[["-"]]))

    assert not accepted
    assert reason.startswith("auth-required: ")


async def test_a_protected_event_is_accepted_from_its_author_and_nobody_else(relay_url: str) -> None:
    author = new_key()
    protected = note(author, tags=[["-"]])

    async with dial(relay_url) as wire, dial(relay_url) as reader:
        await wire.authenticate(new_key())
        accepted, reason = await wire.publish(protected)
        assert not accepted
        assert reason.startswith("restricted: ")
        await wire.authenticate(author)
        assert await wire.publish(protected) == (True, "")

        assert await reader.count({"ids": [protected.id]}) == 1
