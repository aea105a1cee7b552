"""The files of TLS: what cannot be used is named, and what changes is looked at once."""

import ssl
from pathlib import Path

import pytest
import trustme

from relay.net.certificates import CannotServeTls, Certificates

AUTHORITY = trustme.CA()


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued = AUTHORITY.issue_cert("relay.example.com")
    issued.cert_chain_pems[0].write_to_path(str(certificate))
    key.write_bytes(issued.private_key_pem.bytes())
    key.chmod(0o600)
    return certificate, key


def refusal(pair: tuple[Path, Path]) -> str:
    with pytest.raises(CannotServeTls) as refused:
        Certificates(*pair)
    return str(refused.value)


def shown(certificates: Certificates) -> bytes:
    """Shake hands in memory; return the certificate that is shown."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    trust = ssl.create_default_context()
    AUTHORITY.configure_trust(trust)
    client = trust.wrap_bio(to_client, to_server, server_hostname="relay.example.com")
    server = certificates.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = client.getpeercert(binary_form=True)
    assert found is not None
    return found


def test_a_key_that_others_can_read_is_refused(pair: tuple[Path, Path]) -> None:
    pair[1].chmod(0o604)

    assert refusal(pair) == f"{pair[1]} can be read by others; run: chmod 600 {pair[1]}"


def test_a_file_that_is_missing_is_named(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    certificate.unlink()
    assert refusal(pair) == f"cannot read {certificate}: No such file or directory"

    key.unlink()
    assert refusal((key, certificate)) == f"cannot read {key}: No such file or directory"


def test_files_that_are_no_pair_are_refused(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    key.write_bytes(AUTHORITY.issue_cert("relay.example.com").private_key_pem.bytes())
    assert refusal(pair) == f"{certificate} and {key} are no certificate with its key: key values mismatch"

    key.write_text("no key")
    assert refusal(pair).startswith(f"{certificate} and {key} are no certificate with its key: ")


def test_who_comes_after_a_change_is_shown_the_new_certificate(pair: tuple[Path, Path]) -> None:
    certificate, key = pair
    certificates = Certificates(certificate, key)
    first = shown(certificates)
    issued = AUTHORITY.issue_cert("relay.example.com")

    issued.cert_chain_pems[0].write_to_path(str(certificate))
    certificates.look_after()
    assert shown(certificates) == first, "it does not fit the key that is still there"

    key.write_bytes(issued.private_key_pem.bytes())
    certificates.look_after()
    second = shown(certificates)
    assert second != first

    key.unlink()
    certificates.look_after()
    certificates.look_after()
    assert shown(certificates) == second
