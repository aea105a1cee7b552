"""NIP-50: `search` finds events by their words, the best first.

Where the words are kept and how they are ranked is `relay.search`'s. No extension is supported: a search of
nothing but extensions asks for no words, and its filter is answered as if it had none.
"""

from collections.abc import Sequence
from dataclasses import replace

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, Gauge, Origin
from relay.nostr.filter import Filter
from relay.nostr.reasons import Prefix, Refusal
from relay.search.words import parse_question

_BUSY = Refusal(Prefix.RATE_LIMITED, "too many searches at once; try again later")


def feature(config: RelayConfig, context: Context) -> Feature:
    title = "Search"
    if not config.search.enabled:
        return Feature(title)
    search = context.search

    def admit(wanted: Filter, origin: Origin) -> Filter | Refusal:
        if wanted.search is None:
            return wanted
        if parse_question(wanted.search).is_blank:
            return replace(wanted, search=None)
        return _BUSY if search is not None and search.is_busy else wanted

    async def lag() -> Sequence[Gauge]:
        if search is None:
            return ()
        indexed, seconds = await search.progress()
        behind = max(0, await context.desk.store.head() - indexed)
        return (
            Gauge(
                "torv_search_lag_events",
                "Commits that are not searched yet, in positions of the log.",
                behind,
            ),
            Gauge("torv_search_lag_seconds", "How long the events indexed last had waited for it.", seconds),
        )

    return Feature(title, nip=50, gates=(admit,), search=search, gauges=lag)
