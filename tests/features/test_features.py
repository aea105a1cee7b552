"""The list of features: one file and one test file per NIP, and `supported_nips` derived from it."""

import re
from pathlib import Path

from relay import features, policies
from relay.config import MembersConfig, RelayConfig
from relay.engine.feature import Context, Feature
from relay.features.nip11 import supported_nips
from tests.net.house import RELAY_KEY

CONFIG, CONTEXT = RelayConfig(), Context(key=RELAY_KEY)
EVERYTHING = RelayConfig(
    url="wss://relay.test",
    announce=True,
    names=(f"alice={RELAY_KEY.public}",),
    admins=(RELAY_KEY.public,),
    members=MembersConfig(enabled=True),
)
"""All that is off by default is on."""
NUMBERED = re.compile(r"nip([0-9]{2})\.py").fullmatch
HERE = Path(__file__).parent


def all_features(config: RelayConfig = CONFIG) -> tuple[Feature, ...]:
    return features.enabled(config, CONTEXT, policies.enabled(config, CONTEXT))


def numbers(folder: Path, prefix: str = "") -> list[int]:
    """Return the NIPs that a folder's files are named for, ascending."""
    names = (path.name.removeprefix(prefix) for path in folder.glob(f"{prefix}nip*.py"))
    return sorted(int(found[1]) for name in names if (found := NUMBERED(name)))


def test_every_feature_has_its_file_and_its_test_file() -> None:
    enabled = supported_nips(all_features(EVERYTHING))

    assert numbers(Path(features.__file__).parent) == enabled
    assert numbers(HERE, "test_") == enabled


def test_supported_nips_are_derived_from_what_is_enabled() -> None:
    assert supported_nips(all_features()) == [
        1,
        4,
        9,
        11,
        13,
        17,
        29,
        40,
        42,
        45,
        50,
        59,
        62,
        65,
        67,
        70,
        77,
        88,
    ]
    assert supported_nips([Feature("a", nip=7), Feature("b"), Feature("c", nip=2), Feature("d", nip=7)]) == [
        2,
        7,
    ]
    assert supported_nips([]) == []


def test_policies_come_first_and_the_information_document_last() -> None:
    enabled = all_features()

    assert [feature.nip for feature in enabled[:2]] == [None, None]
    assert enabled[-1].nip == 11


def test_features_hold_no_state_that_two_relays_would_share() -> None:
    mine, other = all_features(), all_features()

    assert [feature.title for feature in mine] == [feature.title for feature in other]
    assert all(a is not b for a, b in zip(mine, other, strict=True))


def test_titles_are_told_apart() -> None:
    titles = [feature.title for feature in all_features()]

    assert len(set(titles)) == len(titles)
