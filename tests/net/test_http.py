"""Plain HTTP: the document, health, readiness, metrics, and everything else."""

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import RawTestServer, make_mocked_request

from relay.config import RelayConfig
from relay.net import http
from relay.net.board import Counter
from relay.net.http import Pages
from relay.nostr.reasons import Refusal
from relay.store.api import Outcome, Seq, StoreError, Write
from relay.store.memory import MemoryStore
from tests.engine.test_records import ECHO
from tests.events import ALICE, Clock, note
from tests.net.house import URL, House


class FailingStore(MemoryStore):
    """A store that fails or hangs as the test says."""

    fails = hangs = False

    async def head(self) -> Seq:
        await self._trouble()
        return await super().head()

    async def write(self, batch: Sequence[Write]) -> list[Outcome | Refusal]:
        await self._trouble()
        return await super().write(batch)

    async def _trouble(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise StoreError("/secret/path is gone")


class Site(NamedTuple):
    house: House
    store: FailingStore
    pages: Pages

    async def get(self, path: str, method: str = "GET", **headers: str) -> web.Response:
        return await self.pages.answer(make_mocked_request(method, path, headers=headers), URL)


@pytest.fixture
async def site(clock: Clock, tmp_path: Path) -> Site:
    store = FailingStore()
    house = House(clock, RelayConfig(name="Square", description="Ours."), store=store)
    return Site(
        house,
        store,
        Pages(house.config, house.relay.features, store, house.board, tmp_path, veil=house.relay.veil),
    )


async def test_the_document_is_for_those_who_ask_for_its_media_type(site: Site) -> None:
    answer = await site.get("/", Accept="text/html, application/nostr+json;q=0.9")

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/nostr+json"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


async def test_people_with_a_browser_get_a_word(site: Site) -> None:
    answer = await site.get("/", Accept="text/html")

    assert answer.text == (
        "Square\n\nOurs.\n\n"
        "This is a Nostr relay. Add ws://relay.test/ to a Nostr client to read and write here.\n"
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_other_sites_may_ask_whether_they_may_ask(site: Site) -> None:
    answer = await site.get("/", "OPTIONS", Origin="https://client.example.com")

    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Methods"] == "GET, POST, OPTIONS"
    assert answer.headers["Access-Control-Allow-Headers"] == "*"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
async def test_other_methods_have_no_meaning(site: Site, method: str) -> None:
    assert (await site.get("/", method)).status == 405


@pytest.mark.parametrize("path", ["/unknown", "//", "/healthz/", "/%2e%2e/etc/passwd", "/metrics/x"])
async def test_unknown_paths_are_not_found(site: Site, path: str) -> None:
    assert (await site.get(path)).status == 404
    assert (await site.get(path, Accept="application/nostr+json")).status == 404
    assert (await site.get(path, "OPTIONS")).status == 405


async def test_health_needs_no_database(site: Site) -> None:
    site.store.fails = True

    assert (await site.get("/healthz")).text == "ok\n"


async def test_a_relay_that_reads_and_writes_is_ready(site: Site) -> None:
    answer = await site.get("/readyz")

    assert (answer.status, answer.text) == (200, "ready\n")


async def test_a_failing_database_is_not_ready_and_not_explained_to_strangers(site: Site) -> None:
    site.store.fails = True

    answer = await site.get("/readyz")

    assert (answer.status, answer.text) == (503, "not ready: the database does not answer\n")


async def test_a_database_that_hangs_is_not_ready(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.01)
    site.store.hangs = True

    answer = await site.get("/readyz")

    assert (answer.status, answer.text) == (503, "not ready: the database does not answer\n")


async def test_a_full_disk_is_not_ready(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage("/")._replace(free=64 * 2**20 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)

    answer = await site.get("/readyz")

    assert (answer.status, answer.text) == (503, "not ready: the disk is full\n")


async def test_metrics_are_the_boards_sums(site: Site) -> None:
    await site.store.write([site.house.relay.admission.effects(note(ALICE))])
    site.house.board.add(Counter.EVENTS_ACCEPTED, 3)
    site.house.board.add(Counter.EVENTS_REFUSED)
    site.house.board.add(Counter.CONNECTIONS_OPEN, 2)

    answer = await site.get("/metrics")

    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert isinstance(answer.body, bytes)
    lines = answer.body.decode().splitlines()
    assert 'torv_events_total{outcome="accepted"} 3.0' in lines
    assert 'torv_events_total{outcome="refused"} 1.0' in lines
    assert 'torv_events_total{outcome="duplicate"} 0.0' in lines
    assert "torv_connections 2.0" in lines
    assert "torv_log_head 1.0" in lines
    assert 'torv_info{version="0.1.0"} 1.0' in lines


async def test_every_counter_of_the_board_is_shown(site: Site) -> None:
    shown_in_seconds = {Counter.VERIFYING_MICROSECONDS}
    for counter in Counter:
        site.house.board.add(counter, 1000 + counter)

    answer = await site.get("/metrics")

    assert isinstance(answer.body, bytes)
    shown = {line.rsplit(" ", 1)[1] for line in answer.body.decode().splitlines() if line[0] != "#"}
    assert {f"{1000 + counter}.0" for counter in set(Counter) - shown_in_seconds} <= shown
    assert f"{(1000 + Counter.VERIFYING_MICROSECONDS) / 1e6}" in shown


@pytest.mark.parametrize("trouble", ["fails", "hangs"])
async def test_metrics_are_shown_when_the_database_is_not_there(
    site: Site, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ANSWER_SECONDS", 0.01)
    setattr(site.store, trouble, True)

    answer = await site.get("/metrics")

    assert answer.status == 200
    assert isinstance(answer.body, bytes)
    assert b"torv_connections 0.0" in answer.body
    assert b"torv_log_head" not in answer.body


async def test_a_relay_at_another_path_has_nothing_at_the_root(clock: Clock, tmp_path: Path) -> None:
    house = House(clock, RelayConfig(path="/nostr"))
    site = Site(
        house,
        FailingStore(),
        Pages(house.config, house.relay.features, house.store, house.board, tmp_path, veil=house.relay.veil),
    )

    assert (await site.get("/")).status == 404
    assert (await site.get("/", Accept="application/nostr+json")).status == 404
    assert (await site.get("/nostr")).status == 200
    assert (await site.get("/nostr", Accept="application/nostr+json")).status == 200


async def test_features_answer_posts_and_whole_folders(clock: Clock, tmp_path: Path) -> None:
    """Over a real socket: bodies are streams."""
    house = House(clock, RelayConfig.model_validate({"limits": {"max_message_bytes": 1024}}), extra=[ECHO])
    pages = Pages(
        house.config, house.relay.features, house.store, house.board, tmp_path, veil=house.relay.veil
    )

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await pages.answer(request, URL)

    async with RawTestServer(handle) as server, ClientSession() as client:

        async def ask(method: str, path: str, **more: Any) -> tuple[int, Any]:
            async with client.request(method, server.make_url(path), **more) as answer:
                is_json = answer.content_type == "application/json"
                return answer.status, await answer.json() if is_json else await answer.text()

        typed = {"Content-Type": "application/echo", "Authorization": "Nostr abc"}
        assert await ask("POST", "/echo", data=b"x" * 1024, headers=typed) == (
            200,
            {"path": "/echo", "query": {}, "authorization": "Nostr abc", "body": "x" * 1024},
        )
        assert await ask("POST", "/echo", data=b"x" * 1025, headers=typed) == (413, "at most 1024 bytes\n")
        assert (await ask("POST", "/echo", data=b"x"))[0] == 405
        assert (await ask("GET", "/echo"))[0] == 404
        assert await ask("GET", "/below/a/b?one=1&one=2&two=%20") == (
            200,
            {"path": "/below/a/b", "query": {"one": "1", "two": " "}, "authorization": "", "body": ""},
        )
        assert (await ask("POST", "/below/a"))[0] == 405
