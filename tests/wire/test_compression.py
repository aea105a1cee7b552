"""Compressed messages (permessage-deflate), with clients that nobody here wrote."""

import json
import subprocess
from collections.abc import Iterator

import pytest
from websockets.asyncio.client import connect

from relay.nostr.event import encode
from tests.interop.conftest import CLIENTS, HERE, Client, Driver
from tests.serving import UNLIMITED, Served, TorvServe
from tests.wire.client import Wire, new_key, note, now

LONG = "A note that says the same again and again. " * 200


@pytest.fixture(scope="module")
def served(_serving: TorvServe) -> Served:
    return _serving(f"[relay]\ncompression = true\n{UNLIMITED}")


@pytest.fixture
def nostr_tools(served: Served) -> Iterator[Client]:
    driver = Driver(CLIENTS["nostr-tools"])
    client = Client(driver, "a reader of what is compressed", served.url, authenticate=False)
    yield client
    client.disconnect()
    driver.end()


async def test_websockets_sends_and_reads_compressed_messages(served: Served) -> None:
    key = new_key()
    sent = note(key, LONG)
    async with connect(served.url, compression="deflate", proxy=None, max_size=None) as connection:
        assert [extension.name for extension in connection.protocol.extensions] == ["permessage-deflate"]
        wire = Wire(connection)
        await wire.receive()
        assert await wire.subscribe({"authors": [key.public]}) == []

        await wire.send_event(sent)
        heard = [await wire.receive() for _ in range(2)]

        assert sorted(message[0] for message in heard) == ["EVENT", "OK"]
        assert [message[2]["content"] for message in heard if message[0] == "EVENT"] == [LONG]
        (stored,) = await wire.query({"authors": [key.public]})
        assert stored == json.loads(encode(sent))


async def test_a_client_that_offers_nothing_is_sent_plain_messages(served: Served) -> None:
    key = new_key()
    async with connect(served.url, compression=None, proxy=None) as connection:
        assert connection.protocol.extensions == []
        wire = Wire(connection)
        await wire.receive()
        await wire.publish(note(key, LONG))

        assert [event["content"] for event in await wire.query({"authors": [key.public]})] == [LONG]


def test_nostr_tools_publishes_and_reads_compressed_messages(served: Served, nostr_tools: Client) -> None:
    mine = {"authors": [nostr_tools.pubkey]}
    assert nostr_tools.subscribe("live", **mine) == []
    events = [nostr_tools.sign(1, f"{LONG} {n}", created_at=now() - n) for n in range(3)]

    for event in events:
        assert nostr_tools.publish(event)["accepted"]
        assert nostr_tools.next("live")["content"] == event["content"]

    assert [event["content"] for event in nostr_tools.fetch(**mine)] == [event["content"] for event in events]


def test_ws_for_node_agrees_on_compression(served: Served) -> None:
    script = f"""
        import WebSocket from "ws"
        const socket = new WebSocket("{served.url}", {{ perMessageDeflate: {{ threshold: 0 }} }})
        socket.on("message", text => {{
            const message = JSON.parse(text)
            if (message[0] === "AUTH") socket.send(JSON.stringify(["COUNT", "q", {{ kinds: [4242] }}]))
            else {{ console.log(JSON.stringify([socket.extensions, message])); socket.close() }}
        }})
    """

    done = subprocess.run(
        ["node", "--input-type=module", "-e", script], cwd=HERE, capture_output=True, timeout=60, check=True
    )

    assert json.loads(done.stdout) == ["permessage-deflate", ["COUNT", "q", {"count": 0}]]
