"""NIP-66: the relay announces itself, where its operator wants it to be found.

The announcement (kind 30166) is signed by the relay's own key and says what the relay does, no more:
supported NIPs and requirements are derived from what is switched on. It holds no times: a relay cannot
measure how far it is from others.
"""

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Job
from relay.features import nip11
from relay.nostr import kinds
from relay.nostr.event import Event, encode, sign
from relay.nostr.keys import SecretKey
from relay.nostr.urls import normalize
from relay.store.api import Write

ANNOUNCE_SECONDS = 12 * 3600.0
"""Between two announcements, each of which replaces the one before."""

# `R` tags by the field of NIP-11's `limitation` that they stand for.
_REQUIREMENTS = {
    "auth_required": "auth",
    "restricted_writes": "writes",
    "min_pow_difficulty": "pow",
    "payment_required": "payment",
}
_NETWORKS = {".onion": "tor", ".i2p": "i2p", ".loki": "loki"}


def announcement(key: SecretKey, url: str, features: Sequence[Feature], now: int) -> Event:
    """Return the event by which the relay at `url`, in its normal form, says what it does."""
    host = urlsplit(url).hostname or ""
    network = next((name for suffix, name in _NETWORKS.items() if host.endswith(suffix)), "clearnet")
    limitation = nip11.limitation(features)
    tags = [["d", url], ["n", network]]
    tags += [["N", str(nip)] for nip in nip11.supported_nips(features)]
    tags += [
        ["R", name if limitation.get(field) else f"!{name}"] for field, name in sorted(_REQUIREMENTS.items())
    ]
    return sign(key, created_at=now, kind=kinds.RELAY_DISCOVERY, tags=tags)


def feature(config: RelayConfig, context: Context, everything: Callable[[], Sequence[Feature]]) -> Feature:
    """Return the feature; `everything` gives all that the relay does, once it is put together."""
    url = normalize(config.url)
    if not config.announce or url is None:
        return Feature(title="Relay discovery")

    async def announce(now: int) -> None:
        event = announcement(context.key, url, everything(), now)
        await context.desk.store.write([Write(event, encode(event), address=event.address)])

    return Feature(
        title="Relay discovery", nip=66, jobs=(Job("announce the relay", ANNOUNCE_SECONDS, announce),)
    )
