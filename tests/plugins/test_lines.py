"""The lines that plugins are told and answer."""

import orjson
import pytest

from relay.engine.feature import Origin
from relay.nostr.event import PubKey, encode
from relay.plugins.lines import Action, Answer, Nonsense, new_line, parse_answer, refusal_of
from tests.events import ALICE, BOB, NOW, note

A, B = sorted([PubKey(ALICE.public), PubKey(BOB.public)])


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        (Origin("192.0.2.7", "ws://x"), {"sourceType": "IP4", "sourceInfo": "192.0.2.7"}),
        (Origin("2001:db8::1", "ws://x"), {"sourceType": "IP6", "sourceInfo": "2001:db8::1"}),
        (Origin("", ""), {"sourceType": "Import", "sourceInfo": ""}),
        (
            Origin("192.0.2.7", "ws://x", frozenset({A})),
            {"sourceType": "IP4", "sourceInfo": "192.0.2.7", "authed": A},
        ),
        (
            Origin("192.0.2.7", "ws://x", frozenset({A, B})),
            {"sourceType": "IP4", "sourceInfo": "192.0.2.7", "authed": B, "allAuthed": [A, B]},
        ),
    ],
)
def test_a_request_has_the_fields_of_strfrys(origin: Origin, source: dict[str, object]) -> None:
    asked = note(ALICE, 'a "quoted"\nline')

    line = new_line(encode(asked), B, origin, NOW)

    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    told = orjson.loads(line)
    assert told.pop("event") == orjson.loads(encode(asked))
    assert told == {"type": "new", "receivedAt": NOW, **source}


def test_answers_are_read() -> None:
    assert parse_answer(b'{"id":"x","action":"accept"}') == Answer("x", Action.ACCEPT, "")
    assert parse_answer(b' {"action":"reject","msg":"no","id":"x","more":1}') == Answer(
        "x", Action.REJECT, "no"
    )
    assert parse_answer(b'{"id":"x","action":"shadowReject","msg":null}').action is Action.SHADOW_REJECT


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"accept",
        b"[]",
        b"5",
        b'{"id":"x"}',
        b'{"id":5,"action":"accept"}',
        b'{"id":"x","action":"Accept"}',
        b'{"id":"%b","action":"accept"}' % (b"x" * 129),
        b'{"id":"x","action":"accept"',
        b"\xff",
    ],
)
def test_what_is_no_answer_is_nonsense(line: bytes) -> None:
    with pytest.raises(Nonsense):
        parse_answer(line)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("blocked: not on white-list", "blocked: not on white-list"),
        ("rate-limited: slow down", "rate-limited: slow down"),
        ("no spam", "blocked: no spam"),
        ("spam: really", "blocked: spam: really"),
        ("", "blocked: the relay's policy refuses this"),
        ("pow:", "pow: the relay's policy refuses this"),
        ("two\nlines\x00 and\u202e more", "blocked: two lines and more"),
        ("x" * 9_999, "blocked: " + "x" * 500),
    ],
)
def test_what_a_client_is_told_has_a_prefix_and_fits_a_line(message: str, reason: str) -> None:
    assert str(refusal_of(message)) == reason
