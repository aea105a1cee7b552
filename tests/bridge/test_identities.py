"""Keys and names of ghosts, and the seed that they follow from."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest

from bridge.identities import SeedError, canary, ghost_key, ghost_name, load_seed, service_key, token
from bridge.model import Identity, Profile, Ref

SEED = bytes(range(32))
ALICE = Identity(Ref("matrix", "@alice:example.org"), Profile("Alice", None), 1_700_000_000)


def test_a_ghosts_key_never_changes() -> None:
    # Computed once and written down: any other value would make everybody a stranger.
    assert ghost_key(SEED, ALICE).public == "ead95ee8463c7b6e7c4beaf7ba6dfd191674c29d2769eb717ee26ca3edd290ad"


def test_a_ghosts_key_depends_on_seed_person_network_and_generation_only() -> None:
    key = ghost_key(SEED, ALICE).public

    assert ghost_key(SEED, replace(ALICE, profile=Profile("Bob", "x"), profile_at=1)).public == key
    others = {
        ghost_key(bytes(32), ALICE).public,
        ghost_key(SEED, replace(ALICE, person=Ref("matrix", "@alice:example.com"))).public,
        ghost_key(SEED, replace(ALICE, person=Ref("matri", "x@alice:example.org"))).public,
        ghost_key(SEED, replace(ALICE, generation=2)).public,
        service_key(SEED).public,
    }
    assert len(others | {key}) == 6


def test_tokens_differ_by_name_and_generation() -> None:
    assert len({token(SEED, "a", 1), token(SEED, "b", 1), token(SEED, "a", 2)}) == 3


def test_names_say_where_a_ghost_comes_from() -> None:
    nameless = Profile(None, None)
    bob = Identity(
        Ref("nostr", "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e"), nameless, 0
    )

    assert ghost_name(ALICE) == "Alice (Matrix)"
    assert ghost_name(replace(ALICE, profile=nameless)) == "@alice:example.org (Matrix)"
    assert ghost_name(bob) == "npub10elfc…jptg (Nostr)"


def test_a_seed_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "data" / "bridge.seed"

    seed = load_seed(path)

    assert len(seed) == 32
    assert load_seed(path) == seed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [child.name for child in path.parent.iterdir()] == ["bridge.seed"]


def test_a_seed_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bridge.seed"
    path.write_bytes(bytes(31))

    with pytest.raises(SeedError, match="a seed has 32 bytes, this file has 31"):
        load_seed(path)


def test_a_seed_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bridge.seed"
    path.write_bytes(bytes(32))
    path.chmod(0o644)

    with pytest.raises(SeedError, match="others can read it"):
        load_seed(path)


def test_the_canary_tells_seeds_apart() -> None:
    assert canary(SEED) != canary(bytes(32))
