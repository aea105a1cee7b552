"""Plain HTTP: what features route, health, metrics, and a word to people who come with a browser."""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relay import __version__
from relay.config import RelayConfig
from relay.engine.feature import Feature, Gauge, HttpRequest, HttpResponse, Origin, Route, unsifted
from relay.net import streams
from relay.net.board import Board, Counter
from relay.store.api import Seq, Store, Stored, StoreError, Veil

log = structlog.get_logger(__name__)

MIN_FREE_BYTES = 64 * 2**20
"""With less room on the data folder's disk the relay calls itself not ready."""
ANSWER_SECONDS = 5.0
"""For the database to answer before it counts as not ready."""

_COUNTERS = {
    Counter.CONNECTIONS_OPENED: ("torv_connections_opened", "WebSocket connections accepted."),
    Counter.CONNECTIONS_REFUSED: ("torv_connections_refused", "Refused for too many from one address."),
    Counter.CONNECTIONS_STALLED: ("torv_connections_stalled", "Cut because the socket did not move."),
    Counter.REQUESTS: ("torv_requests", "REQ messages."),
    Counter.COUNTS: ("torv_counts", "COUNT messages."),
    Counter.REQUESTS_REFUSED: ("torv_requests_refused", "REQ and COUNT answered with CLOSED."),
    Counter.STORED_SENT: ("torv_stored_events_sent", "Events sent from the store."),
    Counter.LIVE_SENT: ("torv_live_events_sent", "Events sent live."),
    Counter.SUBSCRIPTIONS_TOO_SLOW: ("torv_subscriptions_too_slow", "Ended because the client lagged."),
    Counter.MESSAGES_INVALID: ("torv_messages_invalid", "Malformed or refused client messages."),
}
# Browsers ask before they send what pages may not send by themselves (NIP-11, NIP-86).
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
}
_EVENTS = {
    "accepted": Counter.EVENTS_ACCEPTED,
    "duplicate": Counter.EVENTS_DUPLICATE,
    "refused": Counter.EVENTS_REFUSED,
}


class Metrics(Collector):
    """The board's sums, in Prometheus' terms; every worker answers for the whole machine."""

    def __init__(self, board: Board, head: Seq | None, gauges: Iterable[Gauge] = (), label: str = "") -> None:
        """`head`: None where the database cannot say; `gauges`: the features'; `label`: the relay's name."""
        self._label = label
        self._board = board
        self._head = head
        self._gauges = tuple(gauges)

    def collect(self) -> Iterable[Metric]:
        for metric in self._collect():
            if self._label:
                metric.samples = [
                    sample._replace(labels={"relay": self._label, **sample.labels})
                    for sample in metric.samples
                ]
            yield metric

    def _collect(self) -> Iterable[Metric]:
        events = CounterMetricFamily("torv_events", "EVENT messages by outcome.", labels=["outcome"])
        for outcome, counter in _EVENTS.items():
            events.add_metric([outcome], self._board.total(counter))
        yield events
        for counter, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, value=self._board.total(counter))
        yield GaugeMetricFamily(
            "torv_connections", "Open connections.", value=self._board.total(Counter.CONNECTIONS_OPEN)
        )
        yield GaugeMetricFamily(
            "torv_subscriptions", "Open subscriptions.", value=self._board.total(Counter.SUBSCRIPTIONS_OPEN)
        )
        if self._head is not None:
            yield GaugeMetricFamily("torv_log_head", "Seq of the newest commit.", value=self._head)
        yield from _families(self._gauges)
        info = GaugeMetricFamily("torv_info", "This software.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info


def _families(gauges: Iterable[Gauge]) -> Iterable[Metric]:
    families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for gauge in gauges:
        family = families.get(gauge.name)
        if family is None:
            kind = CounterMetricFamily if gauge.name.endswith("_total") else GaugeMetricFamily
            family = kind(gauge.name, gauge.text, labels=[label for label, _ in gauge.labels])
            families[gauge.name] = family
        family.add_metric([value for _, value in gauge.labels], gauge.value)
    return families.values()


class Pages:
    """Answers every request that is not a WebSocket upgrade."""

    def __init__(
        self,
        settings: RelayConfig,
        features: Sequence[Feature],
        store: Store,
        board: Board,
        data: Path,
        *,
        catch_up: Callable[[], None] = lambda: None,
        now: Callable[[], int] = lambda: int(time.time()),
        veil: Callable[[Origin], Veil],
        sift: Callable[[Sequence[Stored], Origin], Awaitable[Sequence[Stored]]] | None = None,
        label: str = "",
    ) -> None:
        """`catch_up` lets features know every change of followed records, before they are asked; `veil` and
        `sift` say what somebody may see."""
        self._settings = settings
        self._routes: tuple[Route, ...] = tuple(route for feature in features for route in feature.routes)
        self._gauges = tuple(one.gauges for one in features if one.gauges is not None)
        self._describing = tuple(one.describes for one in features if one.describes is not None)
        self._store = store
        self._board = board
        self._data = data
        self._catch_up = catch_up
        self._now = now
        self._veil = veil
        self._sift = sift
        self._label = label

    async def answer(self, request: web.BaseRequest, url: str) -> web.Response:
        """Answer one request; `url` is the relay's URL as this client knows it."""
        path = request.path
        routes = [route for route in self._routes if _leads_to(route.path, path)]
        if request.method == "OPTIONS" and routes:
            return web.Response(status=204, headers=CORS)
        is_post = request.method == "POST"
        if not is_post and request.method not in ("GET", "HEAD"):
            return _text("this method has no meaning here\n", 405)
        self._catch_up()
        accept = request.headers.get("Content-Type" if is_post else "Accept", "")
        for route in routes:
            if (route.method == "POST") == is_post and (route.accept is None or route.accept in accept):
                return await self._ask(route, request, url)
        if is_post:
            return _text("this method has no meaning here\n", 405)
        match path:
            case "/healthz":
                return _text("ok\n")
            case "/readyz":
                return await self._readiness()
            case "/metrics":
                return await self._metrics()
            case self._settings.path:
                texts = {"name": self._settings.name, "description": self._settings.description}
                for describe in self._describing:
                    texts.update(describe())
                return _text(
                    f"{texts['name']}\n\n{texts['description']}\n\n"
                    f"This is a Nostr relay. Add {url} to a Nostr client to read and write here.\n"
                )
        return _text("there is nothing at this path\n", 404)

    async def _ask(self, route: Route, request: web.BaseRequest, url: str) -> web.Response:
        body = b""
        if route.method == "POST":
            most = self._settings.limits.max_message_bytes
            while chunk := await request.content.read(most + 1 - len(body)):
                body += chunk
                if len(body) > most:
                    return _text(f"at most {most} bytes\n", 413)
        # HTTP proves no key.
        stranger = Origin(address="", url=url)
        answer = route.handler(
            HttpRequest(
                request.path,
                request.host,
                url,
                self._veil(stranger),
                query={name: request.query[name] for name in request.query},
                authorization=request.headers.get("Authorization", ""),
                body=body,
                now=self._now(),
                sift=unsifted if (sift := self._sift) is None else lambda rows: sift(rows, stranger),
            )
        )
        if isinstance(answer, HttpResponse):
            return _response(answer)
        try:
            return _response(await answer)
        except StoreError as error:
            log.error("a page could not be made", path=request.path, error=str(error))
            return _text("the relay could not read its database; try again later\n", 503)

    async def _readiness(self) -> web.Response:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._store.head()
                await self._store.write([])
        except (StoreError, TimeoutError) as error:
            log.warning("not ready", error=str(error) or "the database is too slow")
            return _text("not ready: the database does not answer\n", 503)
        if shutil.disk_usage(self._data).free < MIN_FREE_BYTES:
            return _text("not ready: the disk is full\n", 503)
        return _text("ready\n")

    async def _metrics(self) -> web.Response:
        head: Seq | None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                head = await self._store.head()
        except (StoreError, TimeoutError):
            # Metrics are wanted most when something is broken: the others are shown.
            head = None
        gauges: list[Gauge] = []
        for ask in self._gauges:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    gauges += await ask()
            except (StoreError, TimeoutError) as error:
                log.warning("metrics are missing", error=str(error) or "no answer in time")
        gauges += streams.gauges(self._data)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Metrics(self._board, head, gauges, self._label))
        return web.Response(
            body=generate_latest(registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )


def _leads_to(route: str, path: str) -> bool:
    return path.startswith(route[:-1]) if route.endswith("*") else path == route


def _text(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, status=status, headers={"X-Content-Type-Options": "nosniff"})


def _response(answer: HttpResponse) -> web.Response:
    return web.Response(
        body=answer.body,
        status=answer.status,
        content_type=answer.content_type,
        headers=dict(answer.headers),
    )
