"""NIP-11: the document says what is switched on, and nothing else."""

import orjson
import pytest

from relay import features, policies
from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, HttpRequest, HttpResponse, Route
from tests.net.house import RELAY_KEY, UNVEILED

CONTEXT = Context(key=RELAY_KEY)
REQUEST = HttpRequest(path="/", host="relay.test", url="ws://relay.test/", veil=UNVEILED)

# NIP-11 as of 2026-02-14; `fees`, `payments_url` are for relays that take money.
FIELDS = {
    "name", "description", "banner", "icon", "pubkey", "self", "contact", "supported_nips", "software",
    "version", "terms_of_service", "limitation", "nip29",
}  # fmt: skip
LIMITATIONS = {
    "max_message_length", "max_subscriptions", "max_limit", "max_subid_length", "max_event_tags",
    "max_content_length", "min_pow_difficulty", "auth_required", "payment_required", "restricted_writes",
    "created_at_lower_limit", "created_at_upper_limit", "default_limit",
}  # fmt: skip


def relay_features(config: RelayConfig) -> tuple[Feature, ...]:
    return features.enabled(config, CONTEXT, policies.enabled(config, CONTEXT))


def route(config: RelayConfig) -> Route:
    (found,) = (route for feature in relay_features(config) if feature.nip == 11 for route in feature.routes)
    return found


def answer(config: RelayConfig) -> HttpResponse:
    answered = route(config).handler(REQUEST)
    assert isinstance(answered, HttpResponse)
    return answered


def document(**settings: object) -> dict[str, object]:
    value = orjson.loads(answer(RelayConfig.model_validate(settings)).body)
    assert type(value) is dict
    return value


def test_the_document_of_a_relay_with_default_settings() -> None:
    assert document() == {
        "name": "Torv",
        "description": "A public square that nobody owns.",
        "self": RELAY_KEY.public,
        "supported_nips": [1, 4, 9, 11, 13, 17, 29, 40, 42, 45, 50, 59, 62, 65, 67, 70, 77, 88],
        "version": "0.1.0",
        "limitation": {
            "auth_required": False,
            "created_at_upper_limit": 900,
            "default_limit": 500,
            "max_content_length": 131_072,
            "max_event_tags": 5_000,
            "max_limit": 500,
            "max_message_length": 262_144,
            "max_subid_length": 64,
            "max_subscriptions": 64,
            "min_pow_difficulty": 0,
            "payment_required": False,
            "restricted_writes": False,
        },
        "nip29": {"subgroups": True},
    }


def test_every_text_that_is_set_is_shown() -> None:
    texts = {
        "name": "Square",
        "description": "Ours.",
        "contact": "mailto:op@relay.example.com",
        "icon": "https://relay.example.com/icon.png",
        "banner": "https://relay.example.com/banner.png",
        "terms_of_service": "https://relay.example.com/terms.txt",
        "pubkey": "a" * 64,
    }

    shown = document(**texts)

    assert {name: shown[name] for name in texts} == texts


@pytest.mark.parametrize("name", ["name", "description", "contact", "icon", "banner", "terms_of_service"])
def test_an_empty_text_is_left_out(name: str) -> None:
    assert name not in document(**{name: ""})


def test_only_fields_that_the_nip_names_are_shown() -> None:
    shown = document(pubkey="a" * 64, contact="x", icon="x", banner="x", terms_of_service="x")

    assert set(shown) <= FIELDS
    limitation = shown["limitation"]
    assert type(limitation) is dict
    assert set(limitation) <= LIMITATIONS


def test_limitations_follow_the_settings() -> None:
    limits = {
        "max_message_bytes": 4096,
        "max_subscriptions": 3,
        "max_limit": 7,
        "max_event_tags": 11,
        "max_content_chars": 13,
        "max_seconds_in_future": 17,
        "max_age_seconds": 19,
        "min_pow_difficulty": 23,
    }

    assert document(limits=limits)["limitation"] == {
        "auth_required": False,
        "created_at_lower_limit": 19,
        "created_at_upper_limit": 17,
        "default_limit": 7,
        "max_content_length": 13,
        "max_event_tags": 11,
        "max_limit": 7,
        "max_message_length": 4096,
        "max_subid_length": 64,
        "max_subscriptions": 3,
        "min_pow_difficulty": 23,
        "payment_required": False,
        "restricted_writes": True,
    }


@pytest.mark.parametrize(
    ("auth", "auth_required", "restricted_writes"),
    [
        ({}, False, False),
        ({"read": True}, False, False),
        ({"write": True}, False, True),
        ({"read": True, "write": True}, True, True),
        ({"read_kinds": [1], "write_kinds": [1]}, False, False),
    ],
)
def test_clients_are_told_what_takes_a_proved_key(
    auth: dict[str, object], auth_required: bool, restricted_writes: bool
) -> None:
    limitation = document(auth=auth)["limitation"]

    assert type(limitation) is dict
    assert limitation["auth_required"] is auth_required
    assert limitation["restricted_writes"] is restricted_writes


def test_it_is_answered_on_the_relays_own_path_for_its_media_type() -> None:
    assert (route(RelayConfig()).path, route(RelayConfig()).accept) == ("/", "application/nostr+json")
    assert route(RelayConfig(path="/nostr")).path == "/nostr"
    assert answer(RelayConfig()).content_type == "application/nostr+json"
    assert answer(RelayConfig()).status == 200


def test_browsers_of_other_sites_may_read_it() -> None:
    assert answer(RelayConfig()).headers == {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Allow-Headers": "*",
        "Access-Control-Allow-Methods": "GET, OPTIONS",
    }
