"""This relay as its partners meet it, and a partner as it is met here."""

from dataclasses import dataclass

from relay.client import RelayClient
from relay.config import RelayConfig
from relay.engine.feature import Origin
from relay.engine.relay import Relay
from relay.mirror.door import Door
from relay.mirror.reception import NOBODY, Reception
from relay.nostr.event import PubKey
from relay.nostr.keys import SecretKey

_MAX_MESSAGE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Partner:
    """Another relay."""

    url: str
    """ws:// or wss://."""
    signer: SecretKey | None = None
    """Proves a key to it (NIP-42), if it asks."""
    trusted: bool = False
    """What it sends has passed rules like ours; see `Reception`."""
    is_sync: bool = False
    """Whether it is met once, by the operator's command."""


class House:
    """One relay: its store, its rules, and its door."""

    def __init__(self, relay: Relay, key: PubKey, config: RelayConfig) -> None:
        """`relay` need not run; `key` is its own."""
        self.relay = relay
        self.store = relay.store
        self.door = Door(relay, key, has_groups=config.groups.enabled)
        self._key = key
        self._config = config

    def reception(self, partner: Partner) -> Reception:
        """Return what takes the events of a partner."""
        proved = frozenset({NOBODY})
        origin = Origin("", self._config.url, proved, partner.trusted, partner.url, partner.is_sync)
        return Reception(self.relay, self._key, origin)

    def call(self, partner: Partner) -> RelayClient:
        """Return a client for one connection to a partner. Raises ValueError where its URL is none."""
        # More than an event of ours may take, for partners that take longer ones.
        most = max(_MAX_MESSAGE_BYTES, 2 * self._config.limits.max_message_bytes)
        return RelayClient(partner.url, partner.signer, max_message_bytes=most)
