"""The index over open filters agrees with asking every filter."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.engine.index import SubscriptionIndex
from relay.nostr.event import Event, EventId, PubKey
from relay.nostr.filter import Filter
from tests.events import ALICE, BOB, NOW, note


@dataclass(eq=False)
class Waiting:
    """A subscription, as far as the index knows."""

    filters: Sequence[Filter]


def groups(index: SubscriptionIndex[Waiting]) -> list[int]:
    """Return how many subscriptions are filed at each place where there are any."""
    files = (index._certain, index._possible)
    return [len(group) for one in files for filed in one._groups.values() for group in filed.values()]


ids = st.sampled_from([c * 64 for c in "abc"])
kinds = st.integers(0, 3)
values = st.sampled_from(["x", "y", "z", "a" * 64])
letters = st.sampled_from(["e", "p", "t", "T"])
times = st.integers(0, 5)


def some(of: st.SearchStrategy[str]) -> st.SearchStrategy[frozenset[str] | None]:
    return st.none() | st.frozensets(of, max_size=3)


filters = st.builds(
    Filter,
    ids=some(ids),
    authors=some(ids),
    kinds=st.none() | st.frozensets(kinds, max_size=3),
    tags=st.dictionaries(letters, st.frozensets(values, max_size=3), max_size=2),
    since=st.none() | times,
    until=st.none() | times,
    limit=st.none() | st.just(0),
)
tags = st.lists(
    st.tuples(letters | st.sampled_from(["tt", "", "é", "1"]), values) | st.tuples(letters) | st.just(()),
    max_size=4,
)
events = st.builds(
    Event,
    id=ids.map(EventId),
    pubkey=ids.map(PubKey),
    created_at=times,
    kind=kinds,
    tags=tags.map(tuple),
    content=st.just(""),
    sig=st.just("0" * 128),
)


@given(
    subscriptions=st.lists(st.lists(filters, min_size=1, max_size=3).map(Waiting), max_size=8),
    gone=st.sets(st.integers(0, 7)),
    happened=st.lists(events, min_size=1, max_size=5),
)
def test_it_agrees_with_asking_every_filter(
    subscriptions: list[Waiting], gone: set[int], happened: list[Event]
) -> None:
    index: SubscriptionIndex[Waiting] = SubscriptionIndex()
    for subscription in subscriptions:
        index.add(subscription)
    left = [one for number, one in enumerate(subscriptions) if number not in gone]
    for number, subscription in enumerate(subscriptions):
        if number in gone:
            index.remove(subscription)

    for event in happened:
        found = index.matching(event)

        expected = [one for one in left if any(wanted.matches(event) for wanted in one.filters)]
        assert len(found) == len(set(map(id, found)))
        assert {id(one) for one in found} == {id(one) for one in expected}
    assert len(index) == len(left)


@given(subscriptions=st.lists(st.lists(filters, min_size=1, max_size=3).map(Waiting), max_size=8))
def test_nothing_is_left_behind_when_all_have_gone(subscriptions: list[Waiting]) -> None:
    index: SubscriptionIndex[Waiting] = SubscriptionIndex()
    for subscription in subscriptions:
        index.add(subscription)
    for subscription in subscriptions:
        index.remove(subscription)

    assert len(index) == 0
    assert groups(index) == []


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(authors=frozenset({ALICE.public}), kinds=frozenset({1})),
        Filter(tags={"t": frozenset({"x"}), "e": frozenset({"a" * 64, "b" * 64})}),
        Filter(tags={"t": frozenset({"x"})}, kinds=frozenset({1})),
        Filter(kinds=frozenset({1})),
        Filter(),
    ],
)
def test_a_filter_is_filed_under_one_condition(wanted: Filter) -> None:
    index: SubscriptionIndex[Waiting] = SubscriptionIndex()

    index.add(Waiting([wanted]))

    assert groups(index) == [1]


def test_an_event_by_one_of_many_authors_is_found_once() -> None:
    index: SubscriptionIndex[Waiting] = SubscriptionIndex()
    waiting = Waiting([Filter(authors=frozenset({ALICE.public, BOB.public})), Filter(since=NOW), Filter()])
    index.add(waiting)

    assert index.matching(note(ALICE)) == [waiting]


def test_who_comes_under_one_value_of_a_filter_does_not_come_under_the_others() -> None:
    index: SubscriptionIndex[Waiting] = SubscriptionIndex()
    both = Waiting([Filter(authors=frozenset({ALICE.public, BOB.public}))])
    alices = Waiting([Filter(authors=frozenset({ALICE.public}))])

    index.add(both)
    index.add(alices)

    assert index.matching(note(ALICE)) == [both, alices]
    assert index.matching(note(BOB)) == [both]


def test_who_leaves_one_value_of_two_leaves_the_other_subscription_there() -> None:
    index: SubscriptionIndex[Waiting] = SubscriptionIndex()
    both = Waiting([Filter(authors=frozenset({ALICE.public, BOB.public}))])
    bobs = Waiting([Filter(authors=frozenset({BOB.public}), since=NOW)])
    for one in (both, bobs):
        index.add(one)

    index.remove(both)

    assert index.matching(note(ALICE)) == []
    assert index.matching(note(BOB)) == [bobs]
