"""Lists of keys, kinds, networks and words, as operators write them in settings and in files.

A file holds one entry on each line; empty lines and those that begin with `#` say nothing.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import NamedTuple, TypeVar

from relay.nostr.kinds import MAX_KIND
from relay.nostr.nip19 import public_key

MAX_FILE_BYTES = 64 * 2**20
MAX_SHOWN = 20
"""Mistakes of one file that are told; a file of another sort is wrong in every line."""
MAX_PHRASE_CHARS = 200

Network = IPv4Network | IPv6Network
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Span:
    """Kinds that follow each other."""

    first: int
    last: int
    """Inclusive."""

    def __contains__(self, kind: int) -> bool:
        return self.first <= kind <= self.last


EVERY_KIND = Span(0, MAX_KIND)
_SPAN = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?").fullmatch
_RATE = re.compile(r"([0-9]{1,9})/(second|minute|hour|day)").fullmatch
_SECONDS = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}


def parse_key(text: str) -> str:
    """Read npub1… or hex; return hex. Raises ValueError."""
    return public_key(text)


def parse_span(text: str) -> Span:
    """Read `1`, `30000-39999` or `*`. Raises ValueError."""
    if text == "*":
        return EVERY_KIND
    found = _SPAN(text)
    if found is not None:
        span = Span(int(found[1]), int(found[2] or found[1]))
        if span.first <= span.last <= MAX_KIND:
            return span
    raise ValueError(f'expected a kind (0 to {MAX_KIND}), such as "1", or a range of kinds: "30000-39999"')


def parse_network(text: str) -> Network:
    """Read an address, or a network such as 192.0.2.0/24. Raises ValueError."""
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise ValueError("expected an address or a network, such as 192.0.2.7 or 2001:db8::/32") from None
    raise ValueError(f"expected the first address of the network, {meant}")


def parse_phrase(text: str) -> str:
    """Read a word, or several in a row. Raises ValueError."""
    if not any(character.isalnum() for character in text) or len(text) > MAX_PHRASE_CHARS:
        raise ValueError(f"expected a word or a phrase of at most {MAX_PHRASE_CHARS} characters")
    return " ".join(text.split())


def parse_rate(text: str) -> tuple[int, int]:
    """Read `30/minute`; return how many, and in how many seconds. Raises ValueError."""
    found = _RATE(text)
    if found is None or not int(found[1]):
        raise ValueError('expected so many in a second, minute, hour or day, such as "30/minute"')
    return int(found[1]), _SECONDS[found[2]]


def by_kind(text: str, parse: Callable[[str], T]) -> tuple[Span, T]:
    """Read `KINDS=VALUE`. Raises ValueError."""
    kinds, equals, value = text.partition("=")
    if not equals:
        raise ValueError('expected kinds, "=" and a value; "*" stands for all kinds')
    return parse_span(kinds.strip()), parse(value.strip())


def chosen(entries: Iterable[str], parse: Callable[[str], T]) -> Callable[[int], T | None]:
    """Return what says the value for a kind: that of the first entry that names it, or None."""
    read = [by_kind(entry, parse) for entry in entries]

    @lru_cache(maxsize=1_024)
    def value_for(kind: int) -> T | None:
        return next((value for span, value in read if kind in span), None)

    return value_for


class Networks:
    """A set of networks; whether it holds an address costs a look-up for each length of prefix in it."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        found: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            key = network.version, network.max_prefixlen - network.prefixlen
            found.setdefault(key, set()).add(int(network.network_address) >> key[1])
        self._found = tuple(found.items())

    def __bool__(self) -> bool:
        return bool(self._found)

    def __contains__(self, address: object) -> bool:
        try:
            known = ip_address(str(address))
        except ValueError:
            return False
        if isinstance(known, IPv6Address) and known.ipv4_mapped is not None:
            known = known.ipv4_mapped
        number = int(known)
        return any(
            version == known.version and number >> shift in prefixes
            for (version, shift), prefixes in self._found
        )


class ListMistake(NamedTuple):
    """A line that is no entry."""

    where: str
    """The file and the line: `denied.txt:3`."""
    found: str
    hint: str

    def __str__(self) -> str:
        return f"{self.where}: {self.hint}; found {self.found!r}"


def read_list(path: Path, parse: Callable[[str], T]) -> tuple[list[T], list[ListMistake]]:
    """Read a file of entries; return those that are right, and the lines that are not. Raises OSError."""
    with path.open("rb") as file:
        raw = file.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        return [], [ListMistake(str(path), "more", f"expected {MAX_FILE_BYTES} bytes at most")]
    entries: list[T] = []
    mistakes: list[ListMistake] = []
    for number, line in enumerate(raw.decode(errors="replace").splitlines(), 1):
        text = line.strip().removeprefix("\ufeff")
        if not text or text.startswith("#"):
            continue
        try:
            entries.append(parse(text))
        except ValueError as error:
            # Somebody may have pasted a secret key.
            shown = "nsec1… (not shown)" if "nsec1" in text.lower() else text[:60]
            mistakes.append(ListMistake(f"{path}:{number}", shown, str(error)))
    return entries, mistakes
