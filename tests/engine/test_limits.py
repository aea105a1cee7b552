"""Token buckets."""

import pytest

from relay.engine.limits import Rate, counted_as, unlimited


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


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("a unix socket", "a unix socket"),
    ],
)
def test_an_ipv6_customer_counts_as_one_address(address: str, expected: str) -> None:
    assert counted_as(address) == expected


def test_tools_are_not_limited() -> None:
    assert unlimited("wraps 192.0.2.1", Rate(1))
    assert unlimited("wraps 192.0.2.1", Rate(1))
