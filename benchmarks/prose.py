"""Texts in which some words are everywhere, as in real ones: for searching.

Most are of the commonest words of English and Danish and of made-up ones, by Zipf's law: of 50,000 words
the first is in every second note, the last in one of ten thousand. Every tenth text is a run of Japanese
characters without spaces.
"""

import random
from itertools import accumulate

from benchmarks.dataset import SYLLABLES, Writer

VOCABULARY = 50_000
_ENGLISH = """the and to of a in is you that it for on was with as have be this not are but from they we what
all when"""
_DANISH = """og det er jeg ikke en at på der med den har vi så kan du være også når året gå før blå køn hvad
man smørrebrød"""
_JAPANESE = (
    "日本語の人生会社時間今日明日食べる飲む学校先生電車新聞世界平和自由"
    "猫犬鳥魚山川海空雨雪花木森林東京都大阪です"
)
_SEED = 11


def vocabulary() -> list[str]:
    """Return all words, the commonest first: the same ones at any time."""
    chance = random.Random(_SEED)
    common = [word for pair in zip(_ENGLISH.split(), _DANISH.split(), strict=True) for word in pair]
    made_up: dict[str, None] = {}
    while len(made_up) < VOCABULARY - len(common):
        made_up["".join(chance.choices(SYLLABLES, k=chance.randint(2, 5)))] = None
    return list(dict.fromkeys([*common, *made_up]))


def japanese(chance: random.Random, length: int) -> str:
    """Return a run of so many characters."""
    return "".join(chance.choices(_JAPANESE, k=length))


class Prose(Writer):
    """Writes in these words."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._words = vocabulary()
        self._weights = list(accumulate(1 / (rank + 2.7) for rank in range(1, len(self._words) + 1)))

    def text(self, least: int, most: int) -> str:
        """See `Writer.text`."""
        chance = self._chance
        length = int(least * (most / least) ** chance.random())
        if chance.random() < 0.1:
            return japanese(chance, max(2, length // 4))
        return " ".join(chance.choices(self._words, cum_weights=self._weights, k=max(1, length // 6)))
