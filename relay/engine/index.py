"""Which subscriptions can an event concern? An inverted index over open filters.

Each filter is filed under one of its conditions only, the narrowest by nature: ids, else authors, else
one tag letter, else kinds, else "everything". An event then meets only the filters under its own id,
author, tags and kind.
"""

from collections.abc import Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.tags import indexed


class Filtered(Protocol):
    """Something that waits for events."""

    @property
    def filters(self) -> Sequence[Filter]: ...


S = TypeVar("S", bound=Filtered)
Key = tuple[str, str | int]

_EVERYTHING: Key = ("", "")


class SubscriptionIndex(Generic[S]):
    """A set of subscriptions that answers "who wants this event?"."""

    def __init__(self) -> None:
        self._filed: dict[Key, dict[S, None]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, subscription: S) -> None:
        """File a subscription, once."""
        self._size += 1
        for wanted in subscription.filters:
            for key in _keys(wanted):
                self._filed.setdefault(key, {})[subscription] = None

    def remove(self, subscription: S) -> None:
        """Forget a subscription that was filed."""
        self._size -= 1
        for wanted in subscription.filters:
            for key in _keys(wanted):
                filed = self._filed.get(key)
                if filed is not None:
                    filed.pop(subscription, None)
                    if not filed:
                        del self._filed[key]

    def matching(self, event: Event) -> list[S]:
        """Return the subscriptions with a filter that matches, each once."""
        filed = self._filed
        found = [group for key in _looked_up(event) if (group := filed.get(key))]
        if not found:
            return []
        candidates = found[0] if len(found) == 1 else dict.fromkeys(s for group in found for s in group)
        return [
            subscription
            for subscription in candidates
            if any(wanted.matches(event) for wanted in subscription.filters)
        ]


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
