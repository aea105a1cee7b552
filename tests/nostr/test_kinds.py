"""How long each kind is kept: every kind there is, by NIP-01's ranges."""

from relay.nostr.kinds import MAX_KIND, Retention, is_replaceable, retention

REPLACEABLE = {0, 3, *range(10_000, 20_000)}
EPHEMERAL = set(range(20_000, 30_000))
ADDRESSABLE = set(range(30_000, 40_000))


def test_kinds_end_at_65535() -> None:
    assert MAX_KIND == 65535


def test_every_kind_is_kept_as_nip_01_says() -> None:
    kept = {wanted: {kind for kind in range(65536) if retention(kind) is wanted} for wanted in Retention}

    assert kept[Retention.REPLACEABLE] == REPLACEABLE
    assert kept[Retention.EPHEMERAL] == EPHEMERAL
    assert kept[Retention.ADDRESSABLE] == ADDRESSABLE
    assert kept[Retention.REGULAR] == set(range(65536)) - REPLACEABLE - EPHEMERAL - ADDRESSABLE


def test_replaceable_and_addressable_kinds_compete_for_addresses() -> None:
    assert {kind for kind in range(65536) if is_replaceable(kind)} == REPLACEABLE | ADDRESSABLE


def test_kinds_that_nip_01_leaves_unassigned_are_regular() -> None:
    assert {retention(kind) for kind in (45, 62, 443, 818, 999, 40_000, 65_535)} == {Retention.REGULAR}
