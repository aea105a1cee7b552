"""What a question looks like, without what it asks for: fit for logs and for an operator's eyes."""

from collections.abc import Iterable

from relay.nostr.filter import Filter

KINDS_SHOWN = 10


def shape(wanted: Filter) -> dict[str, object]:
    """Return a filter with counts in place of ids, keys, tag values and words; kinds and times stay."""
    shown: dict[str, object] = {}
    if wanted.ids is not None:
        shown["ids"] = len(wanted.ids)
    if wanted.authors is not None:
        shown["authors"] = len(wanted.authors)
    if wanted.kinds is not None:
        kinds = sorted(wanted.kinds)
        shown["kinds"] = kinds if len(kinds) <= KINDS_SHOWN else len(kinds)
    for letter, values in sorted(wanted.tags.items()):
        shown[f"#{letter}"] = len(values)
    if wanted.search is not None:
        shown["words"] = len(wanted.search.split())
    for name in ("since", "until", "limit"):
        value = getattr(wanted, name)
        if value is not None:
            shown[name] = value
    return shown


def in_one_line(filters: Iterable[dict[str, object]]) -> str:
    """Return the shapes of a question's filters as people read them: `authors:500 kinds:1,7 | ids:3`."""
    return " | ".join(
        " ".join(
            f"{name}:{','.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in one.items()
        )
        or "all"
        for one in filters
    )
