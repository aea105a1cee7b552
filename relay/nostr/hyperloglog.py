"""HyperLogLog as NIP-45 has it: how many different authors, in 256 bytes that can be merged.

A pubkey is random enough to serve as its own hash: the byte at an offset chooses the register, and the
run of zero bits behind it is the register's value. The offset follows from the filter, so that what
several relays (or a client by itself) made for one question can be merged.
"""

from hashlib import sha256
from math import log

from relay.nostr.filter import Filter
from relay.nostr.tags import HEX_64

REGISTERS = 256
"""One byte each."""
_VALUE_BYTES = 7
"""Bytes behind the register's that are looked at: other implementations keep no more, so 57 is the most."""


class Registers:
    """What was counted so far, for questions of one offset."""

    __slots__ = ("_offset", "_values")

    def __init__(self, offset: int, values: bytes = bytes(REGISTERS)) -> None:
        """Start with nothing, or from `values` of before. Raises ValueError where those are not 256 bytes."""
        if len(values) != REGISTERS:
            raise ValueError(f"HyperLogLog has {REGISTERS} registers, not {len(values)}")
        self._offset = offset
        self._values = bytearray(values)

    def add(self, pubkey: str) -> None:
        """Count an author (64 hex digits); once counted, never again."""
        register, value = register_of(pubkey, self._offset)
        if value > self._values[register]:
            self._values[register] = value

    def __bytes__(self) -> bytes:
        return bytes(self._values)


def register_of(pubkey: str, offset: int) -> tuple[int, int]:
    """Return which register an author (64 hex digits) raises, and to what."""
    at = 2 * offset
    behind = int(pubkey[at + 2 : at + 2 + 2 * _VALUE_BYTES], 16)
    return int(pubkey[at : at + 2], 16), 8 * _VALUE_BYTES - behind.bit_length() + 1


def merge(one: bytes, other: bytes) -> bytes:
    """Return the registers of all that either has counted. Both are 256 bytes."""
    return bytes(map(max, one, other))


def estimate(registers: bytes) -> int:
    """Return how many authors were counted, about: one time in three it is off by more than 6.5 %.

    Few are counted almost exactly, by the registers that are still empty.
    """
    raw = 0.7213 / (1 + 1.079 / REGISTERS) * REGISTERS**2 / sum(2.0**-value for value in registers)
    empty = registers.count(0)
    if raw <= 2.5 * REGISTERS and empty:
        return int(REGISTERS * log(REGISTERS / empty))
    return int(raw)


def offset_for(wanted: Filter) -> int | None:
    """Return the offset for a filter, 8…23; None where the NIP defines none, or it is not worth one.

    Only what the NIP calls common queries qualify: some kinds, one tag with one value, nothing else.
    Of several tags or values JSON's order would decide, which a filter here does not keep.
    """
    others = (wanted.ids, wanted.authors, wanted.since, wanted.until, wanted.search)
    if not wanted.kinds or any(other is not None for other in others) or len(wanted.tags) != 1:
        return None
    (values,) = wanted.tags.values()
    if len(values) != 1:
        return None
    (value,) = values
    return offset_of(value)


def offset_of(value: str) -> int:
    """Return the offset that a tag's value gives: an id or a key, an address, or any text."""
    if HEX_64(value):
        digits = value
    else:
        parts = value.split(":", 2)
        is_address = len(parts) == 3 and HEX_64(parts[1])
        digits = parts[1] if is_address else sha256(value.encode()).hexdigest()
    return int(digits[32], 16) + 8
