"""NIP-88: what polls and votes say, which votes count, and what an audit finds."""

from collections.abc import Sequence

import pytest

from relay.nostr import polls
from relay.nostr.event import Event
from relay.nostr.negentropy import Vector
from relay.nostr.polls import InvalidPoll, InvalidVote, Poll, Result, audit, count, parse_poll, parse_vote
from relay.nostr.reasons import Refused
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, event

TEA, MILK = ["option", "a1", "Tea"], ["option", "b2", "Milk"]
END = NOW + 100


def poll(*tags: Sequence[str]) -> Event:
    return event(ALICE, 1068, "What do you drink?", tags=tags)


def vote(key: object, *choices: str, created_at: int = NOW + 1, about: Event | None = None) -> Event:
    tags = [["e", (about or SINGLE).id], *(["response", choice] for choice in choices)]
    return event(key, 1018, created_at=created_at, tags=tags)  # type: ignore[arg-type]


SINGLE = poll(TEA, MILK, ["endsAt", str(END)])
MULTIPLE = poll(TEA, MILK, ["polltype", "multiplechoice"])


def counted(asked: Event, *votes: Event) -> tuple[tuple[int, ...], int]:
    result = count(parse_poll(asked), votes)
    return result.counts, result.voters


def test_a_poll_is_read_with_its_options_in_order() -> None:
    assert parse_poll(SINGLE) == Poll(SINGLE.id, (("a1", "Tea"), ("b2", "Milk")), False, END)
    assert parse_poll(MULTIPLE) == Poll(MULTIPLE.id, (("a1", "Tea"), ("b2", "Milk")), True, None)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ([], "a poll has 1 to 100 options"),
        ([["option", str(n), "x"] for n in range(1_000)], "a poll has 1 to 100 options"),
        ([TEA, TEA], "two options of the poll have one id"),
        ([["option", "a1"]], "an option has an id of letters and digits, and a label"),
        ([["option", "a b", "x"]], "an option has an id of letters and digits, and a label"),
        ([["option", "ä", "x"]], "an option has an id of letters and digits, and a label"),
        ([TEA, ["polltype", "ranked"]], "polltype is singlechoice or multiplechoice"),
        ([TEA, ["endsAt", "soon"]], "endsAt is a time in unix seconds, after the poll's own"),
        ([TEA, ["endsAt", str(NOW)]], "endsAt is a time in unix seconds, after the poll's own"),
    ],
)
def test_a_poll_in_which_nobody_could_vote_is_refused(tags: list[list[str]], reason: str) -> None:
    with pytest.raises(InvalidPoll) as refused:
        parse_poll(poll(*tags))
    assert str(refused.value) == f"invalid: {reason}"


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ([["response", "a1"]], "a vote names its poll by an e tag"),
        ([["e", "ab"], ["response", "a1"]], "a vote names its poll by an e tag"),
        ([["e", SINGLE.id]], "a vote has a response"),
        ([["e", SINGLE.id], ["response", "a\n1"]], "a response is the id of an option"),
        ([["e", SINGLE.id], *[["response", "a1"]] * 101], "a vote has 100 responses at most"),
    ],
)
def test_a_vote_that_no_poll_could_count_is_refused(tags: list[list[str]], reason: str) -> None:
    with pytest.raises(InvalidVote) as refused:
        parse_vote(event(BOB, 1018, tags=tags))
    assert str(refused.value) == f"invalid: {reason}"
    assert isinstance(refused.value, Refused)


def test_in_a_poll_for_one_choice_the_first_response_is_the_vote() -> None:
    assert counted(SINGLE, vote(BOB, "b2", "a1"), vote(CAROL, "b2", "zz")) == ((0, 2), 2)
    assert counted(SINGLE, vote(BOB, "zz", "a1")) == ((0, 0), 0)


def test_in_a_poll_for_several_choices_each_option_counts_once() -> None:
    assert counted(MULTIPLE, vote(BOB, "b2", "a1", "b2", about=MULTIPLE)) == ((1, 1), 1)
    assert counted(MULTIPLE, vote(BOB, "b2", "zz", about=MULTIPLE)) == ((0, 0), 0)


def test_of_each_key_the_latest_vote_in_time_counts() -> None:
    early, late = vote(BOB, "a1"), vote(BOB, "b2", created_at=END)
    too_late = vote(BOB, "a1", created_at=END + 1)

    assert counted(SINGLE, early, too_late, late) == ((0, 1), 1)
    assert counted(SINGLE, late, too_late, early) == ((0, 1), 1)


def test_of_one_second_the_lowest_id_counts() -> None:
    one, other = sorted([vote(BOB, "a1"), vote(BOB, "b2")], key=lambda vote: vote.id)
    first = ((1, 0), 1) if one.tags[1][1] == "a1" else ((0, 1), 1)

    assert counted(SINGLE, one, other) == counted(SINGLE, other, one) == first


def test_what_is_no_vote_for_the_poll_does_not_count() -> None:
    others = [vote(BOB, "a1", about=MULTIPLE), event(BOB, 1018), event(BOB, 1, tags=vote(BOB, "a1").tags)]

    assert counted(SINGLE, *others) == ((0, 0), 0)


def test_the_fingerprint_is_that_of_negentropy() -> None:
    votes = [vote(key, "a1") for key in (BOB, CAROL, DAVE)]
    vector = Vector.of((one.created_at, bytes.fromhex(one.id)) for one in votes)

    assert count(parse_poll(SINGLE), votes).fingerprint == vector.fingerprint(0, 3).hex()


def test_an_audit_finds_what_the_votes_do_not_say() -> None:
    asked, votes = parse_poll(SINGLE), [vote(BOB, "a1"), vote(CAROL, "b2")]
    right = count(asked, votes)

    def found(result: Result, options: Sequence[str] = ("a1", "b2"), about: str = SINGLE.id) -> list[str]:
        tags = polls.tally_tags(about, options, result)
        return audit(asked, votes, event(DAVE, 31_068, tags=tags))

    assert found(right) == []
    assert found(Result((2, 1), 3, right.fingerprint)) == [
        "2 votes were told for a1, 1 were found",
        "3 voters were told, 2 were found",
    ]
    assert found(Result((1, 1), 2, "00" * 16)) == [
        "as many voters were told as were found, but not the same votes"
    ]
    assert found(right, options=("a1", "c3")) == ["the tally has other options"]
    assert found(right, about="00" * 32) == ["the tally is another poll's"]
    with pytest.raises(InvalidPoll, match=r"^invalid: this is not a tally$"):
        audit(asked, votes, event(DAVE, 31_068))
