"""How often one address, author or proved key may publish, by kind, and how often one may ask.

The buckets are the whole machine's: who reconnects to another worker finds the same one.
"""

from collections.abc import Callable, Iterable, Sequence

from relay.config import RelayConfig
from relay.engine.feature import Context, Doorkeeper, Feature, OfKinds, Origin, Rule
from relay.engine.limits import Rate, Spend, counted_as
from relay.lists import chosen, parse_rate
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.reasons import Prefix, Refusal
from relay.policies.standing import FROM_ANYBODY

Whose = Callable[[Event, Origin], Iterable[str]]


def feature(config: RelayConfig, context: Context) -> Feature:
    rates = config.policies.rates
    spend = context.spend
    doorkeepers: list[Doorkeeper] = []
    if rates.requests_per_address is not None:
        rate = Rate(*parse_rate(rates.requests_per_address))
        doorkeepers.append(_asking(rate, spend, "address", _address_of))
    if rates.requests_per_authenticated_key is not None:
        rate = Rate(*parse_rate(rates.requests_per_authenticated_key))
        doorkeepers.append(_asking(rate, spend, "key", lambda origin: origin.authenticated))
    return Feature(
        title="Rates by address, author and proved key",
        before_signature=(
            *_publishing(rates.events_per_address, spend, "address", lambda _, origin: _address_of(origin)),
            *_publishing(
                rates.events_per_authenticated_key,
                spend,
                "proved key",
                lambda _, origin: origin.authenticated,
            ),
        ),
        # Anybody can name an author: only the signature shows that this one wants to spend.
        after_signature=_publishing(rates.events_per_key, spend, "author", lambda event, _: (event.pubkey,)),
        doorkeepers=tuple(doorkeepers),
    )


def _address_of(origin: Origin) -> tuple[str, ...]:
    # The relay's own work, and what comes out of a file, has none.
    return (counted_as(origin.address),) if origin.address else ()


def _publishing(entries: Sequence[str], spend: Spend, unit: str, whose: Whose) -> tuple[OfKinds[Rule], ...]:
    if not entries:
        return ()
    rate_of = chosen(entries, lambda text: Rate(*parse_rate(text)))
    # Kinds of one entry share its buckets.
    entry_of = chosen([f"{entry.partition('=')[0]}={entry}" for entry in entries], str)

    def refuse_too_often(event: Event, origin: Origin, now: int) -> Refusal | None:
        rate = rate_of(event.kind)
        if rate is None or origin.exempt:
            return None
        entry = entry_of(event.kind)
        for one in whose(event, origin):
            if not spend(f"{unit} {entry} {one}", rate):
                return Refusal(
                    Prefix.RATE_LIMITED, f"at most {rate} from one {unit} of events of kind {event.kind}"
                )
        return None

    return (OfKinds(lambda kind: kind not in FROM_ANYBODY and rate_of(kind) is not None, refuse_too_often),)


def _asking(rate: Rate, spend: Spend, unit: str, whose: Callable[[Origin], Iterable[str]]) -> Doorkeeper:
    def refuse_too_often(filters: Sequence[Filter], origin: Origin) -> Refusal | None:
        if origin.exempt:
            return None
        for one in whose(origin):
            if not spend(f"requests {unit} {one}", rate):
                return Refusal(Prefix.RATE_LIMITED, f"at most {rate} from one {unit} of requests")
        return None

    return refuse_too_often
