"""Signatures against BIP-340's official vectors and an independent binding of the curve."""

import csv
from pathlib import Path

import pytest
import secp256k1
from hypothesis import given
from hypothesis import strategies as st

from relay.nostr.keys import SecretKey, is_on_curve, verify

with (Path(__file__).parent.parent / "data/bip340-test-vectors.csv").open(newline="") as _file:
    VECTORS = list(csv.DictReader(_file))

OFF_CURVE = "eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34"
OVER_FIELD_SIZE = "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc30"
CURVE_ORDER = "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"


def vector_name(row: dict[str, str]) -> str:
    return f"{row['index']} {row['comment']}".strip()


def test_all_fifteen_vectors_are_there() -> None:
    assert [row["index"] for row in VECTORS] == [str(n) for n in range(15)]


@pytest.mark.parametrize("row", VECTORS, ids=vector_name)
def test_bip340_vector_verifies_as_published(row: dict[str, str]) -> None:
    expected = row["verification result"] == "TRUE"

    assert verify(row["public key"].lower(), row["message"].lower(), row["signature"].lower()) is expected


@pytest.mark.parametrize("row", [row for row in VECTORS if row["secret key"]], ids=vector_name)
def test_bip340_vector_key_has_the_published_public_half(row: dict[str, str]) -> None:
    assert SecretKey(bytes.fromhex(row["secret key"])).public == row["public key"].lower()


def test_bip340_vector_with_zero_randomness_is_signed_byte_for_byte() -> None:
    row = VECTORS[0]
    assert row["aux_rand"] == "00" * 32

    assert SecretKey(bytes.fromhex(row["secret key"])).sign(row["message"]) == row["signature"].lower()


def test_points_of_the_curve_are_told_from_other_numbers() -> None:
    assert is_on_curve("dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659")
    assert not is_on_curve(OFF_CURVE)
    assert not is_on_curve(OVER_FIELD_SIZE)
    assert not is_on_curve("00" * 32)


@given(secret=st.binary(min_size=32, max_size=32), message=st.binary(min_size=32, max_size=32))
def test_signature_satisfies_an_independent_verifier(secret: bytes, message: bytes) -> None:
    key = SecretKey(secret if 0 < int.from_bytes(secret) < int(CURVE_ORDER, 16) else b"\1" * 32)

    signature = key.sign(message.hex())

    peer = secp256k1.PublicKey(b"\2" + bytes.fromhex(key.public), raw=True)
    assert peer.schnorr_verify(message, bytes.fromhex(signature), "", raw=True)
    assert verify(key.public, message.hex(), signature)


@given(secret=st.integers(1, int(CURVE_ORDER, 16) - 1), message=st.binary(min_size=32, max_size=32))
def test_signature_of_an_independent_signer_verifies(secret: int, message: bytes) -> None:
    peer = secp256k1.PrivateKey(secret.to_bytes(32), raw=True)

    signature = peer.schnorr_sign(message, "", raw=True)

    assert verify(peer.pubkey.serialize()[1:].hex(), message.hex(), signature.hex())


@given(st.binary(min_size=64, max_size=64))
def test_random_bytes_are_no_signature(signature: bytes) -> None:
    key = SecretKey(b"\7" * 32)

    assert not verify(key.public, "00" * 32, signature.hex())


def test_equal_inputs_give_equal_signatures() -> None:
    assert SecretKey(b"\7" * 32).sign("ab" * 32) == SecretKey(b"\7" * 32).sign("ab" * 32)


def test_generated_keys_differ_and_sign() -> None:
    one, other = SecretKey.generate(), SecretKey.generate()

    assert one.public != other.public
    assert verify(one.public, "ab" * 32, one.sign("ab" * 32))


def test_secret_bytes_come_back() -> None:
    assert SecretKey(b"\7" * 32).secret_bytes() == b"\7" * 32


@pytest.mark.parametrize("secret", [b"", b"\1" * 31, b"\1" * 33])
def test_key_of_another_length_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match=r"^a secret key has 32 bytes$"):
        SecretKey(secret)


@pytest.mark.parametrize("secret", ["00" * 32, CURVE_ORDER, "ff" * 32])
def test_key_out_of_range_is_refused_without_naming_it(secret: str) -> None:
    with pytest.raises(ValueError, match=r"^the secret key is out of the curve's range$"):
        SecretKey(bytes.fromhex(secret))


def test_secret_is_not_in_its_repr() -> None:
    key = SecretKey(bytes(31) + b"\3")

    assert repr(key) == "<SecretKey of f9308a01>"
