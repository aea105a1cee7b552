"""Several relays in one process, by host name and by path: nothing crosses, through whichever door."""

import asyncio
import os
import subprocess
import sys
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import aiohttp
import orjson
import pytest
from websockets.exceptions import InvalidStatus

from relay.nostr.keys import SecretKey
from relay.nostr.negentropy import Client, Vector
from tests.serving import ROOT, Served, TorvServe
from tests.wire.client import Refused, Wire, dial, new_key, note
from tests.wire.test_management import authorize
from tests.wire.test_reload import configure, reload

ADMIN = SecretKey(b"\x07" * 32)
CONFIG = f"""
[relay]
name = "Square"
admins = ["{ADMIN.public}"]
[relay.limits]
requests_per_minute = 0
max_limit = 50
[relays.home]
name = "Home"
hosts = ["home.test", "house.test"]
[relays.home.limits]
events_per_minute = 3
[relays.inner]
path = "/inner"
admins = []
[relays.inner.auth]
read = true
"""


class Hosts:
    """The relays of one process, each as its clients reach it."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def dial(self, host: str, path: str = "/") -> AbstractAsyncContextManager[Wire]:
        return dial(f"ws://{host}:{self.served.port}{path}", at=("127.0.0.1", self.served.port))

    async def get(self, host: str, path: str = "/", accept: str = "*/*") -> tuple[int, str]:
        headers = {"Host": f"{host}:{self.served.port}", "Accept": accept}
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.served.http + path, headers=headers) as response,
        ):
            return response.status, await response.text()

    async def document(self, host: str, path: str = "/") -> Any:
        return orjson.loads((await self.get(host, path, "application/nostr+json"))[1])

    async def call(self, host: str, method: str, *params: object) -> Any:
        """Call a method of NIP-86 as the administrator."""
        body = orjson.dumps({"method": method, "params": params})
        headers = {
            "Host": host,
            "Content-Type": "application/nostr+json+rpc",
            "Authorization": authorize(ADMIN, f"http://{host}/", body),
        }
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.served.http, data=body, headers=headers) as response,
        ):
            return response.status, orjson.loads(await response.read())

    async def metrics(self, host: str) -> dict[str, float]:
        lines = (await self.get(host, "/metrics"))[1].splitlines()
        values = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in values}


@pytest.fixture
def hosts(torv_serve: TorvServe) -> Hosts:
    return Hosts(torv_serve(CONFIG, workers=2))


async def reconciled(wire: Wire) -> int:
    """Return how many events Negentropy says the relay has."""
    client = Client(Vector.of([]))
    await wire.send("NEG-OPEN", "neg", {}, client.initiate().hex())
    verb, _, frame = await wire.receive()
    assert verb == "NEG-MSG"
    return len(client.reconcile(bytes.fromhex(frame))[1].need)


async def test_nothing_crosses_through_any_door(hosts: Hosts) -> None:
    key = new_key()
    said = note(key, "a heron at home")
    async with AsyncExitStack() as stack:
        square, home, hears_square, hears_home = [
            await stack.enter_async_context(hosts.dial(host)) for host in ("127.0.0.1", "home.test") * 2
        ]
        for wire in (hears_square, hears_home):
            assert await wire.subscribe({}) == []
        assert await home.publish(said) == (True, "")

        assert (await hears_home.live())["content"] == "a heron at home"
        assert [await wire.count({}) for wire in (square, home)] == [0, 1]
        assert [len(await wire.query({"ids": [said.id]})) for wire in (square, home)] == [0, 1]
        assert [await reconciled(wire) for wire in (square, home)] == [0, 1]
        async with asyncio.timeout(60):
            while not await home.query({"search": "heron"}):  # noqa: ASYNC110  # the indexer is a process
                await asyncio.sleep(0.1)
        assert await square.query({"search": "heron"}) == []
        # What is not stored crosses as little: the next thing that the square says is its own.
        assert (await home.publish(note(key, "passing by", kind=20_001)))[0]
        assert await square.publish(note(key, "at the square")) == (True, "")
        assert (await hears_square.live())["content"] == "at the square"

    square_says, home_says = await hosts.metrics("127.0.0.1"), await hosts.metrics("home.test")
    assert square_says['torv_events_total{outcome="accepted"}'] == 1
    assert home_says['torv_events_total{outcome="accepted",relay="home"}'] == 2
    assert not [name for name in square_says if "home" in name]
    assert all('relay="home"' in name for name in home_says)


async def test_each_has_its_name_key_limits_and_people(hosts: Hosts) -> None:
    square, home, inner = (
        await hosts.document("127.0.0.1"),
        await hosts.document("HOUSE.test"),
        await hosts.document("localhost", "/inner"),
    )

    assert [one["name"] for one in (square, home, inner)] == ["Square", "Home", "Square"]
    assert len({one["self"] for one in (square, home, inner)}) == 3
    # What a relay does not say itself, [relay] says.
    assert {one["limitation"]["max_limit"] for one in (square, home, inner)} == {50}
    assert [86 in one["supported_nips"] for one in (square, home, inner)] == [True, True, False]
    async with hosts.dial("localhost", "/inner") as wire:
        with pytest.raises(Refused, match="auth-required: this relay is read only by who proved a key"):
            await wire.query({})
    assert (await hosts.get("home.test", "/inner"))[0] == 404
    for folder in ("", "relays/home", "relays/inner"):
        assert {"torv.sqlite3", "relay.key"} <= set(os.listdir(hosts.served.data / folder))


async def test_limits_and_bans_hold_where_they_were_made(hosts: Hosts) -> None:
    key = new_key()
    assert (await hosts.call("home.test", "banpubkey", key.public, "spam"))[0] == 200
    assert (await hosts.call("home.test", "changerelayname", "House"))[0] == 200

    async with hosts.dial("127.0.0.1") as square, hosts.dial("home.test") as home:
        assert (await home.publish(note(key)))[1].startswith("blocked:")
        others = [await home.publish(note(new_key())) for _ in range(3)]
        assert [accepted for accepted, _ in others] == [True, True, False]
        assert others[2][1] == "rate-limited: at most 3 events a minute from one address"
        for number in range(5):
            assert await square.publish(note(key, str(number))) == (True, "")
    assert [(await hosts.document(host))["name"] for host in ("127.0.0.1", "home.test")] == [
        "Square",
        "House",
    ]
    # A call that was signed for one is none to the other.
    body = orjson.dumps({"method": "listbannedpubkeys", "params": []})
    headers = {
        "Host": "127.0.0.1",
        "Content-Type": "application/nostr+json+rpc",
        "Authorization": authorize(ADMIN, "http://home.test/", body),
    }
    async with (
        aiohttp.ClientSession() as session,
        session.post(hosts.served.http, data=body, headers=headers) as response,
    ):
        assert response.status == 401


async def test_a_key_is_proved_to_one_relay(hosts: Hosts) -> None:
    async with hosts.dial("home.test") as wire:
        accepted, reason = await wire.authenticate(new_key(), relay="ws://127.0.0.1/")
        assert (accepted, reason[:8]) == (False, "invalid:")
        assert await wire.authenticate(new_key(), relay="ws://home.test/") == (True, "")


async def test_commands_are_for_the_relay_that_is_named(hosts: Hosts) -> None:
    async with hosts.dial("home.test") as home:
        await home.publish(note(new_key(), "at home"))
    config = str(hosts.served.data.with_name("torv.toml"))

    def export(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        argv = [sys.executable, "-m", "torv", "relay", "export", "--config", config, *arguments]
        argv += ["--data", str(hosts.served.data)]
        return subprocess.run(argv, capture_output=True, cwd=ROOT, check=False)

    square = await asyncio.to_thread(export)
    home_too = await asyncio.to_thread(export, "--relay", "home")
    nowhere = await asyncio.to_thread(export, "--relay", "nowhere")

    assert square.stdout == b""
    assert [orjson.loads(line)["content"] for line in home_too.stdout.splitlines()] == ["at home"]
    assert nowhere.returncode == 2
    assert b"there is no [relays.nowhere]; named relays: home, inner" in nowhere.stderr


async def test_an_unknown_host_is_turned_away_where_no_relay_is_for_it(torv_serve: TorvServe) -> None:
    hosts = Hosts(
        torv_serve("[relay]\nhosts = ['127.0.0.1']\n[relays.home]\nhosts = ['home.test']", workers=1)
    )

    assert (await hosts.get("127.0.0.1"))[0] == 200
    assert await hosts.get("evil.test") == (404, "no relay has this name\n")
    with pytest.raises(InvalidStatus, match="404"):
        async with hosts.dial("evil.test"):
            pass


async def test_a_relay_among_several_changes_by_a_reload_and_the_others_do_not(hosts: Hosts) -> None:
    async with hosts.dial("home.test") as home, hosts.dial("127.0.0.1") as square:
        await home.subscribe({})
        await square.subscribe({})
        configure(hosts.served, CONFIG.replace('name = "Home"', 'name = "House"'))

        assert (await reload(hosts.served))[1]["changed"] == ["relays.home.name"]

        async with hosts.dial("home.test") as publisher:
            await publisher.publish(note(new_key(), "still here"))
        assert (await home.live())["content"] == "still here"
    assert (await hosts.document("home.test"))["name"] == "House"
    assert (await hosts.document("127.0.0.1"))["name"] == "Square"
