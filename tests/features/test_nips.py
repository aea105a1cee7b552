"""The table of NIPs in the documents."""

from tests.features.nips import PATH, table


def test_the_table_of_nips_is_what_the_features_say() -> None:
    assert PATH.read_text() == table(), "run: make nips"
