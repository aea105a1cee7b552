"""The endpoint for the homeserver, over real HTTP."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence

import aiohttp
import pytest
from aiohttp import web
from mautrix.api import PathBuilder

from bridge.network import Arrival, Rejected
from bridge.networks.matrix.appservice import application
from bridge.networks.matrix.recovery import recover

TOKEN = "the homeserver's token"
TRANSACTION = "/_matrix/app/v1/transactions/1"


class ListInbox:
    """An inbox that keeps a list, and can fail as a full disk does."""

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.bookmarks: dict[str, str] = {}
        self.is_broken = False

    def receive(
        self,
        arrivals: Sequence[Arrival],
        cursors: Mapping[str, int] | None = None,
        bookmarks: Mapping[str, str] | None = None,
    ) -> int:
        if self.is_broken:
            raise OSError("disk full")
        self.arrivals += arrivals
        self.bookmarks |= bookmarks or {}
        return len(arrivals)

    def cursor(self, scope: str) -> int | None:
        return None

    def bookmark(self, scope: str) -> str | None:
        return self.bookmarks.get(scope)


@pytest.fixture
def inbox() -> ListInbox:
    return ListInbox()


@pytest.fixture
async def http(inbox: ListInbox) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of the endpoint that knows the token."""
    runner = web.AppRunner(application(TOKEN, inbox))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as session:
        yield session
    await runner.cleanup()


async def test_a_transaction_is_acknowledged_once_its_events_are_stored(
    http: aiohttp.ClientSession, inbox: ListInbox
) -> None:
    async with http.put(
        TRANSACTION, json={"events": [{"event_id": "$1", "x": "ä"}, {"event_id": "$2"}]}
    ) as answer:
        assert (answer.status, await answer.json()) == (200, {})

    assert [arrival.id for arrival in inbox.arrivals] == ["$1", "$2"]
    assert json.loads(inbox.arrivals[0].raw) == {"event_id": "$1", "x": "ä"}


async def test_a_transaction_that_cannot_be_stored_is_not_acknowledged(
    http: aiohttp.ClientSession, inbox: ListInbox
) -> None:
    inbox.is_broken = True

    async with http.put(TRANSACTION, json={"events": [{"event_id": "$1"}]}) as answer:
        assert answer.status == 500


async def test_what_has_no_id_is_kept_under_its_hash(http: aiohttp.ClientSession, inbox: ListInbox) -> None:
    async with http.put(TRANSACTION, json={"events": [7, {"event_id": 7}]}) as answer:
        assert answer.status == 200

    assert [arrival.id[:7] for arrival in inbox.arrivals] == ["sha256:", "sha256:"]
    assert inbox.arrivals[0].id != inbox.arrivals[1].id


async def test_a_lone_surrogate_does_not_block_the_queue(
    http: aiohttp.ClientSession, inbox: ListInbox
) -> None:
    async with http.put(TRANSACTION, data=b'{"events":[{"event_id":"$1","body":"\\ud800"}]}') as answer:
        assert answer.status == 200

    assert inbox.arrivals[0].raw == b'{"event_id":"$1","body":"\\ud800"}'


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"events":7}', b"[" * 100_000])
async def test_what_is_no_transaction_is_refused(
    http: aiohttp.ClientSession, inbox: ListInbox, body: bytes
) -> None:
    async with http.put(TRANSACTION, data=body) as answer:
        assert answer.status == 400
        assert (await answer.json())["errcode"] in ("M_NOT_JSON", "M_BAD_JSON")

    assert inbox.arrivals == []


@pytest.mark.parametrize(
    ("header", "status"),
    [("", 401), ("Bearer ", 401), ("Basic abc", 401), ("Bearer wrong", 403), ("Bearer ünicode", 403)],
)
async def test_nobody_else_gets_in(
    http: aiohttp.ClientSession, inbox: ListInbox, header: str, status: int
) -> None:
    headers = {"Authorization": header}
    async with http.put(TRANSACTION, json={"events": [{"event_id": "$1"}]}, headers=headers) as answer:
        assert answer.status == status

    assert inbox.arrivals == []


async def test_pings_are_answered_and_nobody_exists_on_demand(http: aiohttp.ClientSession) -> None:
    async with http.post("/_matrix/app/v1/ping", json={"transaction_id": "1"}) as answer:
        assert answer.status == 200
    async with http.get("/_matrix/app/v1/users/@nostr_x:y") as answer:
        assert (answer.status, (await answer.json())["errcode"]) == (404, "M_NOT_FOUND")
    async with http.get("/elsewhere") as answer:
        assert (answer.status, (await answer.json())["errcode"]) == (404, "M_UNRECOGNIZED")


class Pages:
    """A homeserver's answers to /messages, by direction and token."""

    def __init__(self, pages: Mapping[tuple[str, str | None], dict[str, object]]) -> None:
        self._pages = pages

    async def ask(self, path: PathBuilder, query: Mapping[str, str]) -> dict[str, object]:
        try:
            return self._pages[query["dir"], query.get("from")]
        except KeyError:
            raise Rejected("403") from None


def event(id_: str, at_ms: int = 2000) -> dict[str, object]:
    return {"event_id": id_, "origin_server_ts": at_ms}


async def test_recovery_of_a_room_just_linked_reads_back_to_the_link(inbox: ListInbox) -> None:
    pages = Pages(
        {
            # A ghost's message may have an old date; what stands behind it is still new.
            ("b", None): {"start": "now", "chunk": [event("$4"), event("$ghost", 5)], "end": "x"},
            ("b", "x"): {"chunk": [event("$3"), event("$2")], "end": "y"},
            ("b", "y"): {"chunk": [event("$1", 999), event("$0", 998)], "end": "z"},
            ("f", "now"): {"chunk": [event("$5")], "end": "later"},
            ("f", "later"): {"chunk": []},
        }
    )

    await recover(pages.ask, inbox, "!r", 1000)

    assert [arrival.id for arrival in inbox.arrivals] == ["$2", "$3", "$4", "$5"]
    assert inbox.bookmarks == {"!r": "later"}


async def test_recovery_reads_page_by_page_to_the_end(inbox: ListInbox) -> None:
    inbox.bookmarks["!r"] = "a"
    pages = Pages(
        {
            ("f", "a"): {"chunk": [event("$1"), event("$2")], "end": "b"},
            ("f", "b"): {"chunk": [event("$3")], "end": "c"},
            ("f", "c"): {"chunk": []},
        }
    )

    await recover(pages.ask, inbox, "!r", 1000)

    assert [arrival.id for arrival in inbox.arrivals] == ["$1", "$2", "$3"]
    assert inbox.bookmarks == {"!r": "c"}


async def test_a_room_that_cannot_be_read_is_left_alone(inbox: ListInbox) -> None:
    inbox.bookmarks["!r"] = "a"

    await recover(Pages({}).ask, inbox, "!r", 1000)

    assert inbox.bookmarks == {"!r": "a"}
