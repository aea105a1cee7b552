"""Proof of work by kind."""

from itertools import count

from relay.config import RelayConfig
from relay.nostr.event import Event
from relay.nostr.work import difficulty
from tests.events import ALICE, BOB, NOW, Clock, event, note
from tests.net.house import House

CONFIG = RelayConfig.model_validate(
    {"trust_bridge_keys": [BOB.public], "policies": {"work": {"least": ["1=6", "30000-39999=0", "*=2"]}}}
)


def mined(kind: int, bits: int) -> Event:
    """Return an event whose id has so many leading zero bits and no more, as it commits to."""
    tried = (event(ALICE, kind, tags=[["nonce", str(number), str(bits)]]) for number in count())
    return next(one for one in tried if difficulty(one.id) == bits)


async def test_each_kind_has_its_own_price(clock: Clock) -> None:
    async with House(clock, CONFIG) as house:
        client = await house.connect()

        assert await client.publish(mined(1, 6)) == (True, "")
        assert await client.publish(mined(1, 5)) == (False, "pow: difficulty 5 is less than 6")
        assert await client.publish(mined(7, 2)) == (True, "")
        assert await client.publish(mined(7, 1)) == (False, "pow: difficulty 1 is less than 2")
        assert await client.publish(mined(30_023, 0)) == (True, "")


async def test_the_bridge_and_who_wants_to_vanish_pay_nothing(clock: Clock) -> None:
    async with House(clock, CONFIG) as house:
        client = await house.connect()
        assert await client.publish(event(ALICE, 62, tags=[["relay", "ALL_RELAYS"]])) == (True, "")

        await client.authenticate(BOB, NOW)

        assert await client.publish(note(BOB)) == (True, "")
