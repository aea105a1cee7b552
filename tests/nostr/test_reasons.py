"""Refusals and their machine-readable prefixes."""

from relay.nostr.reasons import Prefix, Refusal, Refused, invalid


def test_refusal_reads_as_prefix_and_text() -> None:
    assert str(Refusal(Prefix.RATE_LIMITED, "slow down")) == "rate-limited: slow down"


def test_malformed_input_is_invalid() -> None:
    assert invalid("no") == Refusal(Prefix.INVALID, "no")


def test_parser_error_carries_its_refusal() -> None:
    error = Refused(invalid("no"))

    assert error.refusal == Refusal(Prefix.INVALID, "no")
    assert str(error) == "invalid: no"


def test_prefixes_are_the_ones_of_nip_01_42_and_43() -> None:
    assert {prefix.value for prefix in Prefix} == {
        "auth-required",
        "blocked",
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
