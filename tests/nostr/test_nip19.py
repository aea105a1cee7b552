"""NIP-19 against its own examples, and every way in which text can be broken."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from bech32 import bech32_encode, convertbits
from hypothesis import given
from hypothesis import strategies as st

from relay.nostr.event import EventId, PubKey
from relay.nostr.keys import SecretKey
from relay.nostr.nip19 import (
    Entity,
    InvalidEntity,
    Naddr,
    Nevent,
    Note,
    Nprofile,
    Npub,
    Nrelay,
    Nsec,
    Writable,
    decode,
    encode,
    public_key,
    secret_key,
)
from relay.nostr.tags import Address

EXAMPLES = json.loads((Path(__file__).parent.parent / "data/nip19.json").read_text())
NPUB, NPUB_HEX = EXAMPLES[0]["text"], EXAMPLES[0]["pubkey"]
NSEC, NSEC_HEX = EXAMPLES[2]["text"], EXAMPLES[2]["secret"]
KEY = bytes.fromhex(NPUB_HEX)
NOTE_KIND = bytes((3, 4, 0, 0, 0, 1))
ARTICLE_KIND = bytes((3, 4, 0, 0, 0x75, 0x47))


def written(prefix: str, payload: bytes) -> str:
    """Return bech32 text with any payload."""
    groups = convertbits(payload, 8, 5)
    assert groups is not None
    return bech32_encode(prefix, groups)


def record(type_: int, value: bytes) -> bytes:
    return bytes((type_, len(value))) + value


def expected(example: Mapping[str, object]) -> Entity:
    match example:
        case {"relays": list(relays), "pubkey": str(pubkey)}:
            return Nprofile(PubKey(pubkey), tuple(relays))
        case {"pubkey": str(pubkey)}:
            return Npub(PubKey(pubkey))
    raise AssertionError(example)


@pytest.mark.parametrize("example", [e for e in EXAMPLES if "secret" not in e], ids=lambda e: e["text"][:12])
def test_example_of_the_nip_is_read_and_written(example: dict[str, str]) -> None:
    entity = decode(example["text"])

    assert entity == expected(example)
    assert not isinstance(entity, Nrelay)
    assert encode(entity) == example["text"]


def test_secret_key_of_the_nip_is_read_and_written() -> None:
    entity = decode(NSEC)

    assert isinstance(entity, Nsec)
    assert entity.secret.secret_bytes().hex() == NSEC_HEX
    assert encode(entity) == NSEC


hex_32 = st.binary(min_size=32, max_size=32).map(bytes.hex)
relay_lists = st.lists(st.text(st.characters(max_codepoint=127), max_size=60), max_size=4).map(tuple)
entities = st.one_of(
    st.builds(Npub, hex_32.map(PubKey)),
    st.builds(Note, hex_32.map(EventId)),
    st.builds(Nprofile, hex_32.map(PubKey), relay_lists),
    st.builds(
        Nevent,
        hex_32.map(EventId),
        relay_lists,
        st.none() | hex_32.map(PubKey),
        st.none() | st.integers(0, 65535),
    ),
    st.builds(
        Naddr,
        st.builds(Address, st.integers(30_000, 39_999), hex_32, st.text(max_size=60)),
        relay_lists,
    ),
    st.builds(
        Naddr,
        st.builds(Address, st.sampled_from([0, 3, 10_000, 19_999]), hex_32, st.just("")),
        relay_lists,
    ),
)


@given(entities)
def test_every_entity_survives_writing_and_reading(entity: Writable) -> None:
    text = encode(entity)

    assert decode(text) == entity
    assert decode(text.upper()) == entity


@given(st.text(max_size=200) | st.text("023456789acdefghjklmnpqrstuvwxyz1", max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        decode(text)
    except InvalidEntity:
        return


def test_relay_pointer_is_read_though_deprecated() -> None:
    assert decode(written("nrelay", record(0, b"wss://relay.example"))) == Nrelay("wss://relay.example")


def test_unknown_tlvs_are_ignored() -> None:
    payload = record(0, KEY) + record(200, b"from the future") + record(4, b"")

    assert decode(written("nprofile", payload)) == Nprofile(PubKey(NPUB_HEX))


def test_first_of_a_repeated_tlv_counts() -> None:
    payload = record(0, KEY) + record(0, b"\1" * 32) + NOTE_KIND + ARTICLE_KIND

    assert decode(written("nevent", payload)) == Nevent(EventId(NPUB_HEX), kind=1)


def test_order_of_tlvs_does_not_matter() -> None:
    payload = ARTICLE_KIND + record(1, b"wss://a") + record(2, KEY) + record(1, b"wss://b") + record(0, b"d")

    assert decode(written("naddr", payload)) == Naddr(Address(30023, NPUB_HEX, "d"), ("wss://a", "wss://b"))


def test_address_of_a_replaceable_kind_has_no_identifier() -> None:
    payload = record(0, b"stray") + record(2, KEY) + bytes((3, 4, 0, 0, 0, 0))

    assert decode(written("naddr", payload)) == Naddr(Address(0, NPUB_HEX, ""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not bech32"),
        ("npub1", "not bech32"),
        (NPUB[:-1] + "q", "checksum is wrong"),
        (NPUB[:-1], "checksum is wrong"),
        (NPUB.replace("npub", "nsec"), "checksum is wrong"),
        (NPUB[:-3] + NPUB[-3:].upper(), "checksum is wrong"),
        (" " + NPUB, "not bech32"),
        (NPUB + "\n", "not bech32"),
        ("nostr:" + NPUB, "checksum is wrong"),
        (NPUB_HEX, "not bech32"),
        ("n" * 5001, "longer than 5000 characters"),
        (bech32_encode("npub", [1]), "does not hold whole bytes"),
        (written("npub", KEY[1:]), "a public key has 32 bytes, not 31"),
        (written("npub", KEY + b"\0"), "a public key has 32 bytes, not 33"),
        (written("npub", b""), "a public key has 32 bytes, not 0"),
        (written("note", KEY[1:]), "an event id has 32 bytes, not 31"),
        (written("nsec", KEY[1:]), "a secret key has 32 bytes"),
        (written("nsec", bytes(32)), "out of the curve's range"),
        (written("bc", KEY), "expected text that starts with npub1"),
        (written("nprofile", b""), "nprofile without what it points to"),
        (written("nprofile", record(1, b"wss://a")), "nprofile without what it points to"),
        (written("nprofile", record(0, KEY[1:])), "a public key has 32 bytes, not 31"),
        (written("nprofile", record(0, KEY) + b"\1"), "cut short"),
        (written("nprofile", record(0, KEY) + b"\1\5abcd"), "cut short"),
        (written("nprofile", record(0, KEY) + record(1, "wss://é".encode())), "must be ASCII"),
        (written("nrelay", record(0, b"\xff")), "must be ASCII"),
        (written("nevent", record(0, KEY[1:])), "an event id has 32 bytes, not 31"),
        (written("nevent", record(0, KEY) + record(2, b"short")), "an author has 32 bytes, not 5"),
        (written("nevent", record(0, KEY) + record(3, b"\0\0\1")), "a kind is a 32-bit number"),
        (written("nevent", record(0, KEY) + record(3, b"\0\1\0\0")), "up to 65535"),
        (written("naddr", record(0, b"d") + ARTICLE_KIND), "naddr without an author"),
        (written("naddr", record(0, b"d") + record(2, KEY)), "naddr without a kind"),
        (written("naddr", record(2, KEY) + ARTICLE_KIND), "naddr without what it points to"),
        (written("naddr", record(0, b"\xff") + record(2, KEY) + ARTICLE_KIND), "must be UTF-8"),
        (written("naddr", record(0, b"d") + record(2, KEY) + NOTE_KIND), "events of kind 1 have no address"),
    ],
)
def test_broken_text_is_refused_by_cause(text: str, message: str) -> None:
    with pytest.raises(InvalidEntity, match=message):
        decode(text)


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        (Nprofile(PubKey(NPUB_HEX), ("wss://" + "a" * 250,)), "at most 255 bytes"),
        (Nprofile(PubKey(NPUB_HEX), ("wss://é",)), "must be ASCII"),
        (Nprofile(PubKey(NPUB_HEX), ("a" * 255,) * 20), "longer than 5000 characters"),
        (Naddr(Address(30023, NPUB_HEX, "é" * 128)), "at most 255 bytes"),
    ],
)
def test_what_a_tlv_cannot_hold_is_refused(entity: Writable, message: str) -> None:
    with pytest.raises(InvalidEntity, match=message):
        encode(entity)


@pytest.mark.parametrize("text", [NPUB, NPUB.upper(), NPUB_HEX])
def test_public_key_is_read_as_npub_or_hex(text: str) -> None:
    assert public_key(text) == "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"


@pytest.mark.parametrize("text", [NSEC, NSEC_HEX])
def test_secret_key_is_read_as_nsec_or_hex(text: str) -> None:
    assert secret_key(text).public == "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NPUB_HEX.upper(), "expected npub1… or 64 lowercase hex digits: not bech32"),
        ("alice", "expected npub1… or 64 lowercase hex digits: not bech32"),
        (NPUB[:-1], "expected npub1… or 64 lowercase hex digits: .*checksum"),
        (encode(Note(EventId(NPUB_HEX))), "^expected npub1… or 64 lowercase hex digits$"),
        (NSEC, "this is a secret key"),
    ],
)
def test_what_is_no_public_key_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        public_key(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NSEC_HEX.upper(), "expected nsec1… or 64 lowercase hex digits: not bech32"),
        (NSEC[:-1], "expected nsec1… or 64 lowercase hex digits: .*checksum"),
        (encode(Note(EventId(NPUB_HEX))), "^expected nsec1… or 64 lowercase hex digits$"),
        (NPUB, "this is a public key"),
        ("00" * 32, "out of the curve's range"),
    ],
)
def test_what_is_no_secret_key_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        secret_key(text)


@pytest.mark.parametrize(
    "text", [NSEC[:-1] + "q", NSEC.upper()[:-1], NSEC + "x", NSEC_HEX + "0", NSEC_HEX.upper()]
)
def test_errors_do_not_repeat_what_may_be_a_secret(text: str) -> None:
    with pytest.raises(ValueError) as error:
        secret_key(text)

    assert NSEC_HEX[:16] not in str(error.value).lower()
    assert NSEC[:16] not in str(error.value).lower()
    assert error.value.__cause__ is None


def test_secret_is_not_in_the_repr_of_its_entity() -> None:
    assert repr(Nsec(SecretKey(bytes.fromhex(NSEC_HEX)))) == "Nsec(secret=<SecretKey of 7e7e9c42>)"
