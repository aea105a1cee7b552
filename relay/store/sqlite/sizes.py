"""What a database holds and how large it is, from its index: cheap, also where there are many events."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from relay.nostr.event import PubKey
from relay.nostr.filter import Filter
from relay.store.api import MAX_SEQ, Seq
from relay.store.sqlite.cursors import Asking
from relay.store.sqlite.postings import MAX_TS, SEQ_BITS, SEQ_MASK, Hashes
from relay.store.sqlite.reader import SqliteReader
from relay.store.sqlite.schema import hash_key, open_for_reading
from relay.store.sqlite.tiers import TIERS

AGES = (86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400, 365 * 86_400)
"""Seconds; events are counted by which of these they are younger than."""

_AT_ONCE = 20_000
_SAMPLED = 20_000
"""Events whose authors are looked at; of those who wrote most of these, all events are counted."""
_CANDIDATES = 4
_CACHE_MIB = 16

_EVERY = (
    " UNION ALL ".join(f"SELECT ts, kind FROM {tier} WHERE h = :every AND ts > :after" for tier in TIERS)
    + f" ORDER BY ts LIMIT {_AT_ONCE}"
)
_DEAD = "SELECT seq FROM dead WHERE seq IN (SELECT value FROM json_each(?))"


@dataclass(slots=True)
class Sizes:
    """What was counted."""

    events: int = 0
    kinds: Counter[int] = field(default_factory=Counter)
    younger: dict[int, int] = field(default_factory=dict)
    """By age in seconds, how many are younger than that and not than the age before."""
    older: int = 0
    oldest: int | None = None
    newest: int | None = None
    authors: list[tuple[str, int]] = field(default_factory=list)
    """Who wrote most, and how much: the most prolific ones of a sample."""
    is_sample: bool = False
    head: int = 0
    database_bytes: int = 0
    unused_bytes: int = 0
    """Of the database: pages that are free."""
    removed: int = 0
    """Removed events that are still in the index."""
    deletions: int = 0
    """What is noted so that it does not come again."""
    can_shrink: bool = False


def measure(path: Path, *, now: int, most_authors: int, on_progress: Callable[[int], None]) -> Sizes:
    """Count what a database holds, in slices; a relay may be writing it. Raises StoreError."""
    connection = open_for_reading(path, cache_mib=_CACHE_MIB)
    reader = SqliteReader(path)
    try:
        ask = Asking(connection, path)
        sizes = Sizes(head=reader.head(), younger=dict.fromkeys(AGES, 0))
        _count(ask, Hashes(hash_key(connection)).everything, sizes, now, on_progress)
        sizes.authors = _authors(ask, reader, sizes, now, most_authors)
        page, pages, free, mode = (
            ask(f"PRAGMA {name}")[0][0]
            for name in ("page_size", "page_count", "freelist_count", "auto_vacuum")
        )
        sizes.database_bytes, sizes.unused_bytes = pages * page, free * page
        sizes.can_shrink = mode == 2
        ((sizes.removed, sizes.deletions),) = ask(
            "SELECT (SELECT count(*) FROM dead), (SELECT count(*) FROM tombstone)"
        )
        return sizes
    finally:
        reader.close()
        connection.close()


def _count(ask: Asking, every: int, sizes: Sizes, now: int, on_progress: Callable[[int], None]) -> None:
    after = -1
    while after < MAX_TS:
        with ask.snapshot():
            rows = ask(_EVERY, every=every, after=after)
            listed = "[" + ",".join(str(ts & SEQ_MASK) for ts, _ in rows) + "]"
            dead = {seq for (seq,) in ask(_DEAD, listed)}
        for ts, kind in rows:
            if ts & SEQ_MASK in dead:
                continue
            created_at = ts >> SEQ_BITS
            sizes.events += 1
            sizes.kinds[kind] += 1
            sizes.oldest = created_at if sizes.oldest is None else sizes.oldest
            sizes.newest = created_at
            age = next((age for age in AGES if now - created_at < age), None)
            if age is None:
                sizes.older += 1
            else:
                sizes.younger[age] += 1
        on_progress(sizes.events)
        if len(rows) < _AT_ONCE:
            return
        after = rows[-1][0]


def _authors(ask: Asking, reader: SqliteReader, sizes: Sizes, now: int, most: int) -> list[tuple[str, int]]:
    """Return the most prolific authors: all of them if there are few events, else those of a sample."""
    sizes.is_sample = sizes.head > _SAMPLED
    if sizes.is_sample:
        # The same ones each time, so that two looks can be compared.
        chance = random.Random(sizes.head)
        seqs = sorted(chance.randrange(1, sizes.head + 1) for _ in range(_SAMPLED))
    else:
        seqs = list(range(1, sizes.head + 1))
    seen: Counter[bytes] = Counter()
    for start in range(0, len(seqs), 500):
        listed = "[" + ",".join(map(str, seqs[start : start + 500])) + "]"
        rows = ask(
            "SELECT substr(json, 84, 64) FROM event WHERE seq IN (SELECT value FROM json_each(?))", listed
        )
        seen.update(author for (author,) in rows)  # type: ignore[misc]  # a BLOB
    counted: list[tuple[str, int]] = []
    for author, _ in seen.most_common(most * _CANDIDATES):
        wanted = Filter(authors=frozenset([PubKey(author.decode())]))
        number = sum(reader.count(wanted, None, upto=Seq(MAX_SEQ), now=now))
        counted.append((author.decode(), number))
    return sorted(counted, key=lambda one: (-one[1], one[0]))[:most]
