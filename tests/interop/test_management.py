"""A client that nobody here wrote signs for calls of the management API (NIP-86, NIP-98)."""

from collections.abc import Iterator

import pytest

from tests.interop.conftest import CLIENTS, Driver
from tests.serving import UNLIMITED, TorvServe
from tests.wire.client import dial, new_key, note


@pytest.fixture
def driver() -> Iterator[Driver]:
    running = Driver(CLIENTS["nostr-tools"])
    yield running
    running.end()


async def test_nostr_tools_manages_the_relay(torv_serve: TorvServe, driver: Driver) -> None:
    admin, stranger, member, bad = (new_key() for _ in range(4))
    served = torv_serve(
        f'[relay]\nadmins = ["{admin.public}"]\n{UNLIMITED}\n[relay.members]\nenabled = true\n', workers=2
    )
    for name, key in (("admin", admin), ("stranger", stranger)):
        secret = key.secret_bytes().hex()
        driver.call("connect", name, url=served.url, secret=secret, authenticate=False)

    def call(who: str, method: str, *params: object) -> object:
        answer = driver.call("manage", who, url=f"{served.http}/", method=method, params=params)
        return answer["answer"].get("result", (answer["status"], answer["answer"].get("error")))

    assert call("stranger", "banpubkey", bad.public) == (
        403,
        "restricted: this key does not manage this relay",
    )
    methods = call("admin", "supportedmethods")
    assert isinstance(methods, list)
    assert {"banpubkey", "allowkind", "blockip", "changerelayname", "createrole"} <= set(methods)
    calls: list[tuple[object, ...]] = [
        ("banpubkey", bad.public, "spam"),
        ("disallowkind", 7),
        ("blockip", "192.0.2.7", "floods"),
        ("changerelayname", "Square"),
        ("allowpubkey", member.public),
        ("createrole", "king", "King", "Ruler of the relay.", 37, 1),
        ("assignrole", member.public, "king"),
    ]
    for method, *params in calls:
        assert call("admin", str(method), *params) is True
    async with dial(served.url) as wire:
        assert (await wire.publish(note(bad)))[0] is False
        assert (await wire.publish(note(member, kind=7)))[0] is False
        (listed,) = await wire.query({"kinds": [13_534]})
        assert listed["tags"] == [["-"], ["member", member.public, "king"]]
        undone: list[tuple[object, ...]] = [
            ("unbanpubkey", bad.public),
            ("allowkind", 7),
            ("unblockip", "192.0.2.7"),
            ("unassignrole", member.public, "king"),
        ]
        for method, *params in undone:
            assert call("admin", str(method), *params) is True
        assert await wire.publish(note(bad)) == (True, "")
        assert await wire.publish(note(member, kind=7)) == (True, "")
        (listed,) = await wire.query({"kinds": [13_534]})
        assert listed["tags"] == [["-"], ["member", member.public]]
    for name in ("admin", "stranger"):
        driver.call("disconnect", name)
