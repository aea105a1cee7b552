"""The hashes under which events are found."""

from relay.store.sqlite import Hashes
from tests.events import ALICE, note


def test_a_tag_has_one_hash_however_often_it_was_asked_for() -> None:
    hashes, others = Hashes(b"k" * 16), Hashes(b"k" * 16)
    first = hashes.tag("t", "0")

    for n in range(40_000):
        hashes.tag("t", str(n))

    assert hashes.tag("t", "0") == hashes.tag("t", "0") == first == others.tag("t", "0")


def test_letter_value_and_key_make_a_hash() -> None:
    hashes = Hashes(b"k" * 16)

    found = {
        hashes.tag("e", "a"),
        hashes.tag("E", "a"),
        hashes.tag("p", "a"),
        hashes.tag("e", "A"),
        hashes.tag("e", ""),
        Hashes(b"K" * 16).tag("e", "a"),
    }

    assert len(found) == 6


def test_an_event_is_found_under_its_one_letter_tags() -> None:
    hashes = Hashes(b"k" * 16)
    long = "x" * 1_000
    tags = [
        ["t", "a"],
        ["t", "a", "b"],
        ["t", long],
        ["t"],
        [],
        ["tt", "a"],
        ["é", "a"],
        ["1", "a"],
        ["Z", ""],
    ]

    found = hashes.of(note(ALICE, tags=tags))

    assert found == {
        hashes.everything,
        hashes.kind(1),
        hashes.author(ALICE.public),
        hashes.author_kind(ALICE.public, 1),
        hashes.tag("t", "a"),
        hashes.tag("t", long),
        hashes.tag("Z", ""),
    }
