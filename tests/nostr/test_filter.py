"""Reading filters, and matching them against a naive reading of NIP-01."""

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.nostr.event import Event, EventId, PubKey
from relay.nostr.filter import Filter, InvalidFilter, encode_filter, parse_filter

A, B, C = "a" * 64, "b" * 64, "c" * 64
KEY_A, KEY_B = "1" * 64, "2" * 64


def event(
    *,
    id_: str = A,
    pubkey: str = KEY_A,
    created_at: int = 100,
    kind: int = 1,
    tags: tuple[tuple[str, ...], ...] = (),
) -> Event:
    """Return an event of any shape: filters do not look at signatures."""
    return Event(EventId(id_), PubKey(pubkey), created_at, kind, tags, "", "0" * 128)


# Reading.


def test_empty_filter_asks_for_everything() -> None:
    assert parse_filter({}) == Filter()


def test_all_conditions_are_read() -> None:
    wanted = parse_filter(
        {
            "ids": [A, B],
            "authors": [KEY_A],
            "kinds": [1, 0],
            "#e": [C],
            "#p": [KEY_B],
            "#t": ["square", ""],
            "#T": ["x"],
            "since": 10,
            "until": 20,
            "limit": 5,
            "search": "best nostr apps",
        }
    )

    assert wanted == Filter(
        ids=frozenset({A, B}),
        authors=frozenset({KEY_A}),
        kinds=frozenset({0, 1}),
        tags={
            "e": frozenset({C}),
            "p": frozenset({KEY_B}),
            "t": frozenset({"square", ""}),
            "T": frozenset({"x"}),
        },
        since=10,
        until=20,
        limit=5,
        search="best nostr apps",
    )


@pytest.mark.parametrize("value", [None, [], "filter", 1, True])
def test_what_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(InvalidFilter, match=r"^invalid: a filter is a JSON object$"):
        parse_filter(value)


@pytest.mark.parametrize(
    "key",
    ["#", "#ee", "#1", "#-", "#é", "##", "# ", "", "e", "IDS", "Kinds", "ids ", "tags", "&t", "since_id"],
)
def test_unknown_condition_is_unsupported(key: str) -> None:
    with pytest.raises(InvalidFilter) as refused:
        parse_filter({key: ["x"]})

    assert str(refused.value) == f"unsupported: filter contains unknown elements: {key!r}"


def test_long_unknown_condition_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidFilter) as refused:
        parse_filter({"x" * 10_000: 1})

    assert str(refused.value) == "unsupported: filter contains unknown elements: '" + "x" * 32 + "'"


@pytest.mark.parametrize("key", ["ids", "authors", "#e", "#p"])
@pytest.mark.parametrize("value", ["", A.upper(), A[:-1], A + "0", A + "\n", "abc", " " + A[1:]])
def test_ids_and_keys_must_be_64_lowercase_hex_digits(key: str, value: str) -> None:
    with pytest.raises(InvalidFilter, match=f"^invalid: {key} must hold 64 lowercase hex digits each$"):
        parse_filter({key: [B, value]})


@pytest.mark.parametrize("key", ["ids", "authors", "#e", "#p", "#t"])
@pytest.mark.parametrize("value", [[1], [None], [True], [[A]], [{}], [A, 1.5]])
def test_values_must_be_strings(key: str, value: object) -> None:
    with pytest.raises(InvalidFilter, match=f"^invalid: {key} must hold strings$"):
        parse_filter({key: value})


@pytest.mark.parametrize("key", ["ids", "authors", "kinds", "#e", "#p", "#t"])
@pytest.mark.parametrize("value", [None, "x", 1, {}, True])
def test_sets_must_be_arrays(key: str, value: object) -> None:
    with pytest.raises(InvalidFilter, match=f"^invalid: {key} must be an array$"):
        parse_filter({key: value})


@pytest.mark.parametrize("value", [-1, 1.0, True, "1", None, 1e30])
def test_kinds_must_be_integers(value: object) -> None:
    with pytest.raises(InvalidFilter, match=r"^invalid: kinds must hold integers from 0 to 65535$"):
        parse_filter({"kinds": [1, value]})


def test_kinds_beyond_all_events_match_nothing() -> None:
    wanted = parse_filter({"kinds": [65536, 2**63]})

    assert wanted.kinds == frozenset()
    assert wanted.is_empty
    assert parse_filter({"kinds": [1, 65535, 65536]}).kinds == frozenset({1, 65535})


@pytest.mark.parametrize("key", ["since", "until", "limit"])
@pytest.mark.parametrize("value", ["1", None, 1.0, 1e3, True, False, [], {}])
def test_numbers_must_be_integers(key: str, value: object) -> None:
    with pytest.raises(InvalidFilter, match=f"^invalid: {key} must be an integer$"):
        parse_filter({key: value})


@pytest.mark.parametrize("literal", [b"1e3", b"1.0", b"18446744073709551616", b"-9223372036854775809"])
def test_numbers_that_json_reads_as_floats_are_refused(literal: bytes) -> None:
    with pytest.raises(InvalidFilter, match=r"^invalid: since must be an integer$"):
        parse_filter(orjson.loads(b'{"since":' + literal + b"}"))


def test_negative_limit_is_refused() -> None:
    with pytest.raises(InvalidFilter, match=r"^invalid: limit must not be negative$"):
        parse_filter({"limit": -1})


def test_limit_zero_is_kept() -> None:
    assert parse_filter({"limit": 0}).limit == 0


@pytest.mark.parametrize(("value", "read"), [(2**64 - 1, 2**63 - 1), (-(2**63), -(2**63) + 1), (-5, -5)])
def test_far_times_are_brought_into_64_bits(value: int, read: int) -> None:
    assert parse_filter({"since": value}).since == read
    assert parse_filter({"until": value}).until == read


def test_huge_limit_is_brought_into_64_bits() -> None:
    assert parse_filter({"limit": 2**64 - 1}).limit == 2**63 - 1


@pytest.mark.parametrize("value", [None, 1, ["x"], True])
def test_search_must_be_a_string(value: object) -> None:
    with pytest.raises(InvalidFilter, match=r"^invalid: search must be a string$"):
        parse_filter({"search": value})


# What can match nothing.


@pytest.mark.parametrize(
    "value",
    [
        {"ids": []},
        {"authors": []},
        {"kinds": []},
        {"#t": []},
        {"#t": ["x"], "#e": []},
        {"since": 2, "until": 1},
    ],
)
def test_filter_that_nothing_meets_is_empty(value: dict[str, Any]) -> None:
    wanted = parse_filter(value)

    assert wanted.is_empty
    assert not wanted.matches(event(tags=(("t", "x"),)))


@pytest.mark.parametrize(
    "value",
    [{}, {"limit": 0}, {"since": 1, "until": 1}, {"since": 5}, {"until": 5}, {"kinds": [1]}, {"#t": [""]}],
)
def test_filter_that_an_event_may_meet_is_not_empty(value: dict[str, Any]) -> None:
    assert not parse_filter(value).is_empty


# Matching.


@pytest.mark.parametrize(
    ("value", "matches"),
    [
        ({}, True),
        ({"limit": 0}, True),
        ({"search": "nothing"}, True),
        ({"ids": [A]}, True),
        ({"ids": [B]}, False),
        ({"ids": [B, A]}, True),
        ({"authors": [KEY_A]}, True),
        ({"authors": [KEY_B]}, False),
        ({"kinds": [0, 1]}, True),
        ({"kinds": [2]}, False),
        ({"since": 100}, True),
        ({"since": 101}, False),
        ({"until": 100}, True),
        ({"until": 99}, False),
        ({"since": 100, "until": 100}, True),
        ({"#t": ["square"]}, True),
        ({"#t": ["Square"]}, False),
        ({"#t": ["circle", "square"]}, True),
        ({"#t": ["second"]}, False),
        ({"#T": ["square"]}, False),
        ({"#t": ["square", "x"], "#e": [C]}, True),
        ({"#t": ["square"], "#e": [B]}, False),
        ({"#x": [""]}, True),
        ({"#y": [""]}, False),
        ({"kinds": [1], "authors": [KEY_B]}, False),
    ],
)
def test_event_meets_filter(value: dict[str, Any], matches: bool) -> None:
    tags = ((), ("",), ("t", "square", "second"), ("e", C), ("x", ""), ("y",), ("long", "x"))

    assert parse_filter(value).matches(event(tags=tags)) is matches


def naive_match(wanted: dict[str, Any], candidate: Event) -> bool:
    """Read NIP-01 word by word: all conditions of a filter, one value of each list."""
    for condition, value in wanted.items():
        match condition:
            case "ids":
                met = any(candidate.id == each for each in value)
            case "authors":
                met = any(candidate.pubkey == each for each in value)
            case "kinds":
                met = any(candidate.kind == each for each in value)
            case "since":
                met = value <= candidate.created_at
            case "until":
                met = candidate.created_at <= value
            case "limit" | "search":
                met = True
            case tag_condition:
                met = any(
                    tag[0] == tag_condition.removeprefix("#") and each == tag[1]
                    for tag in candidate.tags
                    for each in value
                    if len(tag) >= 2
                )
        if not met:
            return False
    return True


# Few values, so that filters and events meet often.
hexes = st.sampled_from([A, B, C, KEY_A, KEY_B])
times = st.integers(98, 102)
words = st.sampled_from(["", "x", "y", A])
filters = st.fixed_dictionaries(
    {},
    optional={
        "ids": st.lists(hexes, max_size=3),
        "authors": st.lists(hexes, max_size=3),
        "kinds": st.lists(st.integers(0, 3) | st.just(70_000), max_size=3),
        "#e": st.lists(hexes, max_size=2),
        "#t": st.lists(words, max_size=3),
        "#T": st.lists(words, max_size=3),
        "since": times,
        "until": times,
        "limit": st.integers(0, 3),
        "search": words,
    },
)
events = st.builds(
    event,
    id_=hexes,
    pubkey=hexes,
    created_at=times,
    kind=st.integers(0, 3),
    tags=st.lists(
        st.lists(st.sampled_from(["e", "t", "T", "tt", "", "x", A]), max_size=3).map(tuple), max_size=4
    ).map(tuple),
)


@given(filters, events)
def test_matching_is_the_naive_reading_of_nip_01(wanted: dict[str, Any], candidate: Event) -> None:
    assert parse_filter(wanted).matches(candidate) is naive_match(wanted, candidate)


@given(filters, events)
def test_empty_filter_matches_no_event(wanted: dict[str, Any], candidate: Event) -> None:
    read = parse_filter(wanted)

    assert not (read.is_empty and read.matches(candidate))


@given(filters)
def test_filter_survives_writing_and_reading(wanted: dict[str, Any]) -> None:
    read = parse_filter(wanted)

    assert parse_filter(orjson.loads(orjson.dumps(encode_filter(read)))) == read


def test_filter_is_written_sorted_and_without_what_is_absent() -> None:
    wanted = parse_filter(
        {"#t": ["b", "a"], "limit": 0, "kinds": [7, 1], "#e": [], "search": "", "ids": [B, A]}
    )

    assert orjson.dumps(encode_filter(wanted)).decode() == (
        f'{{"ids":["{A}","{B}"],"kinds":[1,7],"#e":[],"#t":["a","b"],"limit":0,"search":""}}'
    )
    assert encode_filter(Filter()) == {}


@given(filters, st.none() | st.integers(0, 500))
def test_a_filter_with_another_limit_is_otherwise_the_same(value: dict[str, Any], limit: int | None) -> None:
    wanted = parse_filter(value)

    assert wanted.limited(limit) == replace(wanted, limit=limit)


def test_size_is_everything_that_a_filter_names() -> None:
    wanted = Filter(
        ids=frozenset({"a" * 64}), kinds=frozenset({1, 2}), tags={"e": frozenset({"x", "y", "z"})}, limit=9
    )

    assert wanted.size == 6
    assert Filter(since=1, search="word").size == 0
