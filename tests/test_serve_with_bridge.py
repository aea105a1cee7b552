"""`torv serve` with a bridge beside the relay."""

import socket

import pytest

from bridge.identities import load_seed, service_key
from relay.client import Rejected, RelayClient
from tests.events import ALICE, note
from tests.serving import TorvServe


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_the_relays_own_bridge_is_exempt_from_limits_per_address(torv_serve: TorvServe) -> None:
    served = torv_serve(f"""
        [relay.limits]
        events_per_minute = 1

        [bridge]
        relay_url = "ws://127.0.0.1:1"

        [bridge.matrix]
        homeserver = "http://127.0.0.1:1"
        server_name = "example.org"
        port = {free_port()}
    """)

    async with RelayClient(served.url, service_key(load_seed(served.data / "bridge.seed"))) as bridge:
        await bridge.authenticate()
        for number in range(3):
            assert (await bridge.publish(note(ALICE, f"mirrored {number}"))).accepted

    async with RelayClient(served.url) as stranger:
        await stranger.publish(note(ALICE, "one is allowed"))
        with pytest.raises(Rejected, match="rate-limited: at most 1 events a minute from one address"):
            await stranger.publish(note(ALICE, "two are not"))
