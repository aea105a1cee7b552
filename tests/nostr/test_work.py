"""Proof of work: NIP-13's own examples, and what a commitment may look like."""

import pytest

from relay.nostr.event import parse_event
from relay.nostr.work import committed_target, difficulty, refuse_difficulty

# The example of NIP-13.
MINED = parse_event(
    {
        "id": "000006d8c378af1779d2feebc7603a125d99eca0ccf1085959b307f64e5dd358",
        "pubkey": "a48380f4cfcc1ad5378294fcac36439770f9c878dd880ffa94bb74ea54a6f243",
        "created_at": 1651794653,
        "kind": 1,
        "tags": [["nonce", "776797", "20"]],
        "content": "It's just me mining my own business",
        "sig": "284622fc0a3f4f1303455d5175f7ba962a3300d136085b9566801bc2e0699de0"
        "c7e31e44c81fb40ad9049173742e904713c3594a1da0fc5d2382a25c11aba977",
    }
)


@pytest.mark.parametrize(
    ("id_", "bits"),
    [
        # "has a difficulty of 36 with 36 leading 0 bits"
        ("000000000e9d97a1ab09fc381030b346cdd7a142ad57e6df0b46dc9bef6c7e2d", 36),
        # "002f… is 0000 0000 0010 1111… in binary, which has 10 leading zeroes"
        ("002f" + 60 * "f", 10),
        (MINED.id, 21),
        (64 * "f", 0),
        ("8" + 63 * "0", 0),
        ("7" + 63 * "f", 1),
        ("0" + 63 * "f", 4),
        (63 * "0" + "1", 255),
        (64 * "0", 256),
    ],
)
def test_difficulty_is_the_number_of_leading_zero_bits(id_: str, bits: int) -> None:
    assert difficulty(id_) == bits


def test_the_example_of_the_nip_commits_to_less_than_it_reached() -> None:
    assert committed_target(MINED.tags) == 20


@pytest.mark.parametrize(
    ("tags", "target"),
    [
        ((), None),
        ((("t", "1", "20"),), None),
        ((("nonce",),), None),
        ((("nonce", "1"),), None),
        ((("nonce", "1", ""),), None),
        ((("nonce", "1", "-1"),), None),
        ((("nonce", "1", "2_0"),), None),
        ((("nonce", "1", " 20"),), None),
        ((("nonce", "1", "٢٠"),), None),
        ((("nonce", "1", "1000"),), None),
        ((("nonce", "1", "0"),), 0),
        ((("nonce", "1", "020"),), 20),
        ((("nonce", "1", "20", "more"),), 20),
        (((), ("t", "x"), ("nonce", "1", "7")), 7),
        ((("nonce", "1", "7"), ("nonce", "1", "30")), 7),
        ((("nonce", "1"), ("nonce", "1", "30")), None),
    ],
)
def test_the_first_nonce_tag_commits(tags: tuple[tuple[str, ...], ...], target: int | None) -> None:
    assert committed_target(tags) == target


@pytest.mark.parametrize(
    ("least", "tags", "reason"),
    [
        (20, MINED.tags, None),
        (21, MINED.tags, "pow: the committed difficulty 20 is less than 21"),
        (22, MINED.tags, "pow: difficulty 21 is less than 22"),
        (21, (), "pow: the nonce tag must commit to a difficulty of 21 or more"),
    ],
)
def test_work_is_what_the_id_shows_and_the_nonce_commits_to(
    least: int, tags: tuple[tuple[str, ...], ...], reason: str | None
) -> None:
    refusal = refuse_difficulty(MINED.id, tags, least)

    assert (None if refusal is None else str(refusal)) == reason
