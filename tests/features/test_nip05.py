"""NIP-05: names and their keys, for everybody who asks."""

import orjson
import pytest

from relay.config import RelayConfig
from relay.engine.feature import Context, HttpRequest, HttpResponse
from relay.features import nip05
from tests.events import ALICE, BOB
from tests.net.house import RELAY_KEY, UNVEILED

CONFIG = RelayConfig(names=(f"alice={ALICE.public}", f"_={BOB.public}", f"b.o-b_2={BOB.public}"))
URL = "wss://relay.test/"


def answer(**query: str) -> HttpResponse:
    (route,) = nip05.feature(CONFIG, Context(key=RELAY_KEY)).routes
    assert (route.path, route.accept, route.method) == ("/.well-known/nostr.json", None, "GET")
    response = route.handler(HttpRequest(route.path, "relay.test", URL, UNVEILED, query=query))
    assert isinstance(response, HttpResponse)
    return response


def document(**query: str) -> object:
    return orjson.loads(answer(**query).body)


@pytest.mark.parametrize("asked", ["alice", "ALICE"])
def test_a_name_has_its_key_and_where_to_find_it(asked: str) -> None:
    assert document(name=asked) == {"names": {"alice": ALICE.public}, "relays": {ALICE.public: [URL]}}


def test_the_domain_itself_may_have_a_key() -> None:
    assert document(name="_") == {"names": {"_": BOB.public}, "relays": {BOB.public: [URL]}}


@pytest.mark.parametrize("asked", ["carol", "", "alice ", "__proto__"])
def test_an_unknown_name_has_none(asked: str) -> None:
    assert document(name=asked) == {"names": {}, "relays": {}}


def test_all_names_are_listed_where_none_is_asked_for() -> None:
    assert document() == {
        "names": {"alice": ALICE.public, "_": BOB.public, "b.o-b_2": BOB.public},
        "relays": {ALICE.public: [URL], BOB.public: [URL]},
    }


def test_pages_of_other_sites_may_read_it_and_it_never_redirects() -> None:
    found = answer(name="alice")

    assert (found.status, found.content_type) == (200, "application/json")
    assert found.headers == {"Access-Control-Allow-Origin": "*"}


def test_a_relay_without_names_serves_none() -> None:
    feature = nip05.feature(RelayConfig(), Context(key=RELAY_KEY))

    assert (feature.nip, feature.routes) == (None, ())
