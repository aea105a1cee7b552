"""How much work questions may be: each by itself, and all of an address within a minute."""

from collections.abc import Sequence

from relay.config import RelayConfig
from relay.engine.feature import Charge, Context, Doorkeeper, Feature, Origin, Toll
from relay.engine.limits import Rate, counted_as
from relay.nostr.filter import Filter
from relay.nostr.reasons import Prefix, Refusal
from relay.policies.standing import Known


def feature(config: RelayConfig, context: Context) -> Feature:
    budget = config.policies.budget
    known = Known(config, context)
    most_seconds, most_rows = budget.seconds_per_question, budget.rows_per_question
    # In milliseconds: buckets hold whole numbers at most.
    work = Rate(round((budget.seconds_per_minute or 0) * 1_000))
    rows = Rate(budget.rows_per_minute or 0)
    drain = context.drain
    too_long = Refusal(
        Prefix.RESTRICTED,
        f"this question takes more than {most_seconds:g} seconds of work; ask for less"
        if most_seconds is not None
        else "",
    )
    too_much = Refusal(Prefix.RESTRICTED, f"an answer has {most_rows} events at most; ask for less")

    def begin(origin: Origin) -> Charge | None:
        if known.asks(origin):
            return None
        spent_seconds, spent_rows = 0.0, 0
        address = counted_as(origin.address)

        def charge(seconds: float, found: int) -> Refusal | None:
            nonlocal spent_seconds, spent_rows
            spent_seconds += seconds
            spent_rows += found
            if work.most and seconds:
                drain(f"work {address}", work, seconds * 1_000)
            if rows.most and found:
                drain(f"rows {address}", rows, found)
            if most_seconds is not None and spent_seconds > most_seconds:
                return too_long
            if most_rows is not None and spent_rows > most_rows:
                return too_much
            return None

        return charge

    def refuse_spent(filters: Sequence[Filter], origin: Origin) -> Refusal | None:
        if known.asks(origin):
            return None
        address = counted_as(origin.address)
        if work.most and not drain(f"work {address}", work, 0):
            return Refusal(
                Prefix.RATE_LIMITED,
                f"questions from one address get {budget.seconds_per_minute:g} seconds of work a minute",
            )
        if rows.most and not drain(f"rows {address}", rows, 0):
            return Refusal(Prefix.RATE_LIMITED, f"one address gets {rows} of events in answers")
        return None

    is_per_minute = bool(work.most or rows.most)
    is_asked = is_per_minute or most_seconds is not None or most_rows is not None
    doorkeepers: tuple[Doorkeeper, ...] = (refuse_spent,) if is_per_minute else ()
    toll: Toll | None = begin if is_asked else None
    return Feature(title="Budgets of questions", doorkeepers=doorkeepers, toll=toll)
