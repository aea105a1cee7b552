"""Texts and questions become the same words."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.search.words import MAX_CONTENT, MAX_UNITS, Text, entry_of, fold, parse_question, text_of, words
from tests.events import ALICE, event, note


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("don't #bitcoin v0.3 a_b", ["don", "t", "bitcoin", "v0", "3", "a", "b"]),
        ("Rødgrød med fløde på Århus' café", ["rodgrod", "med", "flode", "pa", "arhus", "cafe"]),
        ("Æblegrød Þór ŁÓDŹ Straße", ["aeblegrod", "thor", "lodz", "strasse"]),
        ("Привет мир, ёлка", ["привет", "мир", "елка"]),
        ("Καλημέρα κόσμε", ["καλημερα", "κοσμε"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("日本語のテスト", ["日本", "本語", "語の", "のテ", "テス", "スト"]),
        ("東京 2026年 AI時代", ["東京", "2026", "年", "ai", "時代"]),
        ("人", ["人"]),
        ("한국어 검색", ["한국", "국어", "검색"]),
        ("ｆｕｌｌ ｗｉｄｔｈ ﬁne", ["full", "width", "fine"]),
        ("がぎぐ", ["がぎ", "ぎぐ"]),
        ("🤙 zap⚡zap", ["🤙", "zap", "⚡", "zap"]),
        ("https://example.com/a?b=c", ["https", "example", "com", "a", "b", "c"]),
        ("f" * 64 + " short", ["short"]),
        ("!?… \0 \n", []),
    ],
)
def test_a_text_falls_into_words(text: str, found: list[str]) -> None:
    assert words(fold(text)) == found


@given(st.text())
@example("İstanbul ﷺ Ǆ")
def test_words_hold_nothing_that_a_question_to_the_index_would_misread(text: str) -> None:
    for word in words(fold(text)):
        assert word.isascii() is False or word.isalnum()
        assert not set(word) & set('"*^:()- \0\ue000\ue001')


@given(st.text())
def test_whatever_an_event_says_is_found_by_saying_the_same(text: str) -> None:
    asked = parse_question(f'"{text.replace(chr(34), " ")}"')

    assert not asked.units or asked.are_in(entry_of(Text("", text)))


def test_a_single_character_of_a_dense_script_is_found() -> None:
    entry = entry_of(Text("", "日本語のテスト"))

    assert all(parse_question(character).are_in(entry) for character in "日本語のテスト")
    assert not parse_question("東").are_in(entry)


def test_characters_that_do_not_stand_together_are_no_word() -> None:
    entry = entry_of(Text("", "京都と東"))

    assert parse_question("京都").are_in(entry)
    assert not parse_question("東京").are_in(entry)


def test_a_phrase_wants_its_words_side_by_side() -> None:
    entry = entry_of(Text("", "the square is open"))

    assert parse_question('"square is"').are_in(entry)
    assert parse_question("open square").are_in(entry)
    assert not parse_question('"open square"').are_in(entry)


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("best nostr apps", ("best", "nostr", "apps")),
        ("best best BEST", ("best",)),
        ('"to be" or not', ("to be", "or", "not")),
        ("don't https://example.com 12:30", ("don t", "https example com", "12 30")),
        ("nsfw:false language:da brød", ("brod",)),
        ('"nsfw:false"', ("nsfw false",)),
        ('"unclosed phrase', ("unclosed phrase",)),
        (
            "a AND (b OR NOT c*) NEAR/2 ^d -e {x} : y",
            ("a", "and", "b", "or", "not", "c", "near 2", "d", "e", "x", "y"),
        ),
        ("日本 語", ("日本", "語")),
    ],
)
def test_a_question_is_words_and_phrases(text: str, units: tuple[str, ...]) -> None:
    asked = parse_question(text)

    assert asked.units == units
    assert not asked.is_blank


@pytest.mark.parametrize("text", ["", "  ", "include:spam", "domain:example.com nsfw:true", '""'])
def test_a_question_of_extensions_alone_asks_for_no_words(text: str) -> None:
    assert parse_question(text).is_blank


@pytest.mark.parametrize("text", ["!!!", "( ) *", '"?"'])
def test_a_question_of_signs_alone_finds_nothing(text: str) -> None:
    asked = parse_question(text)

    assert not asked.is_blank
    assert not asked.are_in(entry_of(Text("", "! ( ) * ?")))


def test_a_long_question_is_cut() -> None:
    asked = parse_question(" ".join(f"w{n}" for n in range(1_000)))

    assert asked.units == tuple(f"w{n}" for n in range(MAX_UNITS))


def test_words_that_are_spelled_with_diacritics_are_remembered() -> None:
    assert entry_of(Text("", "får far FÅR")).accented == " får "
    assert parse_question("Får far").accented == ("får",)


def test_a_profile_is_found_by_its_names_and_by_what_it_says() -> None:
    profile = event(
        ALICE,
        0,
        '{"name":"alice","display_name":"Alice A.","nip05":"al@b.dk","about":"hi","x":1,"lud16":"z@z"}',
    )

    assert text_of(profile) == ("alice\nAlice A.\nal@b.dk", "hi")


@pytest.mark.parametrize("content", ["", "{", "[]", "7", '{"name":7,"about":null}'])
def test_a_profile_that_says_nothing_readable_has_no_text(content: str) -> None:
    assert entry_of(text_of(event(ALICE, 0, content))).body == ""


def test_titles_summaries_options_and_hashtags_count() -> None:
    article = event(
        ALICE,
        30_023,
        "the text",
        tags=[["title", "On squares"], ["summary", "short"], ["t", "town"], ["d", "x"]],
    )
    poll = event(
        ALICE, 1068, "Which?", tags=[["option", "a1", "Tea"], ["option", "a2", "Coffee"], ["option"]]
    )

    assert text_of(article) == ("On squares", "the text\nshort\ntown")
    assert text_of(poll) == ("", "Which?\nTea\nCoffee")


def test_of_a_very_long_text_the_beginning_counts() -> None:
    long = note(ALICE, "x " * MAX_CONTENT + "end")

    assert entry_of(text_of(long)).body.split() == ["x"] * (MAX_CONTENT // 2)
