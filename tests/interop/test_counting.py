"""A client that nobody here wrote counts on two relays, and merges by HyperLogLog (NIP-45)."""

from collections.abc import Sequence

from relay.nostr.event import Event
from relay.nostr.hyperloglog import Registers, estimate, offset_of
from relay.nostr.keys import SecretKey
from tests.events import author, event
from tests.interop.conftest import CLIENTS, Driver
from tests.serving import UNLIMITED, TorvServe
from tests.wire.client import dial, new_key, note

LIKERS = [author(f"liker {number}") for number in range(90)]


async def like(url: str, liked: Event, keys: Sequence[SecretKey]) -> None:
    async with dial(url) as wire:
        for key in keys:
            one = event(key, 7, "+", created_at=liked.created_at, tags=[["e", liked.id]])
            assert await wire.publish(one) == (True, "")


async def test_nostr_tools_merges_the_likes_on_two_relays(torv_serve: TorvServe) -> None:
    config = f"{UNLIMITED}\n[relay]\nhyperloglog = true\n"
    relay, other = (torv_serve(config, workers=1) for _ in range(2))
    liked = note(new_key(), "who likes this?")
    await like(relay.url, liked, LIKERS[:60])
    await like(other.url, liked, LIKERS[30:])
    driver = Driver(CLIENTS["nostr-tools"])
    try:
        driver.call("connect", "reader", url=relay.url, secret="01" * 32, authenticate=False)

        relays = [relay.url, other.url]
        found = driver.call("countMany", "reader", relays=relays, target=liked.id, directive="reactions")
        followers = driver.call(
            "countMany", "reader", relays=relays, target=liked.pubkey, directive="followers"
        )

        driver.call("disconnect", "reader")
    finally:
        driver.end()
    everybody = Registers(offset_of(liked.id))
    for key in LIKERS:
        everybody.add(key.public)
    assert found == {"count": 60, "hll": bytes(everybody).hex()}
    assert 70 <= estimate(bytes(everybody)) <= 110
    assert followers == {"count": 0, "hll": 512 * "0"}
