"""What Torv is to reach, and what strfry reached.

strfry (C++, LMDB; commit f8a56a8, -O3, its default configuration) was measured on 2026-11-22 with another
load generator on a machine of the same kind: two shared cores, ext4, events of 989 bytes a message, 100,000
of them unless a million is named. So a difference under a quarter says nothing.
"""

from dataclasses import dataclass
from enum import Enum, auto

STRFRY_LIMIT = 38_800
"""Verifications a second on both cores of the machine that strfry's figures and the goals are from."""


class Measure(Enum):
    """How a goal is to be read."""

    RATE = auto()
    """At least so many a second on a machine like strfry's; grows and shrinks with the machine's limit."""
    FRACTION = auto()
    """At least this fraction of the machine's limit a second."""
    MOST = auto()
    """At most so much, on any machine."""
    NONE = auto()
    """There is no goal."""


@dataclass(frozen=True)
class Goal:
    """One row's goal, in the unit of its figure."""

    value: float
    measure: Measure
    strfry: str = ""
    """As published, for people."""

    def scaled(self, limit: float) -> float | None:
        """Return the goal on a machine that verifies so many a second."""
        match self.measure:
            case Measure.RATE:
                return self.value * limit / STRFRY_LIMIT
            case Measure.FRACTION:
                return self.value * limit
            case Measure.MOST:
                return self.value
            case Measure.NONE:
                return None

    def is_reached(self, figure: float, limit: float) -> bool | None:
        """Say whether the figure is as good as the goal; None where there is none."""
        goal = self.scaled(limit)
        if goal is None:
            return None
        return figure <= goal if self.measure is Measure.MOST else figure >= goal


def _type(strfry_p50_ms: float) -> Goal:
    """Return the goal for one type of question: at most 1.3 times strfry's p50."""
    return Goal(1.3 * strfry_p50_ms, Measure.MOST, f"{strfry_p50_ms:g}")


GOALS = {
    "ingest/1": Goal(0.20, Measure.FRACTION, "4,699-6,951"),
    "ingest/8": Goal(0.33, Measure.FRACTION, "8,115-11,862"),
    "ingest/64": Goal(0.40, Measure.FRACTION, "11,597-14,456"),
    "large/ingest": Goal(0.30, Measure.FRACTION, "11,500 without verifying"),
    "duplicates": Goal(40_000, Measure.RATE, "17,161"),
    "single": Goal(1_500, Measure.RATE, "1,269"),
    "query/1": Goal(1_300, Measure.RATE, "1,163"),
    "query/ids": _type(0.37),
    "query/author": _type(0.26),
    "query/feed": _type(1.8),
    "query/thread": _type(0.22),
    "query/mentions": _type(0.92),
    "query/global": _type(2.4),
    "query/profiles": _type(0.52),
    "query/window": _type(1.2),
    "query/16": Goal(2_000, Measure.RATE, "1,720"),
    "count": Goal(0, Measure.NONE, "968"),
    "large/query/1": Goal(1_300, Measure.RATE, "1,103"),
    "large/query/ids": _type(0.34),
    "large/query/author": _type(0.23),
    "large/query/feed": _type(1.8),
    "large/query/thread": _type(0.21),
    "large/query/mentions": _type(0.69),
    "large/query/global": _type(1.8),
    "large/query/profiles": _type(0.6),
    "large/query/window": _type(0.9),
    "large/query/16": Goal(2_000, Measure.RATE, "1,771"),
    "large/count": Goal(300, Measure.RATE, "52"),
    "pages": Goal(10, Measure.MOST, "1,000-30,000, its users say"),
    "live/100/all": Goal(0, Measure.NONE, "238,400"),
    "live/100/authors": Goal(0, Measure.NONE, "64,800"),
    "live/1000/all": Goal(280_000, Measure.RATE, "229,400"),
    "live/1000/authors": Goal(220_000, Measure.RATE, "199,300"),
    "latency/100": Goal(5, Measure.MOST, "52"),
    "latency/1000": Goal(25, Measure.MOST, "106"),
    "idle": Goal(15, Measure.MOST, "87"),
    "disk": Goal(1_500, Measure.MOST, "2,468"),
    "log": Goal(64, Measure.MOST),
    "large/start": Goal(1, Measure.MOST),
    "large/worst": Goal(5, Measure.MOST),
}
"""By the key of a row."""
