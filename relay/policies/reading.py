"""Who may ask for what."""

from collections.abc import Sequence

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Gate, Origin, VeilRule
from relay.lists import parse_span
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.reasons import Prefix, Refusal
from relay.policies.standing import Known


def feature(config: RelayConfig, context: Context) -> Feature:
    reading = config.policies.reading
    known = Known(config, context)
    gates: list[Gate] = []
    if reading.members_only:
        gates.append(for_members(known))
    if reading.kinds:
        gates.append(of_kinds(_kinds_of(reading.kinds), known))
    if reading.must_name:
        gates.append(naming(reading.must_name, known))
    if reading.max_values is not None:
        gates.append(naming_few(reading.max_values))

    def is_for_member(event: Event, origin: Origin) -> bool:
        return event.pubkey in origin.authenticated or known.asks(origin)

    member_kinds = _kinds_of(reading.member_kinds)
    return Feature(
        title="Who may ask for what",
        gates=tuple(gates),
        veils=(VeilRule(member_kinds, is_for_member),) if member_kinds else (),
    )


def for_members(known: Known) -> Gate:
    """Return the gate that lets only members ask."""

    def refuse_others(wanted: Filter, origin: Origin) -> Filter | Refusal:
        if known.asks(origin):
            return wanted
        if not origin.authenticated:
            return Refusal(Prefix.AUTH_REQUIRED, "only members read here")
        return Refusal(Prefix.RESTRICTED, "only members read here")

    return refuse_others


def of_kinds(kinds: frozenset[int], known: Known) -> Gate:
    """Return the gate that lets pass questions for these kinds only."""

    def refuse_other_kinds(wanted: Filter, origin: Origin) -> Filter | Refusal:
        if known.asks(origin):
            return wanted
        if wanted.kinds is None:
            return Refusal(Prefix.RESTRICTED, "a filter must say which kinds it asks for here")
        others = wanted.kinds - kinds
        if others:
            return Refusal(Prefix.RESTRICTED, f"kind {min(others)} may not be asked for here")
        return wanted

    return refuse_other_kinds


def naming(conditions: Sequence[str], known: Known) -> Gate:
    """Return the gate that refuses filters without any of these conditions."""
    *others, last = conditions
    told = f"{', '.join(others)} or {last}" if others else last

    def refuse_unnamed(wanted: Filter, origin: Origin) -> Filter | Refusal:
        if known.asks(origin) or any(getattr(wanted, condition) for condition in conditions):
            return wanted
        return Refusal(Prefix.RESTRICTED, f"a filter must name {told} here")

    return refuse_unnamed


def naming_few(most: int) -> Gate:
    """Return the gate that bounds what a stranger's filter names."""

    def refuse_many(wanted: Filter, origin: Origin) -> Filter | Refusal:
        if origin.authenticated:
            return wanted
        found = wanted.size
        if found > most:
            return Refusal(
                Prefix.AUTH_REQUIRED, f"{found} values in one filter, who proved no key may name {most}"
            )
        return wanted

    return refuse_many


def _kinds_of(entries: Sequence[str]) -> frozenset[int]:
    spans = map(parse_span, entries)
    return frozenset(kind for span in spans for kind in range(span.first, span.last + 1))
