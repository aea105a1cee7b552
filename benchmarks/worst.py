"""The worst questions that a relay with the default limits takes, each of which looks at as much as it can.

They ask for what is nowhere, or at the end of everything, by the ways that lead through most of the store.
"""

import random
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from benchmarks.dataset import HASHTAGS, pubkeys
from benchmarks.filler import FIRST, prolific
from benchmarks.questions import Question

MOST_KEYS = 3_800
"""So many ids or keys fit into one message of the default `max_message_bytes`."""
MOST_KINDS = 5_000
"""The default `max_filter_values`."""
MOST_FILTERS = 20
"""The default `max_filters`."""
_SEED = 7
_NO_KIND = 29_999


def worst(until: int) -> list[Question]:
    """Return sixteen of them, for a database of the filler's whose newest event is about at `until`."""
    chance = random.Random(_SEED)
    nobody = [sha256(b"nobody %d" % n).hexdigest() for n in range(MOST_KEYS)]
    somebody = list(pubkeys())
    half = (FIRST + until) // 2
    filters: Sequence[tuple[str, list[dict[str, Any]]]] = [
        ("authors, most unknown", [{"authors": somebody + nobody[:2_800], "limit": 500}]),
        ("authors and kinds", [{"authors": somebody, "kinds": list(range(1_000, 4_900)), "limit": 500}]),
        ("authors and a kind nobody writes", [{"authors": somebody, "kinds": [_NO_KIND]}]),
        ("kinds", [{"kinds": list(range(MOST_KINDS)), "limit": 500}]),
        ("ids", [{"ids": nobody}]),
        ("parents", [{"#e": nobody}]),
        ("mentions of everybody by nobody", [{"#p": somebody, "authors": nobody[:100]}]),
        ("two tags that never meet", [{"#t": HASHTAGS, "#p": nobody[:1_000]}]),
        ("a tag of the prolific author", [{"authors": [prolific()], "#t": HASHTAGS}]),
        ("a kind with a tag it has not", [{"kinds": [1], "#k": ["1"]}]),
        ("the oldest of everybody", [{"authors": somebody, "until": FIRST + 100_000, "limit": 500}]),
        ("nothing before the first", [{"kinds": [1], "until": FIRST - 1}]),
        (
            "twenty feeds",
            [
                {
                    "authors": chance.sample(somebody, 190),
                    "kinds": [1, 6, 30_023],
                    "until": half,
                    "limit": 500,
                }
                for _ in range(MOST_FILTERS)
            ],
        ),
        (
            "twenty windows",
            [{"kinds": [1, 7], "since": FIRST, "until": half + n, "limit": 500} for n in range(MOST_FILTERS)],
        ),
    ]
    counts: Sequence[tuple[str, list[dict[str, Any]]]] = [
        ("all notes, counted", [{"kinds": [1]}]),
        ("what everybody wrote, counted", [{"authors": somebody, "kinds": [1, 7]}, {"#t": HASHTAGS}]),
    ]
    return [Question(name, tuple(wanted)) for name, wanted in filters] + [
        Question(name, tuple(wanted), verb="COUNT") for name, wanted in counts
    ]
