"""Reading events, and their canonical form: for every string there is."""

import json
from hashlib import sha256
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.nostr.event import (
    Event,
    EventId,
    InvalidEvent,
    PubKey,
    check_event,
    compute_id,
    decode,
    encode,
    has_right_id,
    has_right_signature,
    parse_event,
    serialize,
    serialize_verbatim,
    sign,
)
from relay.nostr.keys import SecretKey
from relay.nostr.tags import Address

KEY = SecretKey(bytes(31) + b"\3")
OTHER = SecretKey(bytes(31) + b"\4")
PUBKEY = "f9308a019258c31049344f85f89d5229b531c845836f99b08601f113bce036f9"

# Signed by the key 3 with zero randomness; id and signature are written out, not recomputed.
ID = "fd325b8bbdf5e78a0bd6c3b9fe1f365aef5f67e212ed4d2ac3a1dd8692350611"
SIG = (
    "3d1f7a5dc216b62a70ed68529791ddc5af4ca0af777817cd5c76158fdeb4ad3a"
    "7b6efc68036f39f53cd5c3ec07a24b755d210ed7fd5715fa7a0b69528d31deec"
)
SIGNED: dict[str, Any] = {
    "id": ID,
    "pubkey": PUBKEY,
    "created_at": 1700000000,
    "kind": 1,
    "tags": [["t", "square"], ["e"], [], [""]],
    "content": 'Hello, "Torv" \\ ☕',
    "sig": SIG,
}
EVENT = Event(
    EventId(ID),
    PubKey(PUBKEY),
    1700000000,
    1,
    (("t", "square"), ("e",), (), ("",)),
    'Hello, "Torv" \\ ☕',
    SIG,
)

any_text = st.text(st.characters(exclude_categories=["Cs"]))
any_tags = st.lists(st.lists(any_text, max_size=4), max_size=4)
seconds = st.integers(0, 2**32 - 1)
any_kind = st.integers(0, 65535)


def changed(**fields: Any) -> dict[str, Any]:
    return {**SIGNED, **fields}


def naive(text: str) -> str:
    """Write a JSON string by NIP-01's list of escapes, all else verbatim."""
    escapes = {
        "\n": "\\n",
        '"': '\\"',
        "\\": "\\\\",
        "\r": "\\r",
        "\t": "\\t",
        "\b": "\\b",
        "\f": "\\f",
    }
    return '"' + "".join(escapes.get(c, c) for c in text) + '"'


# Reading.


def test_event_is_read() -> None:
    assert parse_event(SIGNED) == EVENT


def test_unknown_fields_are_dropped() -> None:
    assert parse_event(changed(seen_on=["wss://relay.example"])) == EVENT


@pytest.mark.parametrize("field", ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"])
def test_event_without_a_field_is_refused_by_its_name(field: str) -> None:
    value = {name: each for name, each in SIGNED.items() if name != field}

    with pytest.raises(InvalidEvent, match=f"^invalid: the event has no {field}$"):
        parse_event(value)


@pytest.mark.parametrize("value", [None, [], "event", 1, True, [SIGNED]])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: an event is a JSON object$"):
        parse_event(value)


@pytest.mark.parametrize("field", ["id", "pubkey"])
@pytest.mark.parametrize(
    "value",
    [
        "",
        PUBKEY.upper(),
        PUBKEY[:-1],
        PUBKEY + "0",
        PUBKEY + "\n",
        PUBKEY[:-1] + "g",
        " " + PUBKEY[1:],
        "٣" * 64,
        None,
        1,
        [PUBKEY],
    ],
)
def test_id_and_pubkey_must_be_64_lowercase_hex_digits(field: str, value: object) -> None:
    with pytest.raises(InvalidEvent, match=f"^invalid: {field} must be 64 lowercase hex digits$"):
        parse_event(changed(**{field: value}))


@pytest.mark.parametrize("value", ["", "F" * 128, "a" * 127, "a" * 129, "a" * 128 + "\n", " " * 128, None, 0])
def test_sig_must_be_128_lowercase_hex_digits(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: sig must be 128 lowercase hex digits$"):
        parse_event(changed(sig=value))


@pytest.mark.parametrize("value", [-1, 2**32, 2**63, 1.0, 1e3, True, False, "1700000000", None, []])
def test_created_at_must_be_an_integer_of_32_bits(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: created_at must be an integer from 0 to 4294967295$"):
        parse_event(changed(created_at=value))


@pytest.mark.parametrize("value", [-1, 65536, 2**63, 1.0, 1e3, True, False, "1", None, []])
def test_kind_must_be_an_integer_of_16_bits(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: kind must be an integer from 0 to 65535$"):
        parse_event(changed(kind=value))


@pytest.mark.parametrize("value", [0, 2**32 - 1])
def test_created_at_may_be_at_its_bounds(value: int) -> None:
    assert parse_event(changed(created_at=value)).created_at == value


@pytest.mark.parametrize("value", [0, 65535])
def test_kind_may_be_at_its_bounds(value: int) -> None:
    assert parse_event(changed(kind=value)).kind == value


@pytest.mark.parametrize("value", [None, 1, True, [], {}, ["text"]])
def test_content_must_be_a_string(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: content must be a string$"):
        parse_event(changed(content=value))


@pytest.mark.parametrize("value", [None, "", {}, 1])
def test_tags_must_be_an_array(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: tags must be an array$"):
        parse_event(changed(tags=value))


@pytest.mark.parametrize(
    "value", [["t"], [None], [{}], [["t", 1]], [["t", None]], [["t", True]], [["t", ["x"]]], [["ok"], [1.5]]]
)
def test_tags_must_be_arrays_of_strings(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: every tag must be an array of strings$"):
        parse_event(changed(tags=value))


def test_empty_tags_and_odd_references_are_accepted() -> None:
    event = parse_event(changed(tags=[[], [""], ["e", "not hex"], ["p"], ["e", "", "", ""]]))

    assert event.tags == ((), ("",), ("e", "not hex"), ("p",), ("e", "", "", ""))


def test_five_thousand_tags_are_read() -> None:
    tags = [["p", f"{n:064x}"] for n in range(5000)]

    assert len(parse_event(changed(tags=tags)).tags) == 5000


# Addresses.


@pytest.mark.parametrize(
    ("kind", "tags", "address"),
    [
        (1, (("d", "x"),), None),
        (20_000, (("d", "x"),), None),
        (40_000, (("d", "x"),), None),
        (0, (("d", "x"),), Address(0, PUBKEY, "")),
        (3, (), Address(3, PUBKEY, "")),
        (10_002, (), Address(10_002, PUBKEY, "")),
        (30_023, (("d", "x"),), Address(30_023, PUBKEY, "x")),
        (30_023, (("d", "a:b"), ("d", "y")), Address(30_023, PUBKEY, "a:b")),
        (30_023, (("d",), ("d", "y")), Address(30_023, PUBKEY, "")),
        (30_023, (), Address(30_023, PUBKEY, "")),
    ],
)
def test_event_competes_for_its_address(
    kind: int, tags: tuple[tuple[str, ...], ...], address: Address | None
) -> None:
    assert sign(KEY, created_at=0, kind=kind, tags=tags).address == address


# The canonical form.


def test_serialisation_has_no_whitespace_and_keeps_order() -> None:
    assert serialize(PUBKEY, 7, 1, [["t", "a b"], [], [""]], "x") == (
        b'[0,"' + PUBKEY.encode() + b'",7,1,[["t","a b"],[],[""]],"x"]'
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ('\n"\\\r\t\b\f', rb"\n\"\\\r\t\b\f"),
        ("/<>&'", b"/<>&'"),
        ("\x7f", b"\x7f"),
        ("\x80\x9f\xa0\xad", "\x80\x9f\xa0\xad".encode()),
        ("\u2028\u2029", "\u2028\u2029".encode()),
        ("\ufeff", "\ufeff".encode()),
        ("\ufffe\uffff\ufdd0\ufffd", "\ufffe\uffff\ufdd0\ufffd".encode()),
        ("é☕", "é☕".encode()),
        ("e\u0301", "e\u0301".encode()),
        ("👩‍👩‍👧", "👩‍👩‍👧".encode()),
        ("\U00010000\U0010ffff", "\U00010000\U0010ffff".encode()),
        ("\\u0041", rb"\\u0041"),
        ("\x00\x01\x0b\x1f", rb"\u0000\u0001\u000b\u001f"),
    ],
)
def test_text_is_written_the_canonical_way(text: str, written: bytes) -> None:
    assert serialize("", 0, 0, [], text) == b'[0,"",0,0,[],"' + written + b'"]'


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("\x00\x01\x0b\x1f", b"\x00\x01\x0b\x1f"),
        ('\n"\\\r\t\b\f\x7f', b'\\n\\"\\\\\\r\\t\\b\\f\x7f'),
        ("\\u0001", rb"\\u0001"),
        ("\\\x01", b"\\\\\x01"),
        ("\\\\u001f\x1f", b"\\\\\\\\u001f\x1f"),
    ],
)
def test_verbatim_form_has_control_characters_as_they_are(text: str, written: bytes) -> None:
    serialized = serialize("", 0, 0, [], text)

    assert serialize_verbatim(serialized) == b'[0,"",0,0,[],"' + written + b'"]'


def test_verbatim_form_is_nip_01_read_to_the_letter_for_every_code_point() -> None:
    for start in range(0, 0x110000, 0x800):
        if not 0xD800 <= start < 0xE000:
            text = "".join(map(chr, range(start, start + 0x800)))
            expected = f'[0,"",0,0,[],{naive(text)}]'.encode()
            assert serialize_verbatim(serialize("", 0, 0, [], text)) == expected, hex(start)


def test_canonical_form_differs_from_the_letter_in_27_control_characters() -> None:
    differing = [
        code
        for code in range(0x10000)
        if not 0xD800 <= code < 0xE000 and orjson.dumps(chr(code)).decode() != naive(chr(code))
    ]

    assert differing == [code for code in range(0x20) if chr(code) not in "\b\t\n\f\r"]
    assert len(differing) == 27


@given(any_text, any_tags, seconds, any_kind)
def test_canonical_form_equals_the_one_of_another_json_writer(
    content: str, tags: list[list[str]], created_at: int, kind: int
) -> None:
    other = json.dumps(
        [0, PUBKEY, created_at, kind, tags, content], ensure_ascii=False, separators=(",", ":")
    )

    assert serialize(PUBKEY, created_at, kind, tags, content) == other.encode()


@given(any_text, any_tags)
def test_verbatim_form_equals_the_letter_of_nip_01(content: str, tags: list[list[str]]) -> None:
    written_tags = ",".join("[" + ",".join(map(naive, tag)) + "]" for tag in tags)

    assert serialize_verbatim(serialize("", 0, 0, tags, content)) == (
        f'[0,"",0,0,[{written_tags}],{naive(content)}]'.encode()
    )


@pytest.mark.parametrize("text", ["\ud800", "\udfff", "a\udc00b", "\udc00\ud800"])
def test_lone_surrogate_is_refused(text: str) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: text must be valid Unicode$"):
        compute_id(PUBKEY, 0, 1, [], text)
    with pytest.raises(InvalidEvent, match=r"^invalid: text must be valid Unicode$"):
        compute_id(PUBKEY, 0, 1, [["t", text]], "")


# Id and signature.


def test_signing_gives_the_known_event() -> None:
    signed = sign(
        KEY,
        created_at=1700000000,
        kind=1,
        tags=[["t", "square"], ["e"], [], [""]],
        content='Hello, "Torv" \\ ☕',
    )

    assert signed == EVENT


def test_signed_event_checks() -> None:
    check_event(EVENT)


def test_event_with_another_id_is_refused() -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: id is not the hash of the event$"):
        check_event(parse_event(changed(id="0" * 64)))


@pytest.mark.parametrize(
    "change",
    [
        {"content": "Hello"},
        {"created_at": 1700000001},
        {"kind": 2},
        {"tags": []},
        {"pubkey": OTHER.public},
    ],
)
def test_event_changed_after_signing_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: id is not the hash of the event$"):
        check_event(parse_event(changed(**change)))


def test_wrong_id_that_is_signed_is_refused() -> None:
    forged = "ab" * 32

    event = parse_event(changed(id=forged, sig=KEY.sign(forged)))

    assert has_right_signature(event)
    with pytest.raises(InvalidEvent, match=r"^invalid: id is not the hash of the event$"):
        check_event(event)


def test_signature_by_another_key_is_refused() -> None:
    event = parse_event(changed(sig=OTHER.sign(SIGNED["id"])))

    assert has_right_id(event)
    with pytest.raises(InvalidEvent, match=r"^invalid: signature does not verify$"):
        check_event(event)


@pytest.mark.parametrize("sig", ["0" * 128, "f" * 128])
def test_signature_that_is_none_is_refused(sig: str) -> None:
    with pytest.raises(InvalidEvent, match=r"^invalid: signature does not verify$"):
        check_event(parse_event(changed(sig=sig)))


@pytest.mark.parametrize(
    "pubkey", ["eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34", "0" * 64, "f" * 64]
)
def test_author_that_is_no_point_of_the_curve_is_refused(pubkey: str) -> None:
    id_ = compute_id(pubkey, 0, 1, [], "")
    event = Event(id_, PubKey(pubkey), 0, 1, (), "", KEY.sign(id_))

    with pytest.raises(InvalidEvent, match=r"^invalid: signature does not verify$"):
        check_event(event)


def test_id_over_verbatim_control_characters_is_right_too() -> None:
    serialized = f'[0,"{PUBKEY}",0,1,[],"a\x01b\x00"]'.encode()
    id_ = EventId(sha256(serialized).hexdigest())

    check_event(Event(id_, PubKey(PUBKEY), 0, 1, (), "a\x01b\x00", KEY.sign(id_)))


def test_id_over_escaped_control_characters_is_right() -> None:
    serialized = f'[0,"{PUBKEY}",0,1,[],"a\\u0001b\\u0000"]'.encode()
    id_ = EventId(sha256(serialized).hexdigest())

    check_event(Event(id_, PubKey(PUBKEY), 0, 1, (), "a\x01b\x00", KEY.sign(id_)))


def test_wrong_id_of_an_event_with_control_characters_is_refused() -> None:
    assert not has_right_id(parse_event(changed(content="\x01")))


def test_id_over_an_escaped_delete_character_is_another_one() -> None:
    # What strfry hashes; NIP-01 has DEL verbatim.
    id_ = EventId(sha256(f'[0,"{PUBKEY}",0,1,[],"\\u007f"]'.encode()).hexdigest())

    assert not has_right_id(Event(id_, PubKey(PUBKEY), 0, 1, (), "\x7f", KEY.sign(id_)))


@given(any_text, any_tags, seconds, any_kind)
def test_every_signed_event_checks_and_comes_back_from_json(
    content: str, tags: list[list[str]], created_at: int, kind: int
) -> None:
    event = sign(KEY, created_at=created_at, kind=kind, tags=tags, content=content)

    check_event(event)
    assert decode(encode(event)) == event
    assert parse_event(orjson.loads(encode(event))) == event
    assert parse_event(json.loads(encode(event))) == event


def test_event_is_written_in_the_order_of_nip_01() -> None:
    assert encode(EVENT).decode() == (
        f'{{"id":"{ID}","pubkey":"{PUBKEY}","created_at":1700000000,"kind":1,'
        '"tags":[["t","square"],["e"],[],[""]],"content":"Hello, \\"Torv\\" \\\\ ☕",'
        f'"sig":"{SIG}"}}'
    )
