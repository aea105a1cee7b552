"""NIP-59: gift wraps (kind 1059, ephemeral 21059) are shown to their receivers only.

NIP-17 messages travel in them: who gets how many is private too, so COUNT is veiled as REQ is.
"""

from dataclasses import replace

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds, Origin, Rule, VeilRule
from relay.engine.limits import Rate, Spend, counted_as
from relay.nostr import kinds
from relay.nostr.event import Event, PubKey
from relay.nostr.reasons import Prefix, Refusal
from relay.nostr.tags import HEX_64, values
from relay.store.api import Write

_WRAPS = frozenset({kinds.GIFT_WRAP, kinds.EPHEMERAL_GIFT_WRAP})


def is_receiver(event: Event, origin: Origin) -> bool:
    """Say whether the reader authenticated as a `p`-tagged receiver."""
    return not origin.authenticated.isdisjoint(values(event.tags, "p"))


def give_to_receivers(write: Write) -> Write:
    """Let the receivers delete a wrap: its author's key was made for it alone and is thrown away."""
    event = write.event
    receivers = (PubKey(value) for value in values(event.tags, "p") if HEX_64(value))
    return replace(write, owners=tuple(dict.fromkeys((event.pubkey, *receivers))))


def limited(rate: Rate, spend: Spend) -> Rule:
    """Return the rule that bounds how many wraps one sender brings in a minute.

    Their authors' keys are made for one wrap each, so the keys that the connection proved are asked,
    every one of them: proving more does not allow more. Who proved none counts by address.
    """

    def refuse_too_many(event: Event, origin: Origin, now: int) -> Refusal | None:
        if origin.exempt:
            return None
        whose = "key" if origin.authenticated else "address"
        for sender in origin.authenticated or (counted_as(origin.address),):
            if not spend(f"wraps {sender}", rate):
                return Refusal(
                    Prefix.RATE_LIMITED, f"at most {rate.most} gift wraps a minute from one {whose}"
                )
        return None

    return refuse_too_many


def feature(config: RelayConfig, context: Context) -> Feature:
    rate = Rate(config.limits.wraps_per_minute)
    return Feature(
        title="Gift wrap",
        nip=59,
        before_signature=(OfKinds(_WRAPS.__contains__, limited(rate, context.spend)),) if rate.most else (),
        veils=(VeilRule(_WRAPS, is_receiver),),
        effects=(OfKinds(kinds.GIFT_WRAP.__eq__, give_to_receivers),),
    )
