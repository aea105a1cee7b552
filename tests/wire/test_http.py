"""What the relay answers over plain HTTP, and to handshakes that are not right."""

import asyncio
import json
import urllib.error
import urllib.request
from email.message import Message

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.serving import UNLIMITED, Served, TorvServe
from tests.wire.client import dial, new_key, note


def request(url: str, *, method: str = "GET", accept: str = "*/*") -> tuple[int, Message, str]:
    """Return status, headers and body."""
    asked = urllib.request.Request(url, method=method, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read().decode()


def metrics(served: Served) -> dict[str, float]:
    """Return the relay's metrics by name with labels."""
    _, _, body = request(served.http + "/metrics")
    lines = (line.rsplit(" ", 1) for line in body.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def test_the_information_document_says_what_the_relay_does(relay: Served) -> None:
    status, headers, body = request(relay.http + "/", accept="application/nostr+json")
    document = json.loads(body)

    assert status == 200
    assert headers["Content-Type"].startswith("application/nostr+json")
    assert document["name"] == "Torv"
    assert document["supported_nips"] == [1, 4, 9, 11, 13, 17, 29, 40, 42, 45, 50, 59, 62, 65, 67, 70, 77, 88]
    assert len(document["self"]) == 64
    assert document["limitation"]["max_message_length"] == 262_144
    assert document["limitation"]["max_subscriptions"] == 64
    assert document["limitation"]["max_limit"] == 500
    assert document["limitation"]["created_at_upper_limit"] == 900
    assert document["limitation"]["auth_required"] is False


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_the_information_document_may_be_read_by_any_web_page(relay: Served, method: str) -> None:
    status, headers, _ = request(relay.http + "/", method=method, accept="application/nostr+json")

    assert status in (200, 204)
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Access-Control-Allow-Headers"] == "*"
    assert "GET" in headers["Access-Control-Allow-Methods"]


def test_a_browser_is_told_what_this_is(relay: Served) -> None:
    status, _, body = request(relay.http + "/", accept="text/html")

    assert status == 200
    assert f"ws://127.0.0.1:{relay.port}/" in body


def test_an_unknown_path_is_not_found(relay: Served) -> None:
    assert request(relay.http + "/chat")[0] == 404


def test_a_post_has_no_meaning(relay: Served) -> None:
    assert request(relay.http + "/", method="POST")[0] == 405


async def test_an_unknown_path_is_no_websocket(relay: Served) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with connect(relay.url + "chat"):
            pass

    assert refused.value.response.status_code == 404


def test_health_is_ok_and_ready(relay: Served) -> None:
    assert request(relay.http + "/healthz")[0] == 200
    assert request(relay.http + "/readyz")[0] == 200


async def test_a_relay_with_a_public_url_serves_names_and_announces_itself(torv_serve: TorvServe) -> None:
    alice = new_key().public
    served = torv_serve(
        f'[relay]\nurl = "wss://relay.example.com"\nannounce = true\nnames = ["alice={alice}"]\n'
    )

    status, headers, body = request(served.http + "/.well-known/nostr.json?name=alice")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "application/json")
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert json.loads(body) == {"names": {"alice": alice}, "relays": {alice: ["wss://relay.example.com"]}}
    document = json.loads(request(served.http + "/", accept="application/nostr+json")[2])
    assert {5, 66} <= set(document["supported_nips"])
    async with dial(served.url) as wire:
        # It is made when the relay is ready, perhaps a moment after.
        (found,) = await wire.subscribe({"kinds": [30_166]}) or [await wire.live()]

    assert found["pubkey"] == document["self"]
    assert ["d", "wss://relay.example.com/"] in found["tags"]
    assert [int(tag[1]) for tag in found["tags"] if tag[0] == "N"] == document["supported_nips"]


def test_a_relay_without_names_has_no_list_of_them(relay: Served) -> None:
    assert request(relay.http + "/.well-known/nostr.json")[0] == 404


async def test_metrics_count_for_all_workers_together(torv_serve: TorvServe) -> None:
    served = torv_serve(workers=2)
    for _ in range(8):
        async with dial(served.url) as wire:
            await wire.publish(note(new_key()))
            await wire.query({"limit": 0})
    async with dial(served.url) as wire:
        await wire.subscribe({"limit": 0})

        found = metrics(served)

    assert found['torv_events_total{outcome="accepted"}'] == 8
    assert found["torv_requests_total"] == 9
    assert found["torv_connections_opened_total"] == 9
    assert found["torv_connections"] == 1
    assert found["torv_subscriptions"] == 1


IMPATIENT = UNLIMITED + "[relay.timeouts]\nhandshake_seconds = 0.5\nidle_seconds = 1\nping_seconds = 1\n"


@pytest.fixture(scope="module")
def impatient(_serving: TorvServe) -> Served:
    """A relay that waits for nothing longer than a second."""
    return _serving(IMPATIENT)


async def ends(reader: asyncio.StreamReader) -> bytes:
    """Return all that comes until the relay cuts the connection."""
    async with asyncio.timeout(20):
        try:
            return await reader.read()
        except ConnectionResetError:
            return b""


@pytest.mark.parametrize(
    "begun",
    [b"", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nX: "],
    ids=["nothing", "a line", "a header"],
)
async def test_a_handshake_that_does_not_come_to_its_end_is_cut(impatient: Served, begun: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(begun)

    assert b"101" not in await ends(reader)
    writer.close()


async def test_a_silent_connection_without_subscriptions_is_closed(impatient: Served) -> None:
    async with dial(impatient.url) as wire, asyncio.timeout(20):
        await wire.connection.wait_closed()

    assert wire.connection.close_code == 1000


async def test_a_client_that_answers_no_ping_is_cut(impatient: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    question = b'["REQ","a",{"limit":0}]'
    # A mask of zeros changes nothing.
    writer.write(bytes([0x81, 0x80 | len(question), 0, 0, 0, 0]) + question)

    heard = await ends(reader)

    assert b'["EOSE","a"]' in heard
    writer.close()


@pytest.mark.parametrize(
    "noise",
    [b"\x00" * 64, b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5_000 + b"\r\n"],
    ids=["zeros", "TLS", "headers"],
)
async def test_noise_on_the_port_is_no_trouble(impatient: Served, noise: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(noise)

    assert b"101" not in await ends(reader)
    writer.close()
    async with dial(impatient.url) as wire:
        assert await wire.query({"limit": 0}) == []
