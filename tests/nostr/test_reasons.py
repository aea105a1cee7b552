"""Refusals and their machine-readable prefixes."""

import pytest

from relay.nostr.reasons import Prefix, Refusal, Refused, invalid, prefix_of


def test_refusal_reads_as_prefix_and_text() -> None:
    assert str(Refusal(Prefix.RATE_LIMITED, "slow down")) == "rate-limited: slow down"


def test_malformed_input_is_invalid() -> None:
    assert invalid("no") == Refusal(Prefix.INVALID, "no")


def test_parser_error_carries_its_refusal() -> None:
    error = Refused(invalid("no"))

    assert error.refusal == Refusal(Prefix.INVALID, "no")
    assert str(error) == "invalid: no"


@pytest.mark.parametrize(
    ("reason", "prefix"),
    [
        ("auth-required: who are you?", Prefix.AUTH_REQUIRED),
        ("error: a: b", Prefix.ERROR),
        ("blocked", Prefix.BLOCKED),
        ("", None),
        ("Error: x", None),
        ("no such thing: x", None),
        (": error", None),
    ],
)
def test_prefix_is_read_out_of_a_peers_reason(reason: str, prefix: Prefix | None) -> None:
    assert prefix_of(reason) is prefix


def test_prefixes_are_the_ones_of_nip_01_42_43_and_77() -> None:
    assert {prefix.value for prefix in Prefix} == {
        "auth-required",
        "blocked",
        "closed",
        "duplicate",
        "error",
        "info",
        "invalid",
        "mute",
        "pow",
        "rate-limited",
        "restricted",
        "unsupported",
    }
