"""Subscription filters: reading and matching (NIP-01)."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from relay.nostr.event import Event
from relay.nostr.kinds import MAX_KIND
from relay.nostr.reasons import Prefix, Refusal, Refused, invalid
from relay.nostr.tags import indexed

MAX_TIME = 2**63 - 1

_ID_LENGTH = {64}
_HEX = b"0123456789abcdef"


class InvalidFilter(Refused):
    """The peer's filter is malformed, or asks for something that no relay rule knows."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a subscription asks for. None means "any"; an empty set matches nothing."""

    ids: frozenset[str] | None = None
    authors: frozenset[str] | None = None
    kinds: frozenset[int] | None = None
    tags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By single letter, without the `#`."""
    since: int | None = None
    """Unix seconds, inclusive."""
    until: int | None = None
    """Unix seconds, inclusive."""
    limit: int | None = None
    """How many stored events at most; live events do not count."""
    search: str | None = None
    """NIP-50 query; `matches` does not look at it."""

    def matches(self, event: Event) -> bool:
        """Say whether the event meets every condition but `limit` and `search`."""
        if self.ids is not None and event.id not in self.ids:
            return False
        if self.authors is not None and event.pubkey not in self.authors:
            return False
        if self.kinds is not None and event.kind not in self.kinds:
            return False
        if self.since is not None and event.created_at < self.since:
            return False
        if self.until is not None and event.created_at > self.until:
            return False
        if not self.tags:
            return True
        pairs = indexed(event.tags)
        return all(any((letter, value) in pairs for value in wanted) for letter, wanted in self.tags.items())

    @property
    def size(self) -> int:
        """How many ids, authors, kinds and tag values it names."""
        named = (self.ids, self.authors, self.kinds, *self.tags.values())
        return sum(len(chosen) for chosen in named if chosen is not None)

    @property
    def is_empty(self) -> bool:
        """Whether no event at all can match."""
        if self.since is not None and self.until is not None and self.since > self.until:
            return True
        if self.ids is not None and not self.ids:
            return True
        if self.authors is not None and not self.authors:
            return True
        if self.kinds is not None and not self.kinds:
            return True
        return not all(self.tags.values())

    def limited(self, limit: int | None) -> "Filter":
        """Return the same filter with another limit."""
        # A third of what `replace` takes; every question needs it.
        return Filter(
            self.ids, self.authors, self.kinds, self.tags, self.since, self.until, limit, self.search
        )


def parse_filter(value: object) -> Filter:
    """Read a filter out of parsed JSON. Raises InvalidFilter.

    Kinds above 65535 can match nothing and are dropped. Unknown keys are refused as `unsupported:`.
    """
    if type(value) is not dict:
        raise InvalidFilter(invalid("a filter is a JSON object"))
    known: dict[str, object] = {}
    tags: dict[str, frozenset[str]] = {}
    for key, wanted in value.items():
        match key:
            case "ids" | "authors":
                known[key] = _hex_set(key, wanted)
            case "kinds":
                known[key] = _kind_set(wanted)
            case "since" | "until" | "limit":
                known[key] = _number(key, wanted)
            case "search":
                if type(wanted) is not str:
                    raise InvalidFilter(invalid("search must be a string"))
                known[key] = wanted
            case "#e" | "#p":
                tags[key[1]] = _hex_set(key, wanted)
            case str() if len(key) == 2 and key[0] == "#" and key[1].isascii() and key[1].isalpha():
                tags[key[1]] = _string_set(key, wanted)
            case _:
                raise InvalidFilter(
                    Refusal(Prefix.UNSUPPORTED, f"filter contains unknown elements: {key[:32]!r}")
                )
    return Filter(tags=tags, **known)  # type: ignore[arg-type]  # each key was checked above


def encode_filter(wanted: Filter) -> dict[str, object]:
    """Return the filter as JSON values, sets sorted, absent conditions left out."""
    value: dict[str, object] = {}
    for name in ("ids", "authors", "kinds"):
        chosen = getattr(wanted, name)
        if chosen is not None:
            value[name] = sorted(chosen)
    for letter, chosen in sorted(wanted.tags.items()):
        value["#" + letter] = sorted(chosen)
    for name in ("since", "until", "limit", "search"):
        chosen = getattr(wanted, name)
        if chosen is not None:
            value[name] = chosen
    return value


def _list(key: str, wanted: object) -> list[object]:
    if type(wanted) is not list:
        raise InvalidFilter(invalid(f"{key} must be an array"))
    return wanted


def _string_set(key: str, wanted: object) -> frozenset[str]:
    items = _list(key, wanted)
    try:
        # Thousands of subscriptions name the same authors: one copy of each serves all.
        strings = set(map(sys.intern, items))  # type: ignore[arg-type]  # what is no string raises
    except TypeError:
        raise InvalidFilter(invalid(f"{key} must hold strings")) from None
    # Copied from a set it takes half the memory of one that grew.
    return frozenset(strings)


def _hex_set(key: str, wanted: object) -> frozenset[str]:
    strings = _string_set(key, wanted)
    # All at once: to match thousands one by one took a third of the time of reading them.
    if strings and (set(map(len, strings)) != _ID_LENGTH or "".join(strings).encode().translate(None, _HEX)):
        raise InvalidFilter(invalid(f"{key} must hold 64 lowercase hex digits each"))
    return strings


def _kind_set(wanted: object) -> frozenset[int]:
    items = _list("kinds", wanted)
    chosen = set()
    for item in items:
        if type(item) is not int or item < 0:
            raise InvalidFilter(invalid("kinds must hold integers from 0 to 65535"))
        if item <= MAX_KIND:
            chosen.add(item)
    return frozenset(chosen)


def _number(key: str, wanted: object) -> int:
    if type(wanted) is not int:
        raise InvalidFilter(invalid(f"{key} must be an integer"))
    if key == "limit" and wanted < 0:
        raise InvalidFilter(invalid("limit must not be negative"))
    return max(-MAX_TIME, min(wanted, MAX_TIME))
