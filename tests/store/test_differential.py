"""Whatever is written, and whatever is asked: every store answers as the memory store does.

Events come from a small pool, so that copies, ties, replacements and removals of each other are
common. The memory store gets the writes one by one, the others in batches.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.store.api import Removal, RemoveAddress, RemoveEvent, Seq, Store, Veil, Write
from relay.store.memory import MemoryStore
from tests.events import ALICE, BOB, CAROL, NOW, event, pubkey, write
from tests.store.backends import BACKENDS
from tests.store.reading import dump, listed, log, scan
from tests.store.writers import Writers

T = TypeVar("T")

AUTHORS = (ALICE, BOB, CAROL)
KINDS = (1, 1, 1, 4, 7, 0, 3, 10_002, 30_023)
TIMES = tuple(range(NOW, NOW + 4))
TOPICS = ("red", "blue", "")
FAR = 4_000_000_000
"""Some stores sweep by themselves, by the wall clock, which is not there yet."""


def made_up(chance: random.Random, n: int) -> Event:
    """Return an event with a few of few tags, at one of few seconds."""
    tags = [
        *(["t", topic] for topic in TOPICS if chance.random() < 0.3),
        *(["p", key.public] for key in AUTHORS if chance.random() < 0.2),
        *(["d", name] for name in "xy" if chance.random() < 0.3),
    ]
    return event(
        chance.choice(AUTHORS), chance.choice(KINDS), f"{n}", created_at=chance.choice(TIMES), tags=tags
    )


@lru_cache(maxsize=2)
def pool(size: int) -> tuple[Event, ...]:
    chance = random.Random(size)
    return tuple(made_up(chance, n) for n in range(size))


POOL = pool(100)
ADDRESSES = sorted({one.address for one in POOL if one.address is not None})
VEILS = (
    None,
    Veil(frozenset({4}), lambda one: one.pubkey == ALICE.public),
    Veil(frozenset({0, 1, 4, 30_023}), lambda one: int(one.content) % 3 == 0),
    Veil(frozenset(KINDS), lambda one: False),
    Veil(frozenset(), lambda one: False, {"t": frozenset(TOPICS[:1])}),
    Veil(
        frozenset({4}),
        lambda one: int(one.content) % 2 == 0,
        {"t": frozenset(TOPICS[:2]), "p": frozenset({ALICE.public})},
    ),
)


@dataclass(frozen=True)
class Question:
    """What both stores are asked."""

    filters: tuple[Filter, ...]
    now: int
    veil: int
    """Index into VEILS."""
    step: int
    """Index of the batch after which `upto` was taken."""


def subsets(values: Sequence[object], most: int) -> st.SearchStrategy[frozenset[object] | None]:
    some = st.frozensets(st.sampled_from(values), max_size=most)
    return st.none() | st.none() | some


removals: st.SearchStrategy[Removal] = st.one_of(
    st.builds(
        RemoveEvent,
        st.sampled_from([one.id for one in POOL]),
        st.sampled_from([pubkey(key) for key in AUTHORS]),
    ),
    st.builds(RemoveAddress, st.sampled_from(ADDRESSES), st.sampled_from([TIMES[0] - 1, *TIMES])),
)
writes: st.SearchStrategy[Write] = st.builds(
    write,
    st.sampled_from(POOL),
    expires_at=st.none() | st.none() | st.integers(FAR, FAR + 2),
    owners=st.none() | st.none() | st.sampled_from([(), (pubkey(BOB),), (pubkey(CAROL), pubkey(ALICE))]),
    removals=st.just(()) | st.just(()) | st.lists(removals, max_size=4).map(tuple),
    live=st.booleans(),
)
filters: st.SearchStrategy[Filter] = st.builds(
    Filter,
    ids=st.none() | subsets([one.id for one in POOL], 12),
    authors=subsets([key.public for key in AUTHORS], 3),
    kinds=subsets(sorted(set(KINDS)), 4),
    tags=st.dictionaries(
        st.sampled_from("tpd"),
        st.frozensets(st.sampled_from([*TOPICS, "x", "y", *(key.public for key in AUTHORS)]), max_size=5),
        max_size=2,
    ),
    since=st.none() | st.sampled_from(TIMES),
    until=st.none() | st.sampled_from(TIMES),
    limit=st.none() | st.integers(0, 12),
)
questions = st.builds(
    Question,
    st.lists(filters, min_size=1, max_size=3).map(tuple),
    st.sampled_from([NOW, FAR - 1, FAR, FAR + 1, FAR + 2]),
    st.integers(0, len(VEILS) - 1),
    st.integers(0, 7),
)
sweeps = st.none() | st.none() | st.integers(FAR - 1, FAR + 2)
steps = st.lists(st.tuples(st.lists(writes, max_size=12), sweeps), min_size=1, max_size=8)


async def differ(
    oracle: Store,
    store: Store,
    steps: Sequence[tuple[Sequence[Write], int | None]],
    questions: Sequence[Question],
) -> None:
    """Write the same to both stores, ask both the same, and compare every answer."""
    heads: list[tuple[Seq, Seq]] = []
    for number, (batch, sweep) in enumerate(steps):
        expected = [outcome for one in batch for outcome in await oracle.write([one])]
        assert await store.write(batch) == expected
        if sweep is not None:
            assert await store.sweep(sweep) == await oracle.sweep(sweep)
        # Some of what this step brought, the operator removes; every second time for good.
        struck = [one.event.id for one in batch[: number % 3]]
        barred = number % 2 == 1
        assert await store.remove(struck, barred=barred) == await oracle.remove(struck, barred=barred)
        heads.append((await oracle.head(), await store.head()))
    for question in questions:
        upto, same_upto = heads[question.step % len(heads)]
        await compare(oracle, upto, store, same_upto, question)
    ids = [one.id for batch, _ in steps for one in (write.event for write in batch)]
    assert await store.known(ids) == await oracle.known(ids)


async def compare(oracle: Store, upto: Seq, store: Store, same_upto: Seq, question: Question) -> None:
    now, veil = question.now, VEILS[question.veil]
    for wanted in question.filters:
        expected = await scan(oracle, wanted, upto=upto, now=now, veil=veil)
        given = await scan(store, wanted, upto=same_upto, now=now, veil=veil)
        assert [row.json for row in given] == [row.json for row in expected], wanted
        assert [row.created_at for row in given] == [row.created_at for row in expected]
        assert await listed(store, wanted, upto=same_upto, now=now, veil=veil) == (
            [(row.created_at, row.id) for row in expected]
        ), wanted
        assert await store.count([wanted], upto=same_upto, now=now, veil=veil) == (
            await oracle.count([wanted], upto=upto, now=now, veil=veil)
        ), wanted
    assert await store.count(question.filters, upto=same_upto, now=now, veil=veil) == (
        await oracle.count(question.filters, upto=upto, now=now, veil=veil)
    )
    assert [row.json for row in await log(store, upto=same_upto, now=now)] == (
        [row.json for row in await log(oracle, upto=upto, now=now)]
    )
    assert await dump(store, upto=same_upto, now=now) == await dump(oracle, upto=upto, now=now)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=steps, questions=st.lists(questions, min_size=1, max_size=8))
async def test_random_writes_and_questions_give_the_same_answers(
    backend: str,
    writers: Writers,
    steps: list[tuple[list[Write], int | None]],
    questions: list[Question],
) -> None:
    with TemporaryDirectory() as folder:
        async with BACKENDS[backend](Path(folder), writers) as store:
            await differ(MemoryStore(), store, steps, questions)


def random_write(chance: random.Random, events: Sequence[Event]) -> Write:
    gone: list[Removal] = []
    if chance.random() < 0.05:
        target = chance.choice(events)
        gone.append(RemoveEvent(target.id, pubkey(chance.choice(AUTHORS))))
        if target.address is not None:
            gone.append(RemoveAddress(target.address, chance.choice(TIMES)))
    return write(
        chance.choice(events),
        expires_at=FAR + chance.randrange(3) if chance.random() < 0.1 else None,
        removals=tuple(gone),
        live=chance.random() < 0.9,
    )


def random_filter(chance: random.Random, events: Sequence[Event]) -> Filter:
    def maybe(share: float, values: Sequence[T], most: int) -> frozenset[T] | None:
        if chance.random() > share:
            return None
        return frozenset(chance.choice(values) for _ in range(chance.randint(1, most)))

    tags = {"t": maybe(0.3, TOPICS, 2), "p": maybe(0.2, [key.public for key in AUTHORS], 2)}
    return Filter(
        ids=maybe(0.1, [one.id for one in events], 200),
        authors=maybe(0.4, [key.public for key in AUTHORS], 2),
        kinds=maybe(0.5, KINDS, 3),
        tags={letter: values for letter, values in tags.items() if values is not None},
        since=chance.choice([None, None, *TIMES]),
        until=chance.choice([None, None, *TIMES]),
        limit=chance.choice([None, 1, 10, 100, 700]),
    )


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_larger_store_gives_the_same_answers(
    backend: str, seed: int, tmp_path: Path, writers: Writers
) -> None:
    chance = random.Random(seed)
    events = pool(1_500)
    steps: list[tuple[list[Write], int | None]] = []
    while len(steps) < 40:
        size = chance.choice([1, 5, 50, 200])
        steps.append(([random_write(chance, events) for _ in range(size)], None))
    steps.append(([], FAR))
    questions = [
        Question(
            filters=tuple(random_filter(chance, events) for _ in range(chance.randint(1, 2))),
            now=chance.choice([NOW, FAR, FAR + 1]),
            veil=chance.randrange(len(VEILS)),
            step=chance.choice([len(steps) - 1, chance.randrange(len(steps))]),
        )
        for _ in range(120)
    ]

    async with BACKENDS[backend](tmp_path, writers) as store:
        await differ(MemoryStore(), store, steps, questions)
