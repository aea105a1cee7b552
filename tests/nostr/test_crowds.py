"""Crowds: which questions ask for one, and who joins."""

import pytest

from relay.nostr.crowds import Crowd, crowd_of, is_for_some, parse_crowd
from relay.nostr.event import encode
from relay.nostr.filter import parse_filter
from tests.events import ALICE, event

ID, OTHER = "1" * 64, "2" * 64


@pytest.mark.parametrize(
    ("wanted", "crowd"),
    [
        ({"kinds": [7], "#e": [ID]}, Crowd(7, "e", ID)),
        ({"kinds": [6], "#e": [ID]}, Crowd(6, "e", ID)),
        ({"kinds": [1], "#e": [ID]}, Crowd(1, "e", ID)),
        ({"kinds": [1, 1111], "#q": [ID]}, Crowd(1, "q", ID)),
        ({"kinds": [1111], "#E": [ID]}, Crowd(1111, "E", ID)),
        ({"kinds": [3], "#p": [ID]}, Crowd(3, "p", ID)),
        ({"kinds": [1018], "#e": [ID], "limit": 3}, Crowd(1018, "e", ID)),
        ({"kinds": [1, 1111], "#q": ["x" * 200]}, Crowd(1, "q", "x" * 200)),
        ({"kinds": [1, 1111], "#q": ["x" * 201]}, None),
        ({"kinds": [1], "#q": [ID]}, None),
        ({"kinds": [1, 7], "#e": [ID]}, None),
        ({"#e": [ID]}, None),
        ({"kinds": [7]}, None),
        ({"kinds": [7], "#e": [ID, OTHER]}, None),
        ({"kinds": [7], "#e": [ID], "#p": [OTHER]}, None),
        ({"kinds": [7], "#e": [ID], "since": 1}, None),
        ({"kinds": [7], "#e": [ID], "authors": [OTHER]}, None),
    ],
)
def test_common_queries_ask_for_a_crowd_and_others_do_not(
    wanted: dict[str, object], crowd: Crowd | None
) -> None:
    assert crowd_of(parse_filter(wanted)) == crowd


def test_a_quote_and_a_comment_join_the_same_crowd() -> None:
    assert Crowd(1, "q", ID).kinds == {1, 1111}
    assert Crowd(1, "e", ID).kinds == {1}


def test_a_crowd_has_a_name() -> None:
    assert str(Crowd(1, "q", "a b")) == "1 q a b"
    assert parse_crowd("1 q a b") == Crowd(1, "q", "a b")


@pytest.mark.parametrize(
    ("tags", "content", "is_so"),
    [
        ([["e", ID], ["h", "pizza"]], "", True),
        ([["h"]], "", True),
        ([["H", "pizza"], ["e", "h"]], '[["h","pizza"]]', False),
    ],
)
def test_what_is_said_in_groups_may_be_for_some(tags: list[list[str]], content: str, is_so: bool) -> None:
    assert is_for_some(encode(event(ALICE, 7, content, tags=tags))) is is_so
