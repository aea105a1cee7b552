"""Signed events to measure with: the same ones on every machine, made once and kept in a cache folder.

A thousand authors, a few of whom write most; notes, replies, reactions, reposts, profiles, follow lists,
relay lists and articles over thirty days. No two share a second, so that every answer has one order.
"""

import bisect
import json
import os
import random
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from itertools import accumulate
from pathlib import Path

from relay.nostr.event import Event, EventId, PubKey, compute_id, decode, encode
from relay.nostr.keys import SecretKey
from relay.nostr.tags import Tags

AUTHORS = 1_000
NEWEST = 1_767_225_600
"""2026-01-01 00:00 UTC: no event of a set is as new as that."""
SECONDS = 30 * 86_400
_SEED = 1
_REACH = 5_000
"""Replies and reactions go to one of so many latest notes."""

SYLLABLES = [
    "ba",
    "den",
    "fra",
    "go",
    "hus",
    "in",
    "kir",
    "lo",
    "mar",
    "nat",
    "or",
    "pil",
    "ran",
    "sol",
    "tor",
    "ul",
]
FOREIGN = ["日本語", "привет", "naïve", "señor", "🤙", "⚡", "μέλι"]
HASHTAGS = ["nostr", "art", "news", "music", "bitcoin", "food", "python", "cats"]


@dataclass(frozen=True)
class Draft:
    """An event without its signature."""

    author: int
    id: EventId
    created_at: int
    kind: int
    tags: Tags
    content: str


@dataclass(frozen=True)
class DataSet:
    """Events in order of created_at."""

    events: tuple[Event, ...]

    @cached_property
    def surviving(self) -> tuple[Event, ...]:
        """What a relay keeps of them, newest first: of each address the latest (NIP-01)."""
        kept: dict[object, Event] = {event.address or event.id: event for event in self.events}
        return tuple(sorted(kept.values(), key=lambda event: -event.created_at))


@cache
def secret(author: int) -> SecretKey:
    """Return the key of an author, by number."""
    return SecretKey(sha256(b"torv benchmark author %d" % author).digest())


@cache
def pubkeys() -> tuple[PubKey, ...]:
    """Return the public keys of all authors, by number."""
    return tuple(PubKey(secret(author).public) for author in range(AUTHORS))


def cache_folder() -> Path:
    """Return where sets are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "torv" / "benchmarks"


def load(size: int, folder: Path) -> DataSet:
    """Return the set of so many events; made and signed if the folder does not have it."""
    # Another generator makes other events: they are not to be mixed up.
    version = sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = folder / f"events-{size}-{version}.jsonl"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        with partial.open("wb") as file:
            file.writelines(encode(event) + b"\n" for event in signed(list(drafts(size))))
        partial.rename(path)
    with path.open("rb") as file:
        return DataSet(tuple(map(decode, file)))


def signed(drafts: Sequence[Draft]) -> Iterator[Event]:
    """Sign the drafts, on all cores."""
    with ProcessPoolExecutor() as processes:
        work = [(draft.author, draft.id) for draft in drafts]
        signatures = processes.map(_sign, work, chunksize=500)
        for draft, sig in zip(drafts, signatures, strict=True):
            pubkey = pubkeys()[draft.author]
            yield Event(draft.id, pubkey, draft.created_at, draft.kind, draft.tags, draft.content, sig)


def _sign(work: tuple[int, EventId]) -> str:
    author, id_ = work
    return secret(author).sign(id_)


class Crowd:
    """Picks authors: the most active writes a thousand times as much as the least (Zipf)."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._ranks = list(range(AUTHORS))
        random.Random(_SEED).shuffle(self._ranks)
        self._weights = list(accumulate(1 / rank for rank in range(1, AUTHORS + 1)))

    def author(self) -> int:
        """Return the number of an author, the active ones more often."""
        return self._ranks[bisect.bisect(self._weights, self._chance.random() * self._weights[-1])]

    def authors(self, count: int) -> list[int]:
        """Return different authors, half of them by activity and half evenly."""
        chosen: dict[int, None] = {}
        while len(chosen) < count:
            active = self._chance.random() < 0.5
            chosen[self.author() if active else self._chance.randrange(AUTHORS)] = None
        return list(chosen)


class Writer:
    """Writes what people write."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._words = sorted(
            {"".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(3_000)}
        )

    def text(self, least: int, most: int) -> str:
        """Return words of so many characters about, short texts more often than long ones."""
        chance = self._chance
        length = int(least * (most / least) ** chance.random())
        words: list[str] = []
        while length > 0:
            word = chance.choice(FOREIGN if chance.random() < 0.03 else self._words)
            match chance.random():
                case luck if luck < 0.02:
                    word += "\n"
                case luck if luck < 0.04:
                    word = f'"{word}"'
            words.append(word)
            length -= len(word) + 1
        return " ".join(words)


def drafts(size: int) -> Iterator[Draft]:
    """Yield the events of a set in order of time. Equal sizes give equal events."""
    step = SECONDS // size
    if not step:
        raise ValueError(f"at most {SECONDS} events")
    chance = random.Random(_SEED)
    return written(
        (NEWEST - SECONDS + number * step + chance.randrange(step) for number in range(size)), chance
    )


def written(times: Iterable[int], chance: random.Random, writer: Writer | None = None) -> Iterator[Draft]:
    """Yield what the crowd writes at these times, which rise; in `writer`'s words, if one is given."""
    crowd, writer = Crowd(chance), writer or Writer(chance)
    notes: list[Draft] = []
    for created_at in times:
        author = crowd.author()
        kind, tags, content = _write(chance, crowd, writer, author, notes)
        id_ = compute_id(pubkeys()[author], created_at, kind, tags, content)
        draft = Draft(author, id_, created_at, kind, tags, content)
        if kind == 1:
            notes.append(draft)
            del notes[:-_REACH]
        yield draft


def _write(
    chance: random.Random, crowd: Crowd, writer: Writer, author: int, notes: Sequence[Draft]
) -> tuple[int, Tags, str]:
    """Return kind, tags and content of the next event."""

    def recent() -> Draft:
        return notes[-1 - int(chance.random() ** 3 * len(notes))]

    luck = chance.random()
    if luck < 0.70 or not notes:
        tags: list[tuple[str, ...]] = []
        if notes and chance.random() < 0.55:
            root = recent()
            tags = [("e", root.id, "wss://relay.example", "root"), ("p", pubkeys()[root.author])]
        if chance.random() < 0.2:
            tags += [("t", tag) for tag in chance.sample(HASHTAGS, chance.randint(1, 3))]
        return 1, tuple(tags), writer.text(60, 600)
    if luck < 0.90:
        liked = recent()
        return 7, (("e", liked.id), ("p", pubkeys()[liked.author]), ("k", "1")), chance.choice("++++🤙-")
    if luck < 0.93:
        reposted = recent()
        return 6, (("e", reposted.id, "wss://relay.example"), ("p", pubkeys()[reposted.author])), ""
    if luck < 0.95:
        return 0, (), json.dumps({"name": f"author {author}", "about": writer.text(40, 300)})
    if luck < 0.965:
        return 3, tuple(("p", pubkeys()[followed]) for followed in crowd.authors(200)), ""
    if luck < 0.985:
        relays = chance.sample(range(50), chance.randint(3, 8))
        return 10_002, tuple(("r", f"wss://relay{relay}.example") for relay in relays), ""
    d = f"article-{chance.randrange(20)}"
    return 30_023, (("d", d), ("title", writer.text(20, 80))), writer.text(2_000, 8_000)
