"""Bodies and names."""

import pytest

from bridge.text import Text, clean_name, plain, rich, shorten


def test_plain_text_survives_being_a_body() -> None:
    assert plain(rich("one\ntwo")) == "one\ntwo"


def test_a_lone_surrogate_does_not_get_into_a_body() -> None:
    assert plain(rich("a\ud800b")) == "a?b"


def test_empty_text_is_an_empty_body() -> None:
    assert rich("") == ()


def test_a_body_that_fits_is_not_touched() -> None:
    body = (Text("twelve "), Text("bytes"))

    assert shorten(body, 12) is body


def test_a_long_body_is_cut_between_characters_and_ends_with_an_ellipsis() -> None:
    # "ä" has two bytes, "…" has three: three of the five fit beside it.
    assert plain(shorten(rich("äääää"), 9)) == "äää…"
    assert plain(shorten(rich("äääää"), 8)) == "ää…"


@pytest.mark.parametrize(
    ("shown", "cleaned"),
    [
        ("Alice", "Alice"),
        ("  Alice \n B. ", "Alice B."),
        ("\u202eecilA", "ecilA"),
        ("Al\u200bice\ufeff", "Alice"),
        ("\u2066\u2069", None),
        ("Al\ud800ice", "Al ice"),
        ("", None),
        (None, None),
        ("x" * 300, "x" * 100),
    ],
)
def test_names_lose_what_could_hide_or_turn_them(shown: str | None, cleaned: str | None) -> None:
    assert clean_name(shown) == cleaned
