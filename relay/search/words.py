"""What is searched for in what: events and questions become the same words. Pure.

A word is a run of letters and digits, lower case, without diacritics. Scripts that put no spaces between
words (Chinese, Japanese, Thai…), and Korean, which puts few, become overlapping pairs of characters.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import add
from typing import NamedTuple

import orjson

from relay.nostr import kinds
from relay.nostr.event import Event

MAX_WORD = 40
"""Longer runs of letters and digits are keys, hashes and file names, not words."""
MAX_CONTENT = 32_768
"""Characters of a content that are indexed; what an article says first is what it is found by."""
MAX_UNITS = 12
"""Words and phrases of a question that count; what follows is left out."""

# Scripts without spaces, as ranges: Thai and Lao, Myanmar, Khmer, Hangul, kana, Han with its extensions.
_DENSE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1100-\u11ff\uac00-\ud7ff"
    "\u3041-\u309f\u30a0-\u30ff\u31f0-\u31ff\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
# Python counts the vowel signs of Indic scripts as no letters; without them words fall to pieces.
_RUN = re.compile(
    rf"([{_DENSE}]+)"
    rf"|([\u2600-\u27bf\U0001f000-\U0001faff])"
    rf"|((?:(?![{_DENSE}])(?:[^\W_]|[\u0900-\u0dff]))+)"
)
# The same for ASCII, six times as fast.
_ASCII_RUN = re.compile(r"[a-z0-9]+")
_DENSE_RUN = re.compile(f"[{_DENSE}]+")
_BEYOND_ASCII = re.compile(rf"[a-z0-9]*(?:(?![{_DENSE}\x00-\x7f])[^\W_])(?:(?![{_DENSE}])[^\W_])*")
# What is left of a letter's decomposition, and what Hebrew and Arabic mostly leave out.
_MARKS = re.compile("[\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670]+")
# Letters that Unicode does not decompose; keyboards without them write the right-hand side.
_PLAIN = {"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}

# An extension of NIP-50 is a key and a value with a colon between; a URL is none, nor is a time of day.
_EXTENSION = re.compile(r"[a-z][a-z0-9_-]*:(?!//)\S+").fullmatch
_CHUNK = re.compile(r'"([^"]*)"?|(\S+)')


def fold(text: str) -> str:
    """Return the text in lower case, without diacritics and compatibility forms."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    # Composed again: Hangul and the kana's sounding marks fell apart too.
    folded = unicodedata.normalize("NFC", _MARKS.sub("", decomposed))
    # A tenth of the time of str.translate.
    for letter, plain in _PLAIN.items():
        folded = folded.replace(letter, plain)
    return folded


def words(folded: str) -> list[str]:
    """Return the words of folded text in order; of a dense script pairs, of a single character itself."""
    if folded.isascii():
        return [word for word in _ASCII_RUN.findall(folded) if len(word) <= MAX_WORD]
    found: list[str] = []
    for dense, symbol, word in _RUN.findall(folded):
        if word:
            if len(word) <= MAX_WORD:
                found.append(word)
        elif symbol or len(dense) == 1:
            found.append(symbol or dense)
        else:
            found.extend(map(add, dense, dense[1:]))
    return found


def singles(folded: str) -> set[str]:
    """Return each character of dense scripts, for who asks for one character alone."""
    return set() if folded.isascii() else set("".join(_DENSE_RUN.findall(folded)))


def accented(text: str) -> set[str]:
    """Return the words whose folding loses something, in lower case: a hit that spells as asked is better."""
    if text.isascii():
        return set()
    lowered = unicodedata.normalize("NFC", text.casefold())
    return {word for word in _BEYOND_ASCII.findall(lowered) if len(word) <= MAX_WORD and _is_lossy(word)}


@lru_cache(65_536)
def _is_lossy(word: str) -> bool:
    return fold(word) != word


class Text(NamedTuple):
    """What an event can be found by."""

    heading: str
    """Name or title; found there, a word weighs more."""
    body: str


def text_of(event: Event) -> Text:
    """Return what is searched of an event, whatever its kind."""
    if event.kind in _DESCRIBED_IN_JSON:
        return _described(event.content)
    heading, body = [], []
    for tag in event.tags:
        if len(tag) < 2:
            continue
        match tag[0]:
            case "title" | "name" | "subject":
                heading.append(tag[1])
            case "summary" | "about" | "description" | "t":
                body.append(tag[1])
            case "option" if len(tag) > 2:
                body.append(tag[2])
    return Text("\n".join(heading)[:MAX_CONTENT], "\n".join((event.content, *body))[:MAX_CONTENT])


# Profiles (NIP-01) and channels (NIP-28) say who they are in a JSON object.
_DESCRIBED_IN_JSON = frozenset({kinds.PROFILE, 40, 41})


def _described(content: str) -> Text:
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError:
        return Text("", "")
    if not isinstance(said, dict):
        return Text("", "")

    def texts(*keys: str) -> str:
        return "\n".join(value for key in keys if isinstance(value := said.get(key), str))[:MAX_CONTENT]

    return Text(texts("name", "display_name", "nip05"), texts("about"))


@dataclass(frozen=True, slots=True)
class Entry:
    """An event's text as the index keeps it: words with a space before and behind each."""

    heading: str
    body: str
    """With the heading's words first, and single characters of dense scripts last."""
    accented: str


def entry_of(text: Text) -> Entry:
    """Return the words of a text."""
    heading, body = fold(text.heading), fold(text.body)
    headings = words(heading)
    return Entry(
        _spaced(headings),
        _spaced([*headings, *words(body), *sorted(singles(heading) | singles(body))]),
        _spaced(sorted(accented(text.heading) | accented(text.body))),
    )


def _spaced(listed: Sequence[str]) -> str:
    return f" {' '.join(listed)} " if listed else ""


@dataclass(frozen=True)
class Words:
    """A question: what somebody typed, understood as well as can be."""

    units: tuple[str, ...]
    """All have to be there: words, or phrases whose words are joined by spaces."""
    accented: tuple[str, ...]
    """The words as they were spelled, where that says more."""
    is_blank: bool
    """Nothing was asked for but extensions: the rest of the filter decides alone."""

    @cached_property
    def _looked_for(self) -> tuple[str, ...]:
        return tuple(f" {unit} " for unit in self.units)

    def are_in(self, entry: Entry) -> bool:
        """Say whether an event's text holds all of them."""
        return bool(self.units) and all(unit in entry.body for unit in self._looked_for)


def parse_question(text: str) -> Words:
    """Read the `search` of a filter (NIP-50).

    "A query string may contain `key:value` pairs […], relays SHOULD ignore extensions they don't support."
    This relay supports none. What stands in double quotes is a phrase; no other sign has a meaning.
    """
    units: dict[str, None] = {}
    spelled: set[str] = set()
    is_blank = True
    for quoted, plain in _CHUNK.findall(text[:MAX_CONTENT]):
        if plain and _EXTENSION(plain):
            continue
        chunk = quoted or plain
        is_blank = is_blank and not chunk.strip()
        unit = " ".join(words(fold(chunk)))
        if unit:
            units[unit] = None
            spelled |= accented(chunk)
    return Words(tuple(units)[:MAX_UNITS], tuple(sorted(spelled)[:MAX_UNITS]), is_blank)
