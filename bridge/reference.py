"""What stands for somebody or something on a network; known to every other part of the bridge."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ref:
    """Something or someone on a network, by the id it has there.

    Ids: Nostr event ids and public keys as 64 hex digits; Matrix event, room and user ids in full.
    """

    network: str
    id: str
