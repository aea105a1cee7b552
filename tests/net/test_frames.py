"""WebSocket frames (RFC 6455, section 5.2)."""

import pytest

from relay.engine.subscription import LiveEvent
from relay.net.frames import accepted_frame, add_stored_frames, live_frames, text_frame
from relay.nostr.messages import Ok, delivered_prefix, encode_relay_message
from relay.store.api import Seq, Stored
from tests.net.house import payloads

LENGTHS = [
    (0, "8100"),
    (1, "8101"),
    (125, "817d"),
    (126, "817e007e"),
    (127, "817e007f"),
    (65_535, "817effff"),
    (65_536, "817f0000000000010000"),
    (65_537, "817f0000000000010001"),
]


@pytest.mark.parametrize(("length", "header"), LENGTHS)
def test_a_text_frame_has_the_shortest_header(length: int, header: str) -> None:
    payload = b"x" * length

    assert text_frame(payload) == bytes.fromhex(header) + payload


@pytest.mark.parametrize(("length", "header"), LENGTHS[2:])
def test_an_event_frame_has_the_shortest_header(length: int, header: str) -> None:
    prefix = delivered_prefix("s")
    json = b"x" * (length - len(prefix) - 1)

    pieces: list[bytes] = []

    size = add_stored_frames(pieces, prefix, [Stored(Seq(1), 0, json)])

    assert b"".join(pieces) == bytes.fromhex(header) + prefix + json + b"]"
    assert size == length + len(header) // 2


def test_stored_events_are_framed_one_by_one_behind_what_is_there() -> None:
    rows = [Stored(Seq(1), 0, b'{"id":"x"}'), Stored(Seq(2), 0, b"y" * 200)]
    pieces = [text_frame(b"before")]

    add_stored_frames(pieces, delivered_prefix('a"b'), rows)

    assert payloads(b"".join(pieces)) == [
        b"before",
        b'["EVENT","a\\"b",{"id":"x"}]',
        b'["EVENT","a\\"b",' + b"y" * 200 + b"]",
    ]


def test_frames_may_be_joined() -> None:
    assert payloads(text_frame(b"one") + text_frame(b"") + text_frame(b"y" * 70_000)) == [
        b"one",
        b"",
        b"y" * 70_000,
    ]


def test_live_events_of_one_subscription_are_joined_and_may_be_sent_to_others() -> None:
    events = [LiveEvent(Seq(1), b'{"id":"1"}'), LiveEvent(None, b"x" * 200)]

    assert payloads(live_frames(delivered_prefix("a"), events)) == [
        b'["EVENT","a",{"id":"1"}]',
        b'["EVENT","a",' + b"x" * 200 + b"]",
    ]
    assert payloads(live_frames(delivered_prefix("longer"), events)) == [
        b'["EVENT","longer",{"id":"1"}]',
        b'["EVENT","longer",' + b"x" * 200 + b"]",
    ]


@pytest.mark.parametrize("reason", ["", "duplicate: already have this event", "“" + "0" * 64, "x" * 70_000])
def test_an_event_that_is_taken_is_answered_as_anything_else_is(reason: str) -> None:
    id_ = "0123456789abcdef" * 4

    assert accepted_frame(id_, reason) == text_frame(encode_relay_message(Ok(id_, True, reason)))
