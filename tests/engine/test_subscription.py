"""Merging scans, and what a subscription does with events before and after EOSE."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from relay.engine.feature import Origin
from relay.engine.subscription import LiveEvent, Subscription, merge
from relay.nostr.filter import Filter
from relay.store.api import Seq, Stored

Key = tuple[int, str]
"""(created_at, id)."""


@dataclass
class Reader:
    """A client that notes what it gets."""

    origin: Origin = field(default_factory=lambda: Origin(address="192.0.2.1", url="ws://relay.test/"))
    got: list[bytes] = field(default_factory=list)
    ended: int = 0

    def deliver(self, subscription: Subscription, events: Sequence[LiveEvent]) -> None:
        self.got.extend(event.json for event in events)

    def end_slow(self, subscription: Subscription) -> None:
        self.ended += 1


def row(key: Key) -> Stored:
    created_at, id_ = key
    return Stored(Seq(1), created_at, b'{"id":"' + id_.encode() + b'"}')


async def pages(keys: Sequence[Key], sizes: Sequence[int]) -> AsyncIterator[list[Stored]]:
    """Yield the rows in pages of these sizes, the rest in one."""
    left = [row(key) for key in keys]
    for size in sizes:
        page, left = left[:size], left[size:]
        yield page
    if left:
        yield left


def newest_first(keys: set[Key]) -> list[Key]:
    return sorted(keys, key=lambda key: (-key[0], key[1]))


async def merged(*scans: AsyncIterator[list[Stored]]) -> list[Key]:
    return [(one.created_at, one.id) async for page in merge(scans) for one in page]


# Few times and ids: ties and events of several scans are the rule, not the exception. An id has one time.
some_keys = st.sets(st.integers(0, 40).map(lambda n: (n % 5, f"{n:064x}")), max_size=20)


@given(scans=st.lists(st.tuples(some_keys, st.lists(st.integers(0, 4), max_size=6)), min_size=1, max_size=5))
async def test_a_merge_is_the_sorted_union(scans: list[tuple[set[Key], list[int]]]) -> None:
    got = await merged(*(pages(newest_first(keys), sizes) for keys, sizes in scans))

    assert got == newest_first(set().union(*(keys for keys, _ in scans)))


async def test_one_scan_passes_through_page_by_page() -> None:
    keys = newest_first({(n, f"{n:064x}") for n in range(5)})

    got = [page async for page in merge([pages(keys, [2, 0])])]

    assert [len(page) for page in got] == [2, 0, 3]


async def test_scans_without_rows_merge_to_nothing() -> None:
    assert [page async for page in merge([pages([], []), pages([], [0, 0])])] == []


async def test_pages_come_out_before_the_scans_have_ended() -> None:
    """Memory is one page of each scan, however much they hold."""
    read = 0

    async def endless() -> AsyncIterator[list[Stored]]:
        nonlocal read
        while True:
            read += 1
            yield [row((1_000_000 - read, f"{read:064x}"))]

    stream = merge([endless(), endless()])
    for _ in range(10):
        await anext(stream)

    assert read <= 13


def subscription(reader: Reader) -> Subscription:
    return Subscription("s", [Filter()], reader)


def live(*seqs: int | None) -> list[LiveEvent]:
    """Return live events that hold their seq; None is an ephemeral one."""
    return [
        LiveEvent(None, b"ephemeral") if seq is None else LiveEvent(Seq(seq), b"%d" % seq) for seq in seqs
    ]


def jsons(events: Sequence[LiveEvent]) -> list[bytes]:
    return [event.json for event in events]


def test_what_comes_before_eose_waits_and_then_passes_in_order() -> None:
    reader = Reader()
    waiting = subscription(reader)
    waiting.line = Seq(5)

    waiting.offer(live(4, 5, 6), buffer_bytes=100)
    waiting.offer(live(7), buffer_bytes=100)
    waiting.offer(live(None), buffer_bytes=100)

    assert reader.got == []
    assert jsons(waiting.go_live()) == [b"6", b"7", b"ephemeral"]


def test_after_eose_events_beyond_the_line_pass_at_once() -> None:
    reader = Reader()
    after_eose = subscription(reader)
    after_eose.line = Seq(5)
    assert after_eose.go_live() == []

    after_eose.offer(live(4, 5), buffer_bytes=0)
    assert reader.got == []

    after_eose.offer(live(5, 6), buffer_bytes=0)
    after_eose.offer(live(None), buffer_bytes=0)
    assert reader.got == [b"6", b"ephemeral"]


def test_a_buffer_that_is_full_to_the_byte_is_fine_and_one_more_ends_it() -> None:
    reader = Reader()
    waiting = subscription(reader)

    # A byte more than the event: the bracket that closes its message.
    waiting.offer([LiveEvent(Seq(1), b"1234"), LiveEvent(None, b"6789")], buffer_bytes=10)
    assert reader.ended == 0

    waiting.offer([LiveEvent(Seq(2), b"")], buffer_bytes=10)
    assert reader.ended == 1


def test_names_are_quoted_for_the_wire() -> None:
    assert Subscription('a"b\\é', [], Reader()).prefix == '["EVENT","a\\"b\\\\é",'.encode()
