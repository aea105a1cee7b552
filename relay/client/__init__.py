"""A Nostr client: publish to, read from, follow and reconcile with one relay (NIP-01, 42, 45, 77).

For the bridge, sync and the router, which see a relay only through this package. What the relay
sends is not trusted: events are checked before they are passed on. Every wait for an answer has a
deadline and every buffer a bound; a quiet live subscription is watched over by pings.
"""

from relay.client.connection import PAGE_EVENTS, RelayClient
from relay.client.failures import Misbehaved, Rejected, RelayFailure, Unreachable, Unsupported
from relay.client.following import backoff, follow, reconnect
from relay.client.inbox import EndOfStored

__all__ = [
    "PAGE_EVENTS",
    "EndOfStored",
    "Misbehaved",
    "Rejected",
    "RelayClient",
    "RelayFailure",
    "Unreachable",
    "Unsupported",
    "backoff",
    "follow",
    "reconnect",
]
