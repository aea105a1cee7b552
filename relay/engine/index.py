"""Which subscriptions can an event concern? An inverted index over open filters.

Each filter is filed under one of its conditions only, the narrowest by nature: ids, else authors, else
one tag letter, else kinds, else "everything". An event then meets only the filters under its own id,
author, tags and kind.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Generic, Protocol, TypeVar

from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.tags import indexed


class Filtered(Protocol):
    """Something that waits for events."""

    @property
    def filters(self) -> Sequence[Filter]: ...


S = TypeVar("S", bound=Filtered)
T = TypeVar("T")
Key = tuple[str, str | int]

_EVERYTHING: Key = ("", "")


class SubscriptionIndex(Generic[S]):
    """A set of subscriptions that answers "who wants this event?"."""

    def __init__(self) -> None:
        self._certain: dict[Key, dict[S, None]] = {}
        """Those of whom some filter asks for nothing but the key: it matches without a look."""
        self._possible: dict[Key, dict[S, tuple[Filter, ...]]] = {}
        """Those of whom these filters ask for more than the key."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, subscription: S) -> None:
        """File a subscription, once."""
        self._size += 1
        for wanted in subscription.filters:
            if _is_only_key(wanted):
                for key in _keys(wanted):
                    self._certain.setdefault(key, {})[subscription] = None
            else:
                # Most have one filter under a key, and all its keys then hold the same tuple.
                alone = (wanted,)
                for key in _keys(wanted):
                    filed = self._possible.setdefault(key, {})
                    earlier = filed.get(subscription)
                    filed[subscription] = alone if earlier is None else (*earlier, wanted)

    def remove(self, subscription: S) -> None:
        """Forget a subscription that was filed."""
        self._size -= 1
        for wanted in subscription.filters:
            for key in _keys(wanted):
                _unfile(self._certain, key, subscription)
                _unfile(self._possible, key, subscription)

    def matching(self, event: Event) -> list[S]:
        """Return the subscriptions with a filter that matches, each once."""
        groups: list[Iterable[S]] = []
        for key in _looked_up(event):
            certain = self._certain.get(key)
            if certain:
                groups.append(certain)
            possible = self._possible.get(key)
            if possible:
                matching = [
                    subscription
                    for subscription, filters in possible.items()
                    if filters[0].matches(event) or any(wanted.matches(event) for wanted in filters[1:])
                ]
                if matching:
                    groups.append(matching)
        if len(groups) < 2:
            return list(groups[0]) if groups else []
        return list(dict.fromkeys(chain.from_iterable(groups)))


def _unfile(filed: dict[Key, dict[S, T]], key: Key, subscription: S) -> None:
    group = filed.get(key)
    if group is not None:
        group.pop(subscription, None)
        if not group:
            del filed[key]


def _is_only_key(wanted: Filter) -> bool:
    """Say whether every event found under one of the filter's keys matches."""
    conditions = [wanted.ids, wanted.authors, wanted.kinds, *wanted.tags.values()]
    return (
        sum(condition is not None for condition in conditions) <= 1
        and wanted.since is None
        and wanted.until is None
    )


def _keys(wanted: Filter) -> list[Key]:
    if wanted.is_empty:
        return []
    if wanted.ids is not None:
        return [("id", id_) for id_ in wanted.ids]
    if wanted.authors is not None:
        return [("author", author) for author in wanted.authors]
    if wanted.tags:
        letter, chosen = min(wanted.tags.items(), key=lambda item: (len(item[1]), item[0]))
        return [("#" + letter, value) for value in chosen]
    if wanted.kinds is not None:
        return [("kind", kind) for kind in wanted.kinds]
    return [_EVERYTHING]


def _looked_up(event: Event) -> Iterator[Key]:
    yield ("id", event.id)
    yield ("author", event.pubkey)
    yield ("kind", event.kind)
    yield _EVERYTHING
    for letter, value in indexed(event.tags):
        yield ("#" + letter, value)
