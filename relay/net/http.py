"""Plain HTTP: what features route, health, metrics, and a word to people who come with a browser."""

import asyncio
import itertools
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import structlog
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from relay import __version__
from relay.config import RelayConfig
from relay.engine.feature import Feature, Gauge, HttpRequest, HttpResponse, Origin, Route, unsifted
from relay.net import streams
from relay.net.board import BOUNDS, REFUSALS, Board, Counter, Histogram
from relay.net.processes import Use, family
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
    Counter.BYTES_RECEIVED: ("torv_received_bytes", "From clients, by WebSocket."),
    Counter.BYTES_SENT: ("torv_sent_bytes", "To clients, by WebSocket."),
    Counter.EVENTS_WRITTEN: ("torv_events_written", "Events in batches that were given to the writer."),
    Counter.QUESTIONS_SLOW: ("torv_questions_slow", "Questions slower than log_slow_queries_ms."),
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


_NOW = {
    Counter.CONNECTIONS_OPEN: ("torv_connections", "Open connections."),
    Counter.SUBSCRIPTIONS_OPEN: ("torv_subscriptions", "Open subscriptions."),
    Counter.CONNECTIONS_HTTP: ("torv_http_connections", "Connections that are no WebSockets, or none yet."),
    Counter.BYTES_UNSENT: ("torv_unsent_bytes", "Held for clients that have not taken them."),
    Counter.READERS_SLOW: ("torv_slow_readers", "Connections that take less than they are sent."),
    Counter.EVENTS_WAITING: ("torv_events_waiting", "Events that wait to be looked at."),
}
_HISTOGRAMS = {
    Histogram.QUESTION: ("torv_question_seconds", "From a REQ to its EOSE, the client's slowness aside."),
    Histogram.WRITE: ("torv_write_seconds", "From a batch of admitted events to its commit."),
}


class Metrics(Collector):
    """The board's sums, in Prometheus' terms; every worker answers for the whole machine."""

    def __init__(
        self,
        board: Board,
        head: Seq | None,
        gauges: Iterable[Gauge] = (),
        label: str = "",
        *,
        uses: Sequence[Use] = (),
        files: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`head`: None where the database cannot say; `gauges`: the features'; `label`: the relay's name.

        `uses`: what processes take of the machine; `files`: sizes in bytes by name.
        """
        self._label = label
        self._uses = uses
        self._files = files
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
        refusals = CounterMetricFamily(
            "torv_refusals", "OK with false, by the prefix of its reason.", labels=["reason"]
        )
        for prefix, counter in REFUSALS.items():
            refusals.add_metric([str(prefix)], self._board.total(counter))
        refusals.add_metric(["other"], self._board.total(Counter.REFUSED_OTHERWISE))
        yield refusals
        for counter, (name, text) in _NOW.items():
            yield GaugeMetricFamily(name, text, value=self._board.total(counter))
        workers = GaugeMetricFamily(
            "torv_worker_connections", "Open connections by worker.", labels=["worker"]
        )
        for number, open_ in enumerate(self._board.each(Counter.CONNECTIONS_OPEN)):
            workers.add_metric([str(number)], open_)
        yield workers
        yield CounterMetricFamily(
            "torv_verifying_seconds",
            "Spent on checking signatures, and on the rules that follow.",
            value=self._board.total(Counter.VERIFYING_MICROSECONDS) / 1e6,
        )
        yield from map(self._histogram, Histogram)
        yield from self._machine()
        if self._head is not None:
            yield GaugeMetricFamily("torv_log_head", "Seq of the newest commit.", value=self._head)
        yield from _families(self._gauges)
        info = GaugeMetricFamily("torv_info", "This software.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info

    def _histogram(self, histogram: Histogram) -> Metric:
        name, text = _HISTOGRAMS[histogram]
        found, seconds = self._board.distribution(histogram)
        ends = [*map(str, BOUNDS), "+Inf"]
        family = HistogramMetricFamily(name, text)
        family.add_metric([], list(zip(ends, itertools.accumulate(found), strict=True)), sum_value=seconds)
        return family

    def _machine(self) -> Iterable[Metric]:
        sizes = GaugeMetricFamily("torv_file_bytes", "Size of a file in the data folder.", labels=["file"])
        for name, size in self._files.items():
            sizes.add_metric([name], size)
        yield sizes
        memory = GaugeMetricFamily(
            "torv_process_memory_bytes", "Proportional share of memory (PSS).", labels=["process"]
        )
        cpu = CounterMetricFamily(
            "torv_process_cpu_seconds", "Processor time, user and system.", labels=["process"]
        )
        files = GaugeMetricFamily("torv_process_open_files", "Open descriptors.", labels=["process"])
        for use in self._uses:
            memory.add_metric([use.name], use.memory_bytes)
            cpu.add_metric([use.name], use.cpu_seconds)
            files.add_metric([use.name], use.open_files)
        yield from (memory, cpu, files)


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
            case "/metrics" if self._settings.metrics == "public":
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

    @asynccontextmanager
    async def metrics_listening(self, where: str) -> AsyncIterator[None]:
        """Serve metrics alone on an address and a port, such as 127.0.0.1:9777. Raises OSError."""

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.path == "/metrics" and request.method in ("GET", "HEAD"):
                return await self._metrics()
            return _text("there is nothing at this path\n", 404)

        host, _, port = where.rpartition(":")
        http = web.Server(answer, access_log=None, keepalive_timeout=60)
        # Who takes our place may listen before we have left.
        listener = await asyncio.get_running_loop().create_server(
            http, host.strip("[]"), int(port), reuse_port=True
        )
        try:
            yield
        finally:
            listener.close()
            await http.shutdown(1.0)

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
        uses, files = await asyncio.to_thread(lambda: (family(), _database_files(self._data)))
        registry.register(Metrics(self._board, head, gauges, self._label, uses=uses, files=files))
        return web.Response(
            body=generate_latest(registry),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )


def _database_files(data: Path) -> dict[str, int]:
    found = {}
    for path in sorted(data.glob("*.sqlite3*")):
        # Logs come and go.
        with suppress(OSError):
            if path.suffix != ".lock":
                found[path.name] = path.stat().st_size
    return found


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
