"""Managing a running relay with two workers: what is decided in one counts in both, and after a restart."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from hashlib import sha256
from typing import Any

import aiohttp
import orjson
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from relay.nostr.event import encode, sign
from relay.nostr.keys import SecretKey
from tests.serving import UNLIMITED, Served, TorvServe
from tests.wire.client import Refused, Wire, dial, new_key, note, now

CONNECTIONS = 8
"""The kernel spreads them over the workers; that all come to one happens once in 128 times."""
WELCOME = (True, "info: welcome!")


def config(admin: SecretKey) -> str:
    return (
        f'[relay]\nadmins = ["{admin.public}"]\n{UNLIMITED}\n'
        '[relay.members]\nenabled = true\n[relay.moderation]\nroles = ["moderator"]\n'
    )


def authorize(key: SecretKey, url: str, body: bytes) -> str:
    tags = [["u", url], ["method", "POST"], ["payload", sha256(body).hexdigest()]]
    # Calls of one second that say the same are different calls.
    tags.append(["nonce", new_key().public])
    return f"Nostr {b64encode(encode(sign(key, created_at=now(), kind=27_235, tags=tags))).decode()}"


async def post(url: str, body: bytes, authorization: str) -> tuple[int, Any]:
    """Send one call over a connection of its own."""
    headers = {"Content-Type": "application/nostr+json+rpc", "Authorization": authorization}
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as response,
    ):
        return response.status, orjson.loads(await response.read())


async def call(served: Served, key: SecretKey, method: str, *params: object) -> Any:
    """Call a method that succeeds; return its result."""
    url = f"{served.http}/"
    body = orjson.dumps({"method": method, "params": params})
    status, answer = await post(url, body, authorize(key, url, body))
    assert (status, list(answer)) == (200, ["result"]), answer
    return answer["result"]


@asynccontextmanager
async def everywhere(served: Served) -> AsyncIterator[Sequence[Wire]]:
    """Connect to all workers."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(dial(served.url)) for _ in range(CONNECTIONS)]


async def information(served: Served) -> Any:
    """Return what all workers say of the relay: the same."""
    told = []
    for _ in range(CONNECTIONS):
        async with (
            aiohttp.ClientSession(headers={"Accept": "application/nostr+json"}) as session,
            session.get(served.http) as response,
        ):
            told.append(await response.json(content_type=None))
    assert all(one == told[0] for one in told)
    return told[0]


@pytest.fixture
def admin() -> SecretKey:
    return new_key()


@pytest.fixture
def served(torv_serve: TorvServe, admin: SecretKey) -> Served:
    return torv_serve(config(admin), workers=2)


async def publish(wires: Sequence[Wire], key: SecretKey, **more: Any) -> set[tuple[bool, str]]:
    """Publish another event over each connection; return what was answered."""
    return {await wire.publish(note(key, f"note {n}", **more)) for n, wire in enumerate(wires)}


async def test_a_ban_counts_in_every_worker_and_after_a_restart(served: Served, admin: SecretKey) -> None:
    bad, good = new_key(), new_key()
    refused = {(False, "blocked: this event or its author is banned here")}
    async with everywhere(served) as wires:
        assert await publish(wires, bad) == {(True, "")}
        await call(served, admin, "banpubkey", bad.public, "spam")
        assert await publish(wires, bad, tags=[["t", "again"]]) == refused
        assert await publish(wires, good) == {(True, "")}
        async with asyncio.timeout(20):
            while await wires[0].count({"authors": [bad.public]}):
                pass  # every question takes its time
        assert await wires[0].count({"authors": [good.public]}) == CONNECTIONS
    assert served.stop() == 0
    served.restart()
    async with everywhere(served) as wires:
        assert await publish(wires, bad, tags=[["t", "once more"]]) == refused
        assert await call(served, admin, "listbannedpubkeys") == [{"pubkey": bad.public, "reason": "spam"}]
        await call(served, admin, "unbanpubkey", bad.public)
        assert await publish(wires, bad) == {(True, "")}


async def test_an_event_that_is_banned_is_gone_from_every_worker(served: Served, admin: SecretKey) -> None:
    bad = note(new_key(), "bad")
    async with everywhere(served) as wires:
        assert await wires[0].publish(bad) == (True, "")
        await call(served, admin, "banevent", bad.id)
        assert [await wire.count({"ids": [bad.id]}) for wire in wires] == [0] * CONNECTIONS
        assert {await wire.publish(bad) for wire in wires} == {
            (False, "blocked: this event or its author is banned here")
        }


async def test_kinds_are_allowed_and_refused_in_every_worker(served: Served, admin: SecretKey) -> None:
    key = new_key()
    async with everywhere(served) as wires:
        await call(served, admin, "allowkind", 1)
        assert await call(served, admin, "listallowedkinds") == [1]
        assert await publish(wires, key, kind=7) == {(False, "blocked: kind 7 is not taken here")}
        assert await publish(wires, key) == {(True, "")}
        await call(served, admin, "allowkind", 7)
        assert await publish(wires, key, kind=7) == {(True, "")}


async def test_name_description_and_icon_change_in_every_worker(served: Served, admin: SecretKey) -> None:
    await call(served, admin, "changerelayname", "Square")
    await call(served, admin, "changerelaydescription", "Ours.")
    await call(served, admin, "changerelayicon", "https://relay.example.com/icon.png")
    told = await information(served)
    assert (told["name"], told["description"], told["icon"]) == (
        "Square",
        "Ours.",
        "https://relay.example.com/icon.png",
    )
    assert {43, 56, 86} <= set(told["supported_nips"])
    assert served.stop() == 0
    served.restart()
    assert (await information(served))["name"] == "Square"


async def test_a_blocked_address_is_cut_off_and_can_still_be_let_in_again(
    served: Served, admin: SecretKey
) -> None:
    async with everywhere(served) as wires:
        await call(served, admin, "blockip", "127.0.0.1")
        for wire in wires:
            # Whether it is still answered or cut first is a question of when we are looked after.
            with pytest.raises((Refused, ConnectionClosed)):
                await wire.query({"limit": 1})
        for wire in wires:
            async with asyncio.timeout(20):
                await wire.connection.wait_closed()
            assert wire.connection.close_code == 1008
    for _ in range(CONNECTIONS):
        with pytest.raises(InvalidStatus) as refused:
            async with dial(served.url):
                raise AssertionError("the address is blocked")
        assert refused.value.response.status_code == 403
    assert served.stop() == 0
    served.restart()
    with pytest.raises(InvalidStatus):
        async with dial(served.url):
            raise AssertionError("the address is blocked")
    await call(served, admin, "unblockip", "127.0.0.1")
    async with everywhere(served) as wires:
        assert await publish(wires, new_key()) == {(True, "")}


async def test_a_signature_that_was_used_at_one_worker_is_used_at_all(
    served: Served, admin: SecretKey
) -> None:
    url = f"{served.http}/"
    body = orjson.dumps({"method": "listbannedpubkeys", "params": []})
    authorization = authorize(admin, url, body)
    answers = [await post(url, body, authorization) for _ in range(CONNECTIONS)]
    assert answers[0] == (200, {"result": []})
    assert all("used already" in answer["error"] for _, answer in answers[1:])


async def test_roles_are_granted_and_taken_and_make_a_moderator_meanwhile(
    served: Served, admin: SecretKey
) -> None:
    moderator, victim = new_key(), new_key()
    url = f"{served.http}/"
    body = orjson.dumps({"method": "banpubkey", "params": [victim.public]})
    await call(served, admin, "createrole", "moderator", "Moderator", "Keeps order.", 200, 1)
    await call(served, admin, "allowpubkey", moderator.public)
    assert (await post(url, body, authorize(moderator, url, body)))[0] == 403
    await call(served, admin, "assignrole", moderator.public, "moderator")
    async with everywhere(served) as wires:
        for wire in wires:
            (listed,) = await wire.query({"kinds": [13_534]})
            assert listed["tags"] == [["-"], ["member", moderator.public, "moderator"]]
            (role,) = await wire.query({"kinds": [33_534]})
            assert role["tags"][1:3] == [["d", "moderator"], ["label", "Moderator"]]
        assert (await post(url, body, authorize(moderator, url, body))) == (200, {"result": True})
        await call(served, admin, "unassignrole", moderator.public, "moderator")
        for _ in range(CONNECTIONS):
            assert (await post(url, body, authorize(moderator, url, body)))[0] == 403
        await call(served, admin, "deleterole", "moderator")
        assert [await wire.count({"kinds": [33_534]}) for wire in wires] == [0] * CONNECTIONS


async def test_a_member_joins_by_invite_and_leaves_and_the_lists_are_right_everywhere(
    served: Served, admin: SecretKey
) -> None:
    member, other = new_key(), new_key()

    async def listed(wires: Sequence[Wire]) -> list[list[list[str]]]:
        return [
            [tag for found in await wire.query({"kinds": [13_534]}) for tag in found["tags"][1:]]
            for wire in wires
        ]

    async with dial(served.url) as inviting, dial(served.url) as joining, everywhere(served) as wires:
        await inviting.authenticate(admin)
        (made,) = await inviting.query({"kinds": [28_935]})
        code = made["tags"][1][1]
        await joining.authenticate(member)
        request = note(member, kind=28_934, tags=[["-"], ["claim", code]])
        assert await joining.publish(request) == WELCOME
        assert await listed(wires) == [[["member", member.public]]] * CONNECTIONS
        await joining.authenticate(other)
        again = note(other, kind=28_934, tags=[["-"], ["claim", code]])
        assert await joining.publish(again) == (False, "restricted: that invite code was used already.")
        assert (await joining.publish(note(member, kind=28_936, tags=[["-"]])))[0]
        assert await listed(wires) == [[]] * CONNECTIONS
        assert {await wire.count({"kinds": [8000]}) for wire in wires} == {1}
        assert {await wire.count({"kinds": [8001]}) for wire in wires} == {1}


async def test_one_invite_at_every_worker_at_once_lets_one_in(served: Served, admin: SecretKey) -> None:
    keys = [new_key() for _ in range(CONNECTIONS)]
    async with dial(served.url) as inviting, everywhere(served) as wires:
        await inviting.authenticate(admin)
        (made,) = await inviting.query({"kinds": [28_935]})
        claim = made["tags"][1]
        for wire, key in zip(wires, keys, strict=True):
            await wire.authenticate(key)
        requests = [note(key, kind=28_934, tags=[["-"], claim]) for key in keys]
        answers = await asyncio.gather(
            *(wire.publish(request) for wire, request in zip(wires, requests, strict=True))
        )
        assert sorted(accepted for accepted, _ in answers) == [False] * (CONNECTIONS - 1) + [True]
        (listed,) = await inviting.query({"kinds": [13_534]})
        assert len(listed["tags"]) == 2
