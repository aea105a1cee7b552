"""Finding words and phrases in texts, however many are looked for: a text is taken apart once.

What is compared is folded: in any case, with or without accents, also in full-width letters.
"""

import re
import unicodedata
from collections.abc import Iterable

# Python counts the vowel signs of Indic scripts as no letters.
_WORDS = re.compile(r"(?:[^\W_]|[\u0900-\u0dff])+")
_MARKS = re.compile("[\u0300-\u036f]+")
# Scripts that put no spaces between words: there a phrase is found wherever its characters are.
_DENSE = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_BETWEEN = "\n"
"""Between two texts: no phrase goes beyond one."""


def fold(text: str) -> str:
    """Return the text in lower case, without accents and compatibility forms."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return unicodedata.normalize("NFC", _MARKS.sub("", decomposed))


class Phrases:
    """Words and phrases that are looked for."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._by_first_word: dict[str, list[tuple[str, str]]] = {}
        self._dense: list[tuple[str, str]] = []
        for phrase in phrases:
            words = _WORDS.findall(fold(phrase))
            if not words:
                continue
            if _DENSE.search(phrase):
                self._dense.append((" ".join(words), phrase))
            else:
                self._by_first_word.setdefault(words[0], []).append((f" {' '.join(words)} ", phrase))

    def __bool__(self) -> bool:
        return bool(self._by_first_word or self._dense)

    def found_in(self, texts: Iterable[str]) -> str | None:
        """Return one of the phrases that stands in one of the texts, as it was given; None if none does."""
        taken_apart = [_WORDS.findall(fold(text)) for text in texts]
        joined = ""
        for words in taken_apart:
            for word in self._by_first_word.keys() & set(words):
                joined = joined or _join(taken_apart)
                for looked_for, phrase in self._by_first_word[word]:
                    if looked_for in joined:
                        return phrase
        if self._dense:
            joined = joined or _join(taken_apart)
            return next((phrase for looked_for, phrase in self._dense if looked_for in joined), None)
        return None


def _join(texts: Iterable[list[str]]) -> str:
    return _BETWEEN.join(f" {' '.join(words)} " for words in texts)
