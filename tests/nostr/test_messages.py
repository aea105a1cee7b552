"""Messages both ways: any bytes give a message, or the answer that the protocol wants."""

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.nostr.event import Event, InvalidEvent, encode, sign
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.messages import (
    Auth,
    Challenge,
    ClientMessage,
    Close,
    Closed,
    Count,
    Counted,
    Delivered,
    Eose,
    InvalidMessage,
    NegClose,
    NegErr,
    NegMsg,
    NegOpen,
    Notice,
    Ok,
    Publish,
    RelayMessage,
    Req,
    delivered_prefix,
    encode_client_message,
    encode_relay_message,
    has_duplicate_keys,
    parse_client_message,
    parse_relay_message,
)

KEY = SecretKey(bytes(31) + b"\3")
EVENT = sign(KEY, created_at=1700000000, kind=1, tags=[["t", "a"]], content="b\x7f\x00☕")
JSON = encode(EVENT)
VALUE: dict[str, Any] = orjson.loads(JSON)


def refusal_of(text: bytes) -> Ok | Closed | NegErr | Notice:
    """Return the answer to a message that must be refused."""
    with pytest.raises(InvalidMessage) as refused:
        parse_client_message(text)
    return refused.value.answer


def framed(name: str, value: object) -> bytes:
    return orjson.dumps([name, value])


# EVENT and AUTH.


def test_event_is_read_with_its_canonical_json() -> None:
    assert parse_client_message(b'["EVENT",' + JSON + b"]") == Publish(EVENT, JSON)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(["EVENT", VALUE]),
        json.dumps(["EVENT", VALUE], indent=2, ensure_ascii=False),
        json.dumps(["EVENT", dict(reversed(VALUE.items()))]),
        json.dumps(["EVENT", {**VALUE, "extra": {"nested": [1, None]}}]),
        '\t\n ["\\u0045VENT",' + JSON.decode() + "] \r\n",
    ],
    ids=["spaces and escapes", "indented", "reversed", "unknown field", "escaped name"],
)
def test_event_written_another_way_has_the_same_canonical_json(text: str) -> None:
    assert parse_client_message(text.encode()) == Publish(EVENT, JSON)


def test_auth_is_read() -> None:
    assert parse_client_message(b'["AUTH",' + JSON + b"]") == Auth(EVENT)


@pytest.mark.parametrize("name", ["EVENT", "AUTH"])
def test_malformed_event_with_an_id_is_answered_by_ok_false(name: str) -> None:
    answer = refusal_of(framed(name, {**VALUE, "kind": 1.5}))

    assert answer == Ok(EVENT.id, False, "invalid: kind must be an integer from 0 to 65535")


@pytest.mark.parametrize("id_", ["", "x", EVENT.id.upper(), "0" * 128])
def test_malformed_id_is_repeated_as_it_came(id_: str) -> None:
    assert refusal_of(framed("EVENT", {**VALUE, "id": id_})) == Ok(
        id_, False, "invalid: id must be 64 lowercase hex digits"
    )


@pytest.mark.parametrize(
    "value", [{}, {"id": 1}, {"id": None}, {"id": "0" * 129}, "text", None, 1, [JSON.decode()]]
)
def test_event_without_a_name_is_answered_by_notice(value: object) -> None:
    answer = refusal_of(framed("EVENT", value))

    assert isinstance(answer, Notice)
    assert answer.text.startswith("invalid: ")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b'["EVENT"]', Notice("invalid: EVENT takes one event")),
        (b'["AUTH"]', Notice("invalid: AUTH takes one event")),
        (b'["EVENT",{},{}]', Notice("invalid: EVENT takes one event")),
        (b'["EVENT",' + JSON + b",1]", Ok(EVENT.id, False, "invalid: EVENT takes one event")),
    ],
)
def test_event_message_takes_exactly_one_event(text: bytes, answer: Ok | Notice) -> None:
    assert refusal_of(text) == answer


@pytest.mark.parametrize("name", ["EVENT", "AUTH"])
@pytest.mark.parametrize(
    "extra",
    [
        b'"id":"' + b"0" * 64 + b'",',
        b'"kind":1,',
        b'"kind":7,',
        b'"content":"",',
        b'"":0,"":0,',
        b'"\\u0069d":"0",',
        b'"x":{"y":1,"y":1},',
        b'"x":[[{"y":1,"y":2}]],',
    ],
)
@pytest.mark.parametrize("at_end", [False, True])
def test_field_named_twice_is_refused(name: str, extra: bytes, at_end: bool) -> None:
    body = JSON[:-1] + b"," + extra[:-1] + b"}" if at_end else b"{" + extra + JSON[1:]

    answer = refusal_of(b'["' + name.encode() + b'",' + body + b"]")

    assert isinstance(answer, Ok)
    assert not answer.accepted
    assert answer.reason.startswith("invalid: ")


def test_field_named_twice_with_the_right_value_last_names_the_reason() -> None:
    answer = refusal_of(b'["EVENT",{"kind":7,' + JSON[1:] + b"]")

    assert answer == Ok(EVENT.id, False, "invalid: the event names a field twice")


def spellings(char: str) -> list[str]:
    """Return every way to write one character inside a JSON string."""
    units = [
        int.from_bytes(char.encode("utf-16-be")[i : i + 2])
        for i in range(0, len(char.encode("utf-16-be")), 2)
    ]
    short = {
        "\n": "\\n",
        '"': '\\"',
        "\\": "\\\\",
        "\r": "\\r",
        "\t": "\\t",
        "\b": "\\b",
        "\f": "\\f",
        "/": "\\/",
    }
    ways = ["".join(f"\\u{unit:04x}" for unit in units)]
    if char in short:
        ways.append(short[char])
    if ord(char) >= 0x20 and char not in '"\\':
        ways.append(char)
    return ways


def test_no_spelling_of_a_character_is_shorter_than_the_canonical_one() -> None:
    # The reason why a frame of the canonical length cannot hide a second field.
    for code in (*range(0x3000), 0xFEFF, 0xFFFF, 0x10000, 0x10FFFF):
        char = chr(code)
        canonical = orjson.dumps(char)
        lengths = []
        for spelling in spellings(char):
            text = f'"{spelling}"'.encode()
            assert orjson.loads(text) == char
            lengths.append(len(text))
        assert len(canonical) == min(lengths), hex(code)


@pytest.mark.parametrize("literal", [b"01", b"+1", b"1.", b".1", b"0x1", b"1_0", b"\xd9\xa3", b"1e"])
def test_other_spellings_of_numbers_are_not_json(literal: bytes) -> None:
    answer = refusal_of(b'["EVENT",' + JSON.replace(b'"kind":1,', b'"kind":' + literal + b",") + b"]")

    assert isinstance(answer, Notice)
    assert answer.text.startswith("invalid: not JSON: ")


@pytest.mark.parametrize(
    "literal", [b"1.0", b"1e0", b"1E0", b"10e-1", b"true", b'"1"', b"18446744073709551617", b"-1"]
)
def test_kind_that_is_no_plain_integer_is_refused(literal: bytes) -> None:
    answer = refusal_of(b'["EVENT",' + JSON.replace(b'"kind":1,', b'"kind":' + literal + b",") + b"]")

    assert answer == Ok(EVENT.id, False, "invalid: kind must be an integer from 0 to 65535")


@given(st.text(st.characters(exclude_categories=["Cs"])), st.booleans(), st.sampled_from([None, 2]))
def test_every_content_arrives_however_it_was_written(
    content: str, ascii_only: bool, indent: int | None
) -> None:
    event = sign(KEY, created_at=0, kind=1, content=content)
    text = json.dumps(["EVENT", orjson.loads(encode(event))], ensure_ascii=ascii_only, indent=indent)

    assert parse_client_message(text.encode()) == Publish(event, encode(event))


@pytest.mark.parametrize("depth", [900, 1000, 1020])
def test_unknown_field_nested_deeply_gives_a_message_or_a_refusal(depth: int) -> None:
    text = b'["EVENT",{"x":' + b"[" * depth + b"]" * depth + b"," + JSON[1:] + b"]"

    try:
        parsed = parse_client_message(text)
    except InvalidMessage as refused:
        assert refused.answer == Ok(EVENT.id, False, "invalid: the event is nested too deeply")
    else:
        assert parsed == Publish(EVENT, JSON)


def test_event_nested_deeper_than_the_stack_is_refused() -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: the event is nested too deeply$"):
        has_duplicate_keys(b"[" * 100_000 + b"]" * 100_000)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b'{"a":1,"b":1}', False),
        (b'{"a":1,"a":1}', True),
        (b'[{"a":1},{"a":1}]', False),
        (b'[[{"a":{"b":1,"b":2}}]]', True),
    ],
)
def test_duplicate_keys_are_found_at_every_depth(text: bytes, found: bool) -> None:
    assert has_duplicate_keys(text) is found


# REQ, COUNT and CLOSE.


def test_req_is_read() -> None:
    assert parse_client_message(b'["REQ","sub",{"kinds":[1]},{"limit":5}]') == Req(
        "sub", (Filter(kinds=frozenset({1})), Filter(limit=5))
    )


def test_count_is_read() -> None:
    assert parse_client_message(b'["COUNT","q",{}]') == Count("q", (Filter(),))


@pytest.mark.parametrize("text", [b'["CLOSE","sub"]', b'["CLOSE","sub","more"]'])
def test_close_is_read(text: bytes) -> None:
    assert parse_client_message(text) == Close("sub")


@pytest.mark.parametrize("name", ["x", "x" * 64, "☕" * 64, "👩" * 64, 'quo"te', " ", "\x00"])
def test_subscription_id_of_1_to_64_characters_is_read(name: str) -> None:
    assert parse_client_message(framed("CLOSE", name)) == Close(name)


@pytest.mark.parametrize("kind", ["REQ", "COUNT", "CLOSE"])
@pytest.mark.parametrize("name", ["", "x" * 65, "☕" * 65])
def test_subscription_id_of_another_length_is_refused(kind: str, name: str) -> None:
    assert refusal_of(orjson.dumps([kind, name, {}])) == Notice(
        "invalid: a subscription id has 1 to 64 characters"
    )


@pytest.mark.parametrize("kind", ["REQ", "COUNT", "CLOSE"])
@pytest.mark.parametrize("rest", [[], [1], [None], [True], [["sub"]], [{}]])
def test_subscription_id_must_be_a_string(kind: str, rest: list[object]) -> None:
    assert refusal_of(orjson.dumps([kind, *rest])) == Notice(
        f"invalid: {kind} takes a subscription id, a string"
    )


@pytest.mark.parametrize("kind", ["REQ", "COUNT"])
def test_request_without_filters_is_closed(kind: str) -> None:
    assert refusal_of(orjson.dumps([kind, "sub"])) == Closed(
        "sub", f"invalid: {kind} takes at least one filter"
    )


@pytest.mark.parametrize("kind", ["REQ", "COUNT"])
@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (b"[]", "invalid: a filter is a JSON object"),
        (b'{"kinds":1}', "invalid: kinds must be an array"),
        (b'{"limit":-1}', "invalid: limit must not be negative"),
        (b'{"#xx":["a"]}', "unsupported: filter contains unknown elements: '#xx'"),
    ],
)
def test_request_with_a_malformed_filter_is_closed(kind: str, wanted: bytes, reason: str) -> None:
    assert refusal_of(b'["' + kind.encode() + b'","sub",{},' + wanted + b"]") == Closed("sub", reason)


# NEG-OPEN, NEG-MSG and NEG-CLOSE.


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'["NEG-OPEN","n"]', "invalid: a filter is a JSON object"),
        (b'["NEG-OPEN","n",[{}],"61"]', "invalid: a filter is a JSON object"),
        (b'["NEG-OPEN","n",{"kinds":1},"61"]', "invalid: kinds must be an array"),
        (b'["NEG-OPEN","n",{"x":1},"61"]', "unsupported: filter contains unknown elements: 'x'"),
    ],
)
def test_reconciliation_with_a_malformed_filter_is_refused(text: bytes, reason: str) -> None:
    assert refusal_of(text) == NegErr("n", reason)


@pytest.mark.parametrize("start", [b'["NEG-OPEN","n",{}', b'["NEG-MSG","n"'])
@pytest.mark.parametrize(
    "rest", [b"", b',""', b',"6"', b',"6g"', b',"6 1"', b',"\xc3\xa9"', b",61", b',"61",1']
)
def test_negentropy_message_that_is_not_hex_is_refused(start: bytes, rest: bytes) -> None:
    name = "NEG-OPEN" if b"OPEN" in start else "NEG-MSG"

    assert refusal_of(start + rest + b"]") == NegErr(
        "n", f"invalid: {name} takes a Negentropy message in hex as its last element"
    )


@pytest.mark.parametrize("kind", ["NEG-OPEN", "NEG-MSG", "NEG-CLOSE"])
def test_reconciliation_without_a_name_is_answered_by_notice(kind: str) -> None:
    assert refusal_of(orjson.dumps([kind])) == Notice(f"invalid: {kind} takes a subscription id, a string")


# What is no message.


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"hello",
        b'["REQ","s",{}',
        b'["REQ","s",{}],',
        b'["REQ","s",{"since":NaN}]',
        b'["REQ","s",{"since":Infinity}]',
        b'["REQ","s",{"since":' + b"9" * 5000 + b"}]",
        b'["CLOSE","\\ud800"]',
        b'["CLOSE","\\udc00\\ud800"]',
        b'["CLOSE","\xff"]',
        b'["CLOSE","\xed\xa0\x80"]',
        b'["CLOSE","\xc0\xaf"]',
        b'["CLOSE","a\x01"]',
        b'["CLOSE","a\n"]',
        b'\xef\xbb\xbf["CLOSE","s"]',
        '["CLOSE","s"]'.encode("utf-16"),
        b"['CLOSE','s']",
        b'["CLOSE","s",]',
        b'["CLOSE","s"]//',
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 50_000,
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_is_not_json_is_answered_by_notice(text: bytes) -> None:
    answer = refusal_of(text)

    assert isinstance(answer, Notice)
    assert answer.text.startswith("invalid: not JSON: ")
    assert len(answer.text) < 200


@pytest.mark.parametrize(
    "text", [b"{}", b"[]", b"null", b"1", b'"EVENT"', b"[1]", b"[null]", b'[["EVENT"]]', b"[{}]"]
)
def test_what_is_no_array_with_a_name_is_answered_by_notice(text: bytes) -> None:
    assert refusal_of(text) == Notice(
        'invalid: a message is a JSON array that starts with "EVENT", "REQ", "CLOSE", "COUNT" or "AUTH"'
    )


@pytest.mark.parametrize("name", ["", "event", "OK", "NEG-ERR", "EOSE"])
def test_unknown_message_is_unsupported(name: str) -> None:
    assert refusal_of(framed(name, "x")) == Notice(f"unsupported: unknown message type {name!r}")


def test_long_unknown_message_is_not_repeated_in_full() -> None:
    assert refusal_of(framed("x" * 10_000, 1)) == Notice(f"unsupported: unknown message type {'x' * 32!r}")


def test_refusal_reads_as_its_answer() -> None:
    assert str(InvalidMessage(Notice("invalid: a"))) == "invalid: a"
    assert str(InvalidMessage(Closed("s", "invalid: b"))) == "invalid: b"


@pytest.mark.parametrize("text", [b"[" + b"0," * 1_000_000 + b"0]", b'["EVENT",' + b"0," * 1_000_000 + b"0]"])
def test_array_of_a_million_elements_is_refused(text: bytes) -> None:
    assert isinstance(refusal_of(text), Notice)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
broken_events = st.dictionaries(st.sampled_from(sorted(VALUE)), json_values).map(
    lambda change: {**VALUE, **change}
)
named = st.tuples(
    st.sampled_from(
        [
            "EVENT",
            "REQ",
            "COUNT",
            "CLOSE",
            "AUTH",
            "OK",
            "EOSE",
            "CLOSED",
            "NOTICE",
            "NEG-OPEN",
            "NEG-MSG",
            "NEG-CLOSE",
            "NEG-ERR",
        ]
    ),
    json_values | broken_events,
    json_values
    | st.dictionaries(st.sampled_from(["ids", "kinds", "#t", "since", "limit", "search"]), json_values),
)


@given(st.one_of(json_values, named, named.map(lambda message: message[:2])))
def test_any_json_is_read_or_answered_by_both_sides(value: object) -> None:
    text = json.dumps(value).encode("utf-8", "surrogatepass")
    for parse in (parse_client_message, parse_relay_message):
        try:
            parse(text)
        except InvalidMessage as refused:
            encode_relay_message(refused.answer)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_answered_by_both_sides(text: bytes) -> None:
    for parse in (parse_client_message, parse_relay_message):
        try:
            parse(text)
        except InvalidMessage as refused:
            encode_relay_message(refused.answer)


# Writing, and reading what a relay writes.


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Ok("ab", True, ""), b'["OK","ab",true,""]'),
        (Ok("ab", False, 'pow: "26"'), b'["OK","ab",false,"pow: \\"26\\""]'),
        (Eose("s"), b'["EOSE","s"]'),
        (Eose("s", ("finish",)), b'["EOSE","s",["finish"]]'),
        (Closed('s"', "error: x"), b'["CLOSED","s\\"","error: x"]'),
        (Notice("☕"), '["NOTICE","☕"]'.encode()),
        (Challenge("c"), b'["AUTH","c"]'),
        (Counted("q", 7), b'["COUNT","q",{"count":7}]'),
        (
            Counted("q", 7, b"\x0a" + bytes(255)),
            b'["COUNT","q",{"count":7,"hll":"0a' + b"00" * 255 + b'"}]',
        ),
        (Delivered('s"', EVENT), b'["EVENT","s\\"",' + JSON + b"]"),
        (NegMsg("n", b"\x61\xff"), b'["NEG-MSG","n","61ff"]'),
        (NegErr("n", "closed: idle"), b'["NEG-ERR","n","closed: idle"]'),
        (NegErr("n", "blocked: too big", 1000), b'["NEG-ERR","n","blocked: too big",1000]'),
    ],
)
def test_relay_message_is_written_and_read(message: RelayMessage, text: bytes) -> None:
    assert encode_relay_message(message) == text
    assert parse_relay_message(text) == message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Publish(EVENT, JSON), b'["EVENT",' + JSON + b"]"),
        (Auth(EVENT), b'["AUTH",' + JSON + b"]"),
        (Req("s", (Filter(limit=0), Filter(kinds=frozenset({1})))), b'["REQ","s",{"limit":0},{"kinds":[1]}]'),
        (Count("s", (Filter(),)), b'["COUNT","s",{}]'),
        (Close("s"), b'["CLOSE","s"]'),
        (NegOpen("n", Filter(limit=0), b"\x61"), b'["NEG-OPEN","n",{"limit":0},"61"]'),
        (NegMsg("n", b"\x61\xff"), b'["NEG-MSG","n","61ff"]'),
        (NegClose("n"), b'["NEG-CLOSE","n"]'),
    ],
)
def test_client_message_is_written_and_read(message: ClientMessage, text: bytes) -> None:
    assert encode_client_message(message) == text
    assert parse_client_message(text) == message


def test_delivered_event_may_be_spliced() -> None:
    assert delivered_prefix('s"☕') + JSON + b"]" == encode_relay_message(Delivered('s"☕', EVENT))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'["OK","ab",true]', Ok("ab", True, "")),
        (b'["OK","ab",true,null]', Ok("ab", True, "")),
        (b'["EOSE","s",["finish","of tomorrow",1,null]]', Eose("s", ("finish", "of tomorrow"))),
        (b'["EOSE","s",[]]', Eose("s")),
        (b'["EOSE","s","finish"]', Eose("s")),
        (b'["CLOSED","s"]', Closed("s", "")),
        (b'["CLOSED","s",1]', Closed("s", "")),
        (b'["COUNT","q",{"count":7,"approximate":true}]', Counted("q", 7)),
        (b'["COUNT","q",{"hll":"' + b"ff" * 256 + b'","count":7}]', Counted("q", 7, b"\xff" * 256)),
        (b'["COUNT","q",{"count":7,"hll":"' + b"FF" * 256 + b'"}]', Counted("q", 7)),
        (b'["COUNT","q",{"count":7,"hll":"' + b"ff" * 255 + b'"}]', Counted("q", 7)),
        (b'["COUNT","q",{"count":7,"hll":7}]', Counted("q", 7)),
        (json.dumps(["EVENT", "s", {**VALUE, "extra": 1}]).encode(), Delivered("s", EVENT)),
        (b'["NEG-ERR","n","blocked: x",null]', NegErr("n", "blocked: x")),
        (b'["NEG-MSG","n","61FF"]', NegMsg("n", b"\x61\xff")),
    ],
)
def test_relay_message_of_another_relay_is_read(text: bytes, message: RelayMessage) -> None:
    assert parse_relay_message(text) == message


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"[1]",
        b'["EVENT"]',
        b'["EVENT","s"]',
        b'["EVENT",{}]',
        b'["EVENT","s",[]]',
        b'["EVENT","s",{}]',
        b'["EVENT",1,' + JSON + b"]",
        b'["OK","ab"]',
        b'["OK","ab",1,""]',
        b'["OK",1,true,""]',
        b'["EOSE"]',
        b'["CLOSED"]',
        b'["NOTICE"]',
        b'["NOTICE",1]',
        b'["AUTH",{}]',
        b'["COUNT","q",{}]',
        b'["COUNT","q",{"count":true}]',
        b'["COUNT","q",{"count":1.5}]',
        b'["COUNT","q",7]',
        b'["REQ","s",{}]',
        b'["NEG-MSG","n"]',
        b'["NEG-MSG","n","6"]',
        b'["NEG-ERR","n"]',
        b"[" * 5000,
    ],
    ids=lambda text: repr(text[:24]),
)
def test_what_no_relay_sends_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidMessage, match=r"^invalid: "):
        parse_relay_message(text)


def test_event_of_a_relay_is_checked_for_shape_only() -> None:
    forged = Event(EVENT.id, EVENT.pubkey, 0, 1, (), "", EVENT.sig)

    assert parse_relay_message(b'["EVENT","s",' + encode(forged) + b"]") == Delivered("s", forged)
