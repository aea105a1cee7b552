"""NIP-70: a protected event comes from its own author, or not at all."""

import pytest

from relay.nostr.event import encode
from relay.nostr.keys import SecretKey
from tests.events import ALICE, BOB, NOW, event, note
from tests.net.house import Client, House

PROTECTED = note(ALICE, "members only", tags=[["-"]])


async def test_a_stranger_is_asked_to_authenticate(client: Client) -> None:
    assert await client.publish(PROTECTED) == (
        False,
        "auth-required: a protected event is accepted only from its author",
    )
    assert await client.find({}) == []


async def test_somebody_else_who_is_authenticated_is_refused(client: Client) -> None:
    await client.authenticate(BOB, NOW)

    assert await client.publish(PROTECTED) == (
        False,
        "restricted: a protected event is accepted only from its author",
    )


async def test_its_author_may_publish_it_and_anybody_may_read_it(house: House, client: Client) -> None:
    await client.authenticate(ALICE, NOW)

    assert await client.publish(PROTECTED) == (True, "")

    assert await (await house.connect()).find({}) == ["members only"]


async def test_any_of_the_proved_keys_may_be_the_authors(client: Client) -> None:
    await client.authenticate(ALICE, NOW)
    await client.authenticate(BOB, NOW)

    assert await client.publish(PROTECTED) == (True, "")


@pytest.mark.parametrize("tags", [[["t", "x"], ["-"]], [["-"], ["-"]], [["-", ""]], [["-", "group"]]])
async def test_the_tag_protects_wherever_it_stands_and_whatever_follows_it(
    client: Client, tags: list[list[str]]
) -> None:
    accepted, reason = await client.publish(note(ALICE, tags=tags))

    assert not accepted
    assert reason.startswith("auth-required: ")


@pytest.mark.parametrize("tags", [[["t", "-"]], [["--"]], [[]], [[""]], [["", "-"]]])
async def test_other_tags_do_not_protect(client: Client, tags: list[list[str]]) -> None:
    assert await client.publish(note(ALICE, tags=tags)) == (True, "")


async def test_a_protected_ephemeral_event_is_refused_to_strangers_too(client: Client) -> None:
    accepted, reason = await client.publish(event(ALICE, 20_001, tags=[["-"]]))

    assert not accepted
    assert reason.startswith("auth-required: ")


async def test_a_stranger_who_names_a_foreign_author_learns_nothing_without_a_signature(
    client: Client,
) -> None:
    forged = PROTECTED._replace(sig=note(ALICE, "other").sig)

    assert await client.publish(forged) == (False, "invalid: signature does not verify")


@pytest.mark.parametrize("kind", [6, 16])
@pytest.mark.parametrize("key", [ALICE, BOB])
async def test_a_repost_that_carries_a_protected_event_is_refused(
    client: Client, kind: int, key: SecretKey
) -> None:
    await client.authenticate(key, NOW)
    repost = event(key, kind, encode(PROTECTED).decode(), tags=[["e", PROTECTED.id]])

    assert await client.publish(repost) == (False, "blocked: a repost must not carry a protected event")


@pytest.mark.parametrize(
    "content",
    [
        "",
        '"-"',
        'not JSON "-"',
        '["-"]',
        '{"tags":"-"}',
        '{"tags":["-"]}',
        '{"tags":[["t","-"]]}',
        '{"content":"[\\"-\\"]","tags":[]}',
        encode(note(ALICE, '["-"]')).decode(),
    ],
)
async def test_other_reposts_are_accepted(client: Client, content: str) -> None:
    assert await client.publish(event(BOB, 6, content, tags=[["e", PROTECTED.id]])) == (True, "")


async def test_a_note_may_quote_anything(client: Client) -> None:
    assert await client.publish(note(BOB, encode(PROTECTED).decode())) == (True, "")
