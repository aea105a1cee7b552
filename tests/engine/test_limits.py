"""Token buckets."""

import pytest

from relay.engine.limits import Rate


@pytest.mark.parametrize(
    ("tokens", "elapsed", "expected"),
    [
        (0, 0, 0),
        (0, 1, 2),
        (0, 0.25, 0.5),
        (5, 10, 25),
        (0, 60, 120),
        (119, 60, 120),
        (120, 10**9, 120),
    ],
)
def test_a_bucket_refills_evenly_and_never_beyond_a_minutes_worth(
    tokens: float, elapsed: float, expected: float
) -> None:
    assert Rate(120).refill(tokens, elapsed) == expected


def test_a_clock_that_runs_backwards_takes_nothing_away() -> None:
    assert Rate(120).refill(7, -5) == 7
