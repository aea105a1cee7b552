"""A group and its people, for the tests of NIP-29."""

from collections.abc import Sequence
from typing import Any

from relay.nostr.event import Event
from relay.nostr.keys import SecretKey
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, event
from tests.net.house import Client

PEOPLE = {"alice": ALICE, "bob": BOB, "carol": CAROL, "dave": DAVE}
NAMES = {key.public: name for name, key in PEOPLE.items()}


def sent(
    key: SecretKey, kind: int, *tags: Sequence[str], group: str = "pizza", content: str = "", at: int = NOW
) -> Event:
    """Return an event that is sent to a group."""
    return event(key, kind, content, created_at=at, tags=[["h", group], *tags])


class Group:
    """One group, seen and changed through one connection that proved no key."""

    def __init__(self, client: Client, id_: str = "pizza") -> None:
        self.client = client
        self.id = id_

    async def send(
        self, key: SecretKey, kind: int, *tags: Sequence[str], content: str = "", at: int = NOW
    ) -> tuple[bool, str]:
        """Send an event to the group; return what the OK says."""
        return await self.client.publish(sent(key, kind, *tags, group=self.id, content=content, at=at))

    async def do(
        self, key: SecretKey, kind: int, *tags: Sequence[str], content: str = "", at: int = NOW
    ) -> None:
        """Send an event to the group, which must be accepted."""
        assert await self.send(key, kind, *tags, content=content, at=at) == (True, "")

    async def refusal(
        self, key: SecretKey, kind: int, *tags: Sequence[str], content: str = "", at: int = NOW
    ) -> str:
        """Send an event to the group, which must be refused; return why."""
        accepted, reason = await self.send(key, kind, *tags, content=content, at=at)
        assert not accepted
        return reason

    async def notice(self, kind: int) -> list[list[str]] | None:
        """Return the tags of what the relay says of the group, but for `d`; None where it says nothing."""
        found = await events(self.client, {"kinds": [kind], "#d": [self.id]})
        assert len(found) <= 1
        return found[0]["tags"][1:] if found else None

    async def members(self) -> list[str]:
        """Return the names of the members, in order."""
        return sorted(NAMES[tag[1]] for tag in await self.notice(39002) or ())

    async def roles(self) -> dict[str, list[str]]:
        """Return the roles of those who have a rank, by name."""
        return {NAMES[tag[1]]: tag[2:] for tag in await self.notice(39001) or ()}

    async def history(self, *kinds: int) -> list[tuple[int, str, list[str]]]:
        """Return (kind, author's name, first p tag) of what is stored of these kinds, oldest first."""
        found = await events(self.client, {"kinds": list(kinds), "#h": [self.id]})
        return [
            (
                one["kind"],
                NAMES.get(one["pubkey"], "relay"),
                next(([NAMES[tag[1]], *tag[2:]] for tag in one["tags"] if tag[0] == "p"), []),
            )
            for one in sorted(found, key=lambda one: int(one["created_at"]))
        ]


async def events(client: Client, wanted: dict[str, object]) -> list[dict[str, Any]]:
    """Return the stored events that match."""
    answers = await client.request("REQ", "events", wanted)
    assert answers[-1][:2] == ["EOSE", "events"], answers[-1]
    client.send("CLOSE", "events")
    return [answer[2] for answer in answers[:-1]]
