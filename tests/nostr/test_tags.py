"""Reading tags and addresses."""

import pytest

from relay.nostr.tags import Address, first_value, indexed, parse_address, seconds, values

KEY = "3bf0c63fcb93463407af97a5e5ee64fa883d107ef9e558472c4eb9aaaefa459d"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (f"30023:{KEY}:", Address(30023, KEY, "")),
        (f"30023:{KEY}:post", Address(30023, KEY, "post")),
        (f"30023:{KEY}:a:b::c", Address(30023, KEY, "a:b::c")),
        (f"39999:{KEY}:\n", Address(39999, KEY, "\n")),
        (f"0:{KEY}:", Address(0, KEY, "")),
        (f"0:{KEY}", Address(0, KEY, "")),
        (f"10002:{KEY}:ignored", Address(10002, KEY, "")),
    ],
)
def test_address_is_read(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "30023",
        f"30023:{KEY}",
        f"1:{KEY}:",
        f"20001:{KEY}:",
        f"40000:{KEY}:x",
        f"65536:{KEY}:",
        f"99999:{KEY}:",
        f"130023:{KEY}:",
        f"030023:{KEY}:",
        f"00:{KEY}:",
        f"+30023:{KEY}:",
        f"-1:{KEY}:",
        f"30_023:{KEY}:",
        f" 30023:{KEY}:",
        f"30023 :{KEY}:",
        f"٣٠٠٢٣:{KEY}:",
        f"30023:{KEY.upper()}:",
        f"30023:{KEY[1:]}:",
        f"30023:{KEY}\n:",
        f"30023: {KEY[1:]}:",
        "30023::x",
    ],
)
def test_what_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


def test_address_is_written_with_colons() -> None:
    assert str(Address(30023, KEY, "a:b")) == f"30023:{KEY}:a:b"
    assert str(Address(0, KEY, "")) == f"0:{KEY}:"


def test_first_value_is_of_the_first_tag_of_that_name() -> None:
    tags = ((), ("",), ("e", "x"), ("d", "one", "more"), ("d", "two"))

    assert first_value(tags, "d") == "one"
    assert first_value(tags, "p") is None
    assert first_value(tags, "") is None


def test_first_tag_counts_even_without_value() -> None:
    assert first_value((("d",), ("d", "two")), "d") is None


def test_values_come_in_order_from_tags_that_have_one() -> None:
    tags = ((), ("p",), ("p", "b"), ("e", "x"), ("p", "a", "more"), ("p", "b"))

    assert values(tags, "p") == ["b", "a", "b"]


def test_only_the_first_value_of_single_letter_tags_is_indexed() -> None:
    tags = (
        (),
        ("",),
        ("", "empty name"),
        ("e",),
        ("e", "1", "2"),
        ("E", "3"),
        ("ee", "4"),
        ("1", "digit"),
        ("-", "dash"),
        ("é", "not ASCII"),
        ("t", ""),
    )

    assert indexed(tags) == {("e", "1"), ("E", "3"), ("t", "")}


@pytest.mark.parametrize(("text", "read"), [("0", 0), ("1700000000", 1_700_000_000), ("9" * 12, 10**12 - 1)])
def test_unix_time_is_read(text: str, read: int) -> None:
    assert seconds(text) == read


@pytest.mark.parametrize(
    "text", ["", "9" * 13, "9" * 20, "-1", "+1", "1.0", "1e3", "1_000", " 1", "1\n", "٣", "²", "0x1", "soon"]
)
def test_what_is_no_unix_time_is_none(text: str) -> None:
    assert seconds(text) is None
