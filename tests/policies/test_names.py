"""Names at certain domains: looked up at a real server, in bounds, and remembered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from relay.client.fetching import CannotFetch, fetch, is_public
from relay.config import RelayConfig
from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import House

Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
PROFILE_FIRST = (
    False,
    "restricted: only people with a name (NIP-05) at example.com publish here; publish your profile first",
)
WRONG = (False, "restricted: example.com does not say that alice is your name (NIP-05)")
SILENT = (False, "error: your name's domain could not be asked; try again later")


class Domain:
    """A server that vouches for keys."""

    def __init__(self) -> None:
        self.names = {"alice": ALICE.public}
        self.asked: list[str] = []
        self.status = 200

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        return web.Response(
            status=self.status, body=orjson.dumps({"names": self.names}), headers={"Location": "/elsewhere"}
        )


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """Serve HTTP on loopback; yield the URL."""
    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def config(url: str) -> RelayConfig:
    names = {"domains": ["example.com"], "instead": [f"example.com={url}"]}
    return RelayConfig.model_validate({"admins": [BOB.public], "policies": {"names": names}})


def profile(key: SecretKey, name: str, created_at: int = NOW) -> Event:
    return event(key, 0, orjson.dumps({"nip05": name}).decode(), created_at=created_at)


@pytest.fixture
def domain() -> Domain:
    return Domain()


@pytest.fixture
async def house(clock: Clock, domain: Domain) -> AsyncIterator[House]:
    async with serving(domain.answer) as url, House(clock, config(url)) as running:
        yield running


async def test_who_has_a_name_publishes_once_the_profile_is_there(house: House, domain: Domain) -> None:
    client = await house.connect()
    assert await client.publish(note(ALICE)) == PROFILE_FIRST

    assert await client.publish(profile(ALICE, "Alice@Example.com")) == (True, "")
    assert [await client.publish(note(ALICE, str(n))) for n in range(3)] == [(True, "")] * 3
    # Asked once, for all of it.
    assert domain.asked == ["/.well-known/nostr.json?name=alice"]


@pytest.mark.parametrize(
    "name", ["alice@elsewhere.org", "alice@sub.example.com", "", "alice", "a b@example.com"]
)
async def test_other_names_do_not_count(house: House, domain: Domain, name: str) -> None:
    client = await house.connect()

    assert await client.publish(profile(ALICE, name)) == PROFILE_FIRST
    assert domain.asked == []


async def test_a_name_that_is_anothers_is_refused_and_not_asked_about_again_for_a_while(
    house: House, domain: Domain, clock: Clock
) -> None:
    domain.names = {"alice": BOB.public}
    client = await house.connect()

    assert await client.publish(profile(ALICE, "alice@example.com")) == WRONG
    assert await client.publish(profile(ALICE, "alice@example.com", NOW - 1)) == WRONG
    assert len(domain.asked) == 1

    domain.names = {"alice": ALICE.public}
    clock.advance(601)
    assert await client.publish(profile(ALICE, "alice@example.com")) == (True, "")


async def test_a_name_that_is_taken_back_ends_with_the_memory_of_it(
    house: House, domain: Domain, clock: Clock
) -> None:
    client = await house.connect()
    await client.publish(profile(ALICE, "alice@example.com"))
    domain.names = {}

    assert await client.publish(note(ALICE, "1")) == (True, "")
    clock.advance(86_401)
    assert await client.publish(note(ALICE, "2")) == WRONG


async def test_a_domain_that_is_down_takes_nobodys_word_back(
    house: House, domain: Domain, clock: Clock
) -> None:
    client = await house.connect()
    domain.status = 503
    assert await client.publish(profile(ALICE, "alice@example.com")) == SILENT
    domain.status = 200
    assert await client.publish(profile(ALICE, "alice@example.com")) == (True, "")

    domain.status = 301
    clock.advance(86_401)

    assert await client.publish(note(ALICE)) == (True, "")


async def test_admins_need_no_name_and_nobody_does_to_write_a_letter(house: House) -> None:
    client = await house.connect()

    assert await client.publish(note(BOB)) == (True, "")
    assert await client.publish(event(ALICE, 1059, tags=[["p", BOB.public]])) == (True, "")


async def test_a_slow_domain_holds_up_only_those_who_wait_for_it(clock: Clock) -> None:
    may_answer = asyncio.Event()

    async def wait(request: web.BaseRequest) -> web.StreamResponse:
        await may_answer.wait()
        return web.json_response({"names": {"alice": ALICE.public}})

    async with serving(wait) as url, House(clock, config(url)) as house:
        waiting, client = await house.connect(), await house.connect()
        waiting.send_event(profile(ALICE, "alice@example.com"))

        for number in range(5):
            assert await client.publish(note(BOB, str(number))) == (True, "")

        may_answer.set()
        assert (await waiting.receive())[2] is True


async def test_very_much_is_not_read(clock: Clock) -> None:
    async def flood(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=b'{"names":{' + b" " * 300_000 + b"}}")

    async with serving(flood) as url, House(clock, config(url)) as house:
        client = await house.connect()

        assert await client.publish(profile(ALICE, "alice@example.com")) == SILENT


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0"],
)
async def test_nothing_is_fetched_from_the_inside(host: str, domain: Domain) -> None:
    async with serving(domain.answer) as url:
        port = url.rpartition(":")[2]
        with pytest.raises(CannotFetch, match=r"no public address|to host localhost"):
            await fetch(f"http://{host}:{port}/", max_bytes=100, seconds=5)

    assert domain.asked == []


def test_public_addresses_are_told_from_others() -> None:
    assert [is_public(one) for one in ("1.1.1.1", "2606:4700::1111")] == [True, True]
    assert not any(map(is_public, ["192.168.1.1", "100.64.0.1", "224.0.0.1", "fc00::1", "fe80::1", "x", ""]))
