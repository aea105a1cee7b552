"""NIP-98: a signature lets its author make one request, once, within a minute."""

from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest

from relay.nostr.event import Event, encode
from relay.nostr.nip98 import MAX_HEADER_CHARS, InvalidAuthorization, UsedAuthorizations, authorize
from tests.events import ALICE, NOW, event

URL = "https://relay.test/api?x=1"
BODY = b'{"method":"banpubkey","params":[]}'
PAYLOAD = sha256(BODY).hexdigest()

# The example of NIP-98, header and all.
EXAMPLE = (
    "Nostr eyJpZCI6ImZlOTY0ZTc1ODkwMzM2MGYyOGQ4NDI0ZDA5MmRhODQ5NGVkMjA3Y2JhODIzMTEwYmUzYTU3ZGZlNGI1Nzg3"
    "MzQiLCJwdWJrZXkiOiI2M2ZlNjMxOGRjNTg1ODNjZmUxNjgxMGY4NmRkMDllMThiZmQ3NmFhYmMyNGEwMDgxY2UyODU2ZjMzMDU"
    "wNGVkIiwiY29udGVudCI6IiIsImtpbmQiOjI3MjM1LCJjcmVhdGVkX2F0IjoxNjgyMzI3ODUyLCJ0YWdzIjpbWyJ1IiwiaHR0cH"
    "M6Ly9hcGkuc25vcnQuc29jaWFsL2FwaS92MS9uNXNwL2xpc3QiXSxbIm1ldGhvZCIsIkdFVCJdXSwic2lnIjoiNWVkOWQ4ZWM5N"
    "ThiYzg1NGY5OTdiZGMyNGFjMzM3ZDAwNWFmMzcyMzI0NzQ3ZWZlNGEwMGUyNGY0YzMwNDM3ZmY0ZGQ4MzA4Njg0YmVkNDY3ZDlk"
    "NmJlM2U1YTUxN2JiNDNiMTczMmNjN2QzMzk0OWEzYWFmODY3MDVjMjIxODQifQ=="
)


def permit(*, kind: int = 27_235, created_at: int = NOW, **changed: str | None) -> Event:
    """Return what allows Alice to send BODY to URL; `changed` are tags to say otherwise, or not at all."""
    tags = {"u": URL, "method": "POST", "payload": PAYLOAD, **changed}
    return event(ALICE, kind, created_at=created_at, tags=[[k, v] for k, v in tags.items() if v is not None])


def header(shown: Event) -> str:
    return "Nostr " + b64encode(encode(shown)).decode()


def ask(authorization: str | None, **changed: Any) -> Event:
    asked = {"method": "POST", "urls": (URL,), "body": BODY, "now": NOW, "used": UsedAuthorizations()}
    return authorize(authorization, **{**asked, **changed})


def refusal(authorization: str | None, **changed: Any) -> str:
    with pytest.raises(InvalidAuthorization) as caught:
        ask(authorization, **changed)
    return str(caught.value)


def test_the_example_of_the_nip_is_read_and_fits_its_request() -> None:
    # Its author made it up: the id is not the hash. All that is checked before that is right.
    url = "https://api.snort.social/api/v1/n5sp/list"
    asked = {"method": "GET", "urls": (url,), "body": b""}

    assert refusal(EXAMPLE, **asked, now=1682327852) == "invalid: id is not the hash of the event"
    assert refusal(EXAMPLE, **asked, now=NOW) == "invalid: created_at is more than 60 seconds off"


def test_a_request_is_its_authors() -> None:
    assert ask(header(permit())).pubkey == ALICE.public


@pytest.mark.parametrize("now", [NOW - 60, NOW, NOW + 60])
def test_clocks_may_differ_by_a_minute(now: int) -> None:
    assert ask(header(permit()), now=now) == permit()


@pytest.mark.parametrize("now", [NOW - 61, NOW + 61])
def test_more_than_a_minute_is_too_much(now: int) -> None:
    assert refusal(header(permit()), now=now) == "invalid: created_at is more than 60 seconds off"


@pytest.mark.parametrize("written", ["nostr ", "NOSTR ", "Nostr  "])
def test_the_scheme_is_read_in_any_case(written: str) -> None:
    assert ask(header(permit()).replace("Nostr ", written)) == permit()


def test_a_method_is_read_in_any_case() -> None:
    assert ask(header(permit(method="post"))) == permit(method="post")


def test_a_payload_is_compared_if_it_is_there_and_demanded_where_it_must_be() -> None:
    none, wrong = header(permit(payload=None)), header(permit(payload=64 * "0"))

    assert ask(none) == permit(payload=None)
    assert ask(header(permit(payload=PAYLOAD.upper()))) == permit(payload=PAYLOAD.upper())
    assert ask(header(permit()), payload_required=True) == permit()
    assert refusal(wrong) == "invalid: the payload tag is not the body's sha256"
    assert refusal(none, payload_required=True) == (
        "invalid: a payload tag with the body's sha256 is needed here"
    )


@pytest.mark.parametrize(
    ("shown", "reason"),
    [
        (permit(kind=22_242), "invalid: an authorization is an event of kind 27235"),
        (permit(u=None), "invalid: the u tag names another URL than the one requested"),
        (permit(u="https://relay.test/api"), "invalid: the u tag names another URL than the one requested"),
        (permit(u=URL + "&y"), "invalid: the u tag names another URL than the one requested"),
        (permit(method="GET"), "invalid: the method tag is not POST"),
        (permit(method=None), "invalid: the method tag is not POST"),
        (permit()._replace(content="x"), "invalid: id is not the hash of the event"),
        (permit()._replace(sig=permit(u="x").sig), "invalid: signature does not verify"),
    ],
)
def test_what_does_not_fit_the_request_is_refused(shown: Event, reason: str) -> None:
    assert refusal(header(shown)) == reason


@pytest.mark.parametrize("given", [None, "", "Nostr", "Basic YTpi", "Bearer x"])
def test_other_headers_ask_for_the_right_one(given: str | None) -> None:
    assert refusal(given) == (
        "auth-required: this needs an Authorization header of the scheme Nostr (NIP-98)"
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("Nostr ", "invalid: the Authorization header does not hold a base64-encoded event"),
        ("Nostr é", "invalid: the Authorization header does not hold a base64-encoded event"),
        ("Nostr {}", "invalid: the Authorization header does not hold a base64-encoded event"),
        ("Nostr e30", "invalid: the Authorization header does not hold a base64-encoded event"),
        ("Nostr /w==", "invalid: the Authorization header does not hold a base64-encoded event"),
        ("Nostr e30=", "invalid: the event has no id"),
        ("Nostr W10=", "invalid: an event is a JSON object"),
        (
            "Nostr " + "A" * MAX_HEADER_CHARS,
            "invalid: an authorization has at most 16384 characters",
        ),
    ],
)
def test_what_is_no_event_is_refused(given: str, reason: str) -> None:
    assert refusal(given) == reason


def test_a_signature_lets_in_once() -> None:
    used = UsedAuthorizations()
    ask(header(permit()), used=used)

    for now in (NOW, NOW + 60):
        assert refusal(header(permit()), used=used, now=now) == (
            "invalid: this authorization was used already; sign a new one"
        )


def test_one_from_a_fast_clock_is_remembered_for_as_long_as_it_is_good() -> None:
    used, early = UsedAuthorizations(), permit(created_at=NOW + 60)
    ask(header(early), used=used)

    assert refusal(header(early), used=used, now=NOW + 120) == (
        "invalid: this authorization was used already; sign a new one"
    )


def test_a_full_memory_lets_nobody_in_until_something_has_left_the_window() -> None:
    used = UsedAuthorizations(capacity=2)
    for created_at in (NOW - 60, NOW):
        ask(header(permit(created_at=created_at)), used=used)
    third = header(permit(created_at=NOW + 1))

    assert refusal(third, used=used) == ("rate-limited: too many authorized requests; try again in a minute")
    assert ask(third, used=used, now=NOW + 1) == permit(created_at=NOW + 1)


def test_what_was_refused_takes_no_room() -> None:
    used = UsedAuthorizations(capacity=1)

    refusal(header(permit()._replace(sig=permit(u="x").sig)), used=used)

    assert ask(header(permit()), used=used) == permit()
