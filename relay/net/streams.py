"""What the router says of its streams, for metrics: a small file that it writes every few seconds."""

import time
from collections.abc import Iterator
from pathlib import Path

import orjson

from relay.engine.feature import Gauge

STATUS = "router-status.json"
"""In the data folder. `written_at` in unix seconds, and `links`: one for each stream and partner."""
STALE_SECONDS = 15.0
"""A status that is older was left behind by a router that does not run."""

_NUMBERS = {
    "received": ("torv_router_received_total", "Events stored that a partner gave."),
    "sent": ("torv_router_sent_total", "Events that a partner took."),
    "refused_here": ("torv_router_refused_here_total", "Events of a partner that this relay did not take."),
    "refused_there": ("torv_router_refused_there_total", "Events that a partner did not take."),
    "withheld": ("torv_router_withheld_total", "Events that were not for others."),
    "broken": ("torv_router_broken_total", "Messages of a partner against the protocol."),
    "interruptions": ("torv_router_interruptions_total", "Connections that were lost or refused."),
    "lag_events": ("torv_router_lag_events", "Commits of this relay's log not yet looked at for a partner."),
    "behind_seconds": (
        "torv_router_behind_seconds",
        "How long ago everything of a partner was here, as far as it is known.",
    ),
}


def read_status(data: Path, now: float) -> dict[str, object] | None:
    """Return the status of a router that runs; None where none does."""
    try:
        status = orjson.loads((data / STATUS).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    match status:
        case {"written_at": int() | float() as written_at, "links": list()} if (
            abs(now - written_at) <= STALE_SECONDS
        ):
            return dict(status)
    return None


def gauges(data: Path, now: float | None = None) -> Iterator[Gauge]:
    """Yield the metrics of every stream and partner; none where no router runs."""
    status = read_status(data, time.time() if now is None else now)
    if status is None:
        return
    links = status["links"]
    assert isinstance(links, list)
    for link in links:
        match link:
            case {"stream": str(stream), "url": str(url), "connected": bool(connected)}:
                labels = (("stream", stream), ("partner", url))
                text = "Whether a partner is connected."
                yield Gauge("torv_router_connected", text, float(connected), labels)
                for name, (metric, text) in _NUMBERS.items():
                    if type(value := link.get(name)) in (int, float):
                        yield Gauge(metric, text, float(value), labels)
