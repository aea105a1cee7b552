"""Negentropy: both sides learn what the other one lacks, frame by frame as the reference does it."""

import json
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.nostr.negentropy import (
    INFINITY,
    Client,
    Differences,
    Gathering,
    InvalidFrame,
    Item,
    Server,
    Vector,
    encode_varint,
    exhaust,
)

NOW = 1_700_000_000
RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent.parent / "data" / "negentropy.json").read_text()
)
EMPTY = Vector.of([])
TO_THE_END = b"\0\0"
"""The bound behind everything."""


def numbered(n: int, *, per_second: int = 1) -> Item:
    return NOW + n // per_second, sha256(b"%d" % n).digest()


def made_up(numbers: Iterable[int], *, per_second: int = 1) -> Vector:
    return Vector.of(numbered(n, per_second=per_second) for n in numbers)


def talk(client: Client, server: Server) -> tuple[list[bytes], set[bytes], set[bytes]]:
    """Let them talk to the end; return all frames, and what the client found that it has and needs."""
    frames: list[bytes] = []
    have: set[bytes] = set()
    need: set[bytes] = set()
    frame: bytes | None = client.initiate()
    while frame is not None:
        frames += [frame, exhaust(server.answer(frame))]
        assert len(frames) < 1_000
        frame, found = client.reconcile(frames[-1])
        have.update(found.have)
        need.update(found.need)
    return frames, have, need


def answer(vector: Vector, frame: bytes, *, max_frame_bytes: int = 0) -> bytes:
    return exhaust(Server(vector, max_frame_bytes=max_frame_bytes).answer(frame))


# The reference.


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda recorded: recorded["name"])
def test_frames_are_those_of_the_reference(recorded: dict[str, Any]) -> None:
    everything, per_second = range(recorded["count"]), recorded["per_second"]
    mine = made_up((n for n in everything if n not in recorded["client_lacks"]), per_second=per_second)
    other = made_up((n for n in everything if n not in recorded["server_lacks"]), per_second=per_second)

    frames, have, need = talk(
        Client(mine, max_frame_bytes=recorded["client_limit"]),
        Server(other, max_frame_bytes=recorded["server_limit"]),
    )

    assert [
        frame.hex() if len(frame) <= 200 else f"sha256:{sha256(frame).hexdigest()}" for frame in frames
    ] == recorded["frames"]
    assert have == {numbered(n)[1] for n in recorded["server_lacks"]}
    assert need == {numbered(n)[1] for n in recorded["client_lacks"]}


# The parts of a frame.


@pytest.mark.parametrize(
    ("value", "digits"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8100"),
        (16_383, "ff7f"),
        (16_384, "818000"),
        (INFINITY, "81ffffffffffffffff7f"),
    ],
)
def test_numbers_are_written_in_digits_of_seven_bits(value: int, digits: str) -> None:
    assert encode_varint(value).hex() == digits


def test_a_few_items_are_sent_as_ids() -> None:
    vector = Vector.of([(5, b"\2" * 32), (5, b"\1" * 32), (3, b"\3" * 32)])

    assert Client(vector).initiate() == b"\x61" + TO_THE_END + b"\2\3" + b"\3" * 32 + b"\1" * 32 + b"\2" * 32


def test_many_items_are_sent_as_sixteen_fingerprints() -> None:
    frame = Client(made_up(range(32))).initiate()

    assert frame[:7] == b"\x61" + encode_varint(1 + NOW + 2) + b"\0"
    assert len(frame) == 1 + (5 + 1 + 1 + 16) + 14 * (1 + 1 + 1 + 16) + (1 + 1 + 1 + 16)


def test_a_fingerprint_is_the_digest_of_sum_and_number() -> None:
    vector = Vector.of([(1, b"\xff" * 32), (2, b"\2" + b"\0" * 31), (3, b"\7" * 32)])

    assert vector.fingerprint(0, 0) == sha256(b"\0" * 32 + b"\0").digest()[:16]
    assert vector.fingerprint(0, 2) == sha256(b"\1" + b"\0" * 31 + b"\2").digest()[:16]
    assert vector.fingerprint(2, 3) == sha256(b"\7" * 32 + b"\1").digest()[:16]


def test_items_of_one_second_are_divided_by_the_beginning_of_an_id() -> None:
    vector = Vector.of([(5, b"\1" * 32), (5, b"\1\2" + b"\0" * 30), (5, b"\4" * 32), (6, b"\0" * 32)])

    assert [vector.bound(index) for index in (1, 2, 3)] == [(5, b"\1\2"), (5, b"\4"), (6, b"")]
    assert [vector.find(vector.bound(index), 0) for index in (1, 2, 3)] == [1, 2, 3]


def test_a_bound_that_is_beyond_all_items_finds_the_end() -> None:
    vector = made_up(range(3))

    assert vector.find((INFINITY, b""), 0) == 3
    assert vector.find((NOW + 2, b"\xff" * 32), 1) == 3
    assert vector.find((0, b""), 0) == 0


def test_no_item_may_be_there_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Vector.of([(1, b"a" * 32), (1, b"a" * 32)])


# Talking.

items = st.tuples(
    st.sampled_from([0, 1, 2, NOW, NOW + 1, INFINITY - 1]),
    # Ids that begin alike need long bounds.
    st.builds(
        lambda start, end: (start + end).rjust(32, b"\0"), st.binary(max_size=3), st.binary(max_size=2)
    ),
)
seeds = st.integers(0, 2**32 - 1)


def dealt(seed: int, count: int, per_second: int) -> tuple[list[Item], list[Item], list[Item]]:
    """Return so many items in three parts: of both sides, the client's and the server's, by a seed."""
    parts: tuple[list[Item], list[Item], list[Item]] = ([], [], [])
    for n in range(count):
        item = NOW + n // per_second, sha256(b"%d %d" % (seed, n)).digest()
        parts[(0, 0, 0, 0, 1, 2)[item[1][31] % 6] if (n // 200 + seed) % 3 else 0].append(item)
    return parts


@given(st.sets(items, max_size=80), st.sets(items, max_size=80), st.sets(items, max_size=80))
def test_both_sides_of_any_sets_learn_what_differs(
    both: set[Item], mine: set[Item], others: set[Item]
) -> None:
    client, server = both | mine, both | others

    _, have, need = talk(Client(Vector.of(client)), Server(Vector.of(server)))

    # An id may be there at two times, which events cannot.
    assert {id_ for _, id_ in client - server} - {id_ for _, id_ in server} <= have
    assert have <= {id_ for _, id_ in client - server}
    assert need <= {id_ for _, id_ in server - client}
    assert {id_ for _, id_ in server - client} - {id_ for _, id_ in client} <= need


@given(seeds, st.integers(0, 1_500), st.sampled_from([1, 3, 2_000]), st.booleans(), st.booleans())
def test_small_frames_lead_to_the_same_end(
    seed: int, count: int, per_second: int, is_small_here: bool, is_small_there: bool
) -> None:
    both, mine, others = dealt(seed, count, per_second)

    frames, have, need = talk(
        Client(Vector.of(both + mine), max_frame_bytes=4_096 * is_small_here),
        Server(Vector.of(both + others), max_frame_bytes=4_096 * is_small_there),
    )

    assert have == {id_ for _, id_ in mine}
    assert need == {id_ for _, id_ in others}
    if is_small_there:
        assert max(map(len, frames[1::2])) <= 4_096
    if is_small_here:
        assert max(map(len, frames[2::2]), default=0) <= 4_096


def test_equal_sets_of_any_size_need_one_exchange() -> None:
    vector = made_up(range(2_000))

    frames, have, need = talk(Client(vector), Server(vector))

    assert frames[1:] == [b"\x61"]
    assert (have, need) == (set(), set())


def test_a_full_frame_leaves_nothing_unsaid() -> None:
    # Ids up to just below the limit, then a range that does not fit any more.
    server = made_up(range(200))
    asked = encode_varint(1 + NOW + 118) + b"\0\2\0"
    rest = TO_THE_END + b"\1" + EMPTY.fingerprint(0, 0)

    reply = answer(server, b"\x61" + asked + rest, max_frame_bytes=4_096)

    assert len(reply) <= 4_096
    assert reply.endswith(TO_THE_END + b"\1" + server.fingerprint(118, 200))


def test_a_frame_too_small_for_progress_is_a_mistake() -> None:
    for side in (Client, Server):
        with pytest.raises(ValueError, match="4096 bytes or more"):
            side(EMPTY, max_frame_bytes=4_095)


def test_a_server_names_its_version_to_those_who_speak_another() -> None:
    assert answer(made_up(range(9)), b"\x62 whatever follows") == b"\x61"


def test_a_client_gives_up_on_a_server_of_another_version() -> None:
    with pytest.raises(InvalidFrame, match="version 2"):
        Client(EMPTY).reconcile(b"\x62")


def test_the_last_answer_of_a_server_ends_the_talk() -> None:
    assert Client(made_up(range(9))).reconcile(b"\x61") == (None, Differences((), ()))


# What peers may send.


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "begins with its version"),
        (b"\x5f", "begins with its version"),
        (b"\x70", "begins with its version"),
        (b"\x61\x01", "ends within a range"),
        (b"\x61\x01\x00", "ends within a range"),
        (b"\x61\x81", "ends within a range"),
        (b"\x61\x00\x00\x01" + b"f" * 15, "ends within a range"),
        (b"\x61\x00\x00\x02\x02" + b"i" * 63, "ends within a range"),
        (b"\x61\x00\x00\x02" + encode_varint(INFINITY), "ends within a range"),
        (b"\x61\x01\x21" + b"i" * 33 + b"\x00", "an id in a Negentropy message is too long"),
        (b"\x61\x01\x00\x03", "no mode 3"),
        (b"\x61" + b"\x80" * 10 + b"\x00", "a number in a Negentropy message is too long"),
        (b"\x61" + encode_varint(INFINITY) + b"\0\0\x03\0\0", "a time in a Negentropy message is too high"),
        (b"\x61\x05\x01\x02\x00\x01\x01\x01\x00", "ascend"),
        (b"\x61\x00\x01\x02\x00\x07\x00\x00", "ascend"),
    ],
)
def test_a_frame_that_cannot_be_is_refused(frame: bytes, reason: str) -> None:
    for vector in (EMPTY, made_up(range(100))):
        with pytest.raises(InvalidFrame, match=reason) as refused:
            answer(vector, frame)
        assert refused.value.refusal.prefix == "invalid"


@given(st.binary(max_size=300))
def test_any_bytes_are_answered_or_refused(frame: bytes) -> None:
    vector = made_up(range(100), per_second=3)
    for side in (lambda: answer(vector, b"\x61" + frame), lambda: Client(vector).reconcile(b"\x61" + frame)):
        try:
            side()
        except InvalidFrame as refused:
            assert str(refused).startswith("invalid: ")


def test_a_frame_of_very_many_ranges_is_answered_in_steps() -> None:
    steps = Server(made_up(range(100))).answer(b"\x61" + b"\x02\x00\x00" * 1_000)

    assert sum(1 for _ in steps) == 3


def test_a_frame_may_grow_no_further_than_its_limit_however_much_is_asked() -> None:
    vector = made_up(range(5_000))
    doubts = b"".join(b"\x02\0\1" + b"?" * 16 for _ in range(3_000))

    reply = answer(vector, b"\x61" + encode_varint(NOW) + b"\0\0" + doubts, max_frame_bytes=4_096)

    assert 3_500 < len(reply) <= 4_096


# Gathering.


def gathered(pages: Sequence[Sequence[Item]]) -> Vector:
    gathering = Gathering()
    for page in pages:
        exhaust(gathering.add(page))
    return exhaust(gathering.seal())


@given(seeds, st.integers(1, 300), st.sampled_from([1, 3, 40, 1_000]), st.integers(1, 50))
def test_pages_from_the_newest_to_the_oldest_make_one_set(
    seed: int, count: int, per_second: int, size: int
) -> None:
    items = [(NOW + n // per_second, sha256(b"%d %d" % (seed, n)).digest()) for n in range(count)]
    newest_first = items[::-1]

    vector = gathered([newest_first[n : n + size] for n in range(0, count, size)])

    assert [vector.item(n) for n in range(len(vector))] == sorted(items)
    assert vector.fingerprint(1, count) == Vector.of(items).fingerprint(1, count)


def test_empty_pages_add_nothing() -> None:
    assert len(gathered([[], []])) == 0
    assert len(gathered([[], [(NOW, b"i" * 32)], []])) == 1


def test_very_many_items_of_one_second_are_sorted_in_steps() -> None:
    ids = [sha256(b"%d" % n).digest() for n in range(20_000)]
    gathering = Gathering()
    for start in range(0, 20_000, 1_000):
        exhaust(gathering.add([(NOW, id_) for id_ in ids[start : start + 1_000]]))

    steps = gathering.add([(NOW - 1, b"i" * 32)])

    assert sum(1 for _ in steps) == 3
    assert exhaust(gathering.seal()).ids(0, 20_001) == b"i" * 32 + b"".join(sorted(ids))
