"""HyperLogLog: the vectors of other implementations, and what merging must not change."""

import random
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.nostr.filter import Filter
from relay.nostr.hyperloglog import REGISTERS, Registers, estimate, merge, offset_for, offset_of

# From nostr-tools (nip45.test.ts), which has them from nostrlib, at offset 8.
PUBKEYS = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
    "abcdef0123456789abcdef0123456789abcdef0123456789abcdef0123456789",
    "0000000000000000010000000000000000000000000000000000000000000000",
    "0000000000000000028000000000000000000000000000000000000000000000",
    "0000000000000000024000000000000000000000000000000000000000000000",
]
VECTOR = bytes.fromhex("393902" + "00" * 168 + "01" + "00" * 83 + "01")
AUTHORS = [sha256(b"author %d" % n).hexdigest() for n in range(20_000)]

pubkeys = st.binary(min_size=32, max_size=32).map(bytes.hex)


def count(*authors: str, offset: int = 8) -> bytes:
    registers = Registers(offset)
    for author in authors:
        registers.add(author)
    return bytes(registers)


def test_the_registers_are_those_of_other_implementations() -> None:
    assert len(VECTOR) == 256
    assert count(*PUBKEYS) == VECTOR
    assert estimate(VECTOR) == 5


def test_parts_that_were_counted_apart_merge_to_the_whole() -> None:
    assert merge(count(*PUBKEYS[::2]), count(*PUBKEYS[1::2])) == VECTOR
    assert merge(bytes(REGISTERS), VECTOR) == VECTOR


@pytest.mark.parametrize(
    ("value", "offset"),
    [
        # The first two from nostr-tools.
        ("00000000000000000000000000000000f0000000000000000000000000000000", 23),
        ("30023:00000000000000000000000000000000a0000000000000000000000000000000:test", 18),
        ("30023:00000000000000000000000000000000a0000000000000000000000000000000:", 18),
        ("30023:00000000000000000000000000000000a0000000000000000000000000000000:a:b", 18),
        (64 * "0", 8),
        # sha256 of the text; its digit at 32 is named behind.
        ("nostr", 8 + 0x4),
        ("", 8 + 0x2),
        ("F" * 64, 8 + 0xB),
        ("30023:" + "0" * 64, 8 + 0xF),
    ],
)
def test_the_offset_follows_from_the_value(value: str, offset: int) -> None:
    assert offset_of(value) == offset


TARGET = "00000000000000000000000000000000a0000000000000000000000000000000"


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(kinds=frozenset({7}), tags={"e": frozenset({TARGET})}),
        Filter(kinds=frozenset({1, 1111}), tags={"q": frozenset({TARGET})}),
        Filter(kinds=frozenset({1111}), tags={"E": frozenset({TARGET})}),
        Filter(kinds=frozenset({3}), tags={"p": frozenset({TARGET})}, limit=5),
        Filter(kinds=frozenset({7}), tags={"a": frozenset({f"30023:{TARGET}:x"})}),
    ],
)
def test_common_queries_qualify(wanted: Filter) -> None:
    assert offset_for(wanted) == 18


@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(kinds=frozenset({7})),
        Filter(tags={"e": frozenset({TARGET})}),
        Filter(kinds=frozenset(), tags={"e": frozenset({TARGET})}),
        Filter(kinds=frozenset({7}), tags={"e": frozenset({TARGET, 64 * "1"})}),
        Filter(kinds=frozenset({7}), tags={"e": frozenset({TARGET}), "p": frozenset({TARGET})}),
        Filter(kinds=frozenset({7}), tags={"e": frozenset()}),
        Filter(kinds=frozenset({7}), tags={"e": frozenset({TARGET})}, authors=frozenset({TARGET})),
        Filter(kinds=frozenset({7}), tags={"e": frozenset({TARGET})}, ids=frozenset({TARGET})),
        Filter(kinds=frozenset({7}), tags={"e": frozenset({TARGET})}, since=0),
        Filter(kinds=frozenset({7}), tags={"e": frozenset({TARGET})}, until=0),
        Filter(kinds=frozenset({7}), tags={"e": frozenset({TARGET})}, search=""),
    ],
)
def test_other_queries_do_not(wanted: Filter) -> None:
    assert offset_for(wanted) is None


@pytest.mark.parametrize("size", [255, 257, 0])
def test_registers_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"256 registers, not {size}"):
        Registers(8, bytes(size))


def test_counting_goes_on_from_what_was_kept() -> None:
    registers = Registers(8, count(*PUBKEYS[:3]))
    for pubkey in PUBKEYS[3:]:
        registers.add(pubkey)

    assert bytes(registers) == VECTOR


@given(st.lists(pubkeys), st.lists(pubkeys), st.integers(8, 23))
def test_neither_order_nor_repetition_nor_partition_matters(
    some: list[str], others: list[str], offset: int
) -> None:
    whole = count(*some, *others, offset=offset)

    assert merge(count(*others, offset=offset), count(*some, *some, offset=offset)) == whole
    assert count(*reversed(some + others), offset=offset) == whole
    assert max(whole) <= 57


@pytest.mark.parametrize(
    ("authors", "expected"),
    [(0, 0), (1, 1), (10, 10), (100, 106), (400, 428), (1_000, 1_097), (20_000, 18_617)],
)
def test_an_estimate_comes_near(authors: int, expected: int) -> None:
    assert estimate(count(*AUTHORS[:authors])) == expected


def test_estimates_are_as_far_off_as_256_registers_make_them() -> None:
    chance = random.Random(45)
    errors = []
    for _ in range(100):
        registers = count(*(chance.randbytes(32).hex() for _ in range(1_000)))
        errors.append(abs(estimate(registers) / 1_000 - 1))

    # 1.04 / sqrt(256) is one standard deviation: 65 ‰.
    assert 0.03 < sum(errors) / len(errors) < 0.08


def test_registers_that_are_all_full_are_estimated_too() -> None:
    assert estimate(bytes([1] * REGISTERS)) == 367
