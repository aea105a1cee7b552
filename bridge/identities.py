"""Ghosts' keys and names: both follow from who is mirrored, and from one secret seed.

Losing the seed means that nobody can ever write as the same ghosts again; leaking it, that anybody
can. It lives in a file of its own, so that the ledger can be copied and looked at without it.
"""

import hmac
import os
from hashlib import sha512
from pathlib import Path

from bridge.model import Identity
from relay.nostr import nip19
from relay.nostr.event import PubKey
from relay.nostr.keys import SecretKey

SEED_BYTES = 32

# The order of secp256k1's group (SEC 2).
_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141

_GHOST = b"torv/ghost/v1"
_SERVICE = b"torv/service/v1"
_TOKEN = b"torv/token/v1"

_LABELS = {"matrix": "Matrix", "nostr": "Nostr"}


class SeedError(Exception):
    """The seed file is unusable, or is not the one the ledger was made with."""


def load_seed(path: Path) -> bytes:
    """Return the seed; make it, readable by its owner only, if the file does not exist.

    Raises SeedError.
    """
    try:
        seed = path.read_bytes()
    except FileNotFoundError:
        return _make_seed(path)
    except OSError as error:
        raise SeedError(f"{path}: {error.strerror}") from error
    if len(seed) != SEED_BYTES:
        raise SeedError(f"{path}: a seed has {SEED_BYTES} bytes, this file has {len(seed)}")
    if path.stat().st_mode & 0o077:
        raise SeedError(f"{path}: others can read it; run chmod 600 on it")
    return seed


def _make_seed(path: Path) -> bytes:
    seed = os.urandom(SEED_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written aside and linked into place: never half a seed, and never over one that exists.
    aside = path.with_name(f"{path.name}.{os.getpid()}.new")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(seed)
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        return load_seed(path)
    finally:
        aside.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return seed


def _derive(seed: bytes, purpose: bytes, *parts: bytes) -> bytes:
    """Return 64 bytes that depend on everything given; no two lists of parts look alike."""
    message = purpose + b"".join(len(part).to_bytes(4) + part for part in parts)
    return hmac.digest(seed, message, sha512)


def _to_key(derived: bytes) -> SecretKey:
    # 512 bits reduced to 256: the bias is below 2^-256. Never zero, never the order.
    return SecretKey((int.from_bytes(derived) % (_ORDER - 1) + 1).to_bytes(32))


def ghost_key(seed: bytes, identity: Identity) -> SecretKey:
    """Return the Nostr key of somebody's ghost; the same for ever, for one seed and generation."""
    person = identity.person
    generation = identity.generation.to_bytes(4)
    return _to_key(_derive(seed, _GHOST, person.network.encode(), person.id.encode(), generation))


def service_key(seed: bytes) -> SecretKey:
    """Return the key with which the bridge itself authenticates to relays (NIP-42)."""
    return _to_key(_derive(seed, _SERVICE))


def canary(seed: bytes) -> str:
    """Return a public value that tells one seed from another."""
    return service_key(seed).public


def token(seed: bytes, name: str, generation: int) -> str:
    """Return a secret token shared with a homeserver, 64 hex digits."""
    return _derive(seed, _TOKEN, name.encode(), generation.to_bytes(4))[:32].hex()


def ghost_name(identity: Identity) -> str:
    """Return the name that a ghost shows: never without the network that it comes from."""
    return f"{identity.profile.name or _short_id(identity)} ({_LABELS[identity.person.network]})"


def _short_id(identity: Identity) -> str:
    if identity.person.network != "nostr":
        return identity.person.id
    npub = nip19.encode(nip19.Npub(PubKey(identity.person.id)))
    return f"{npub[:10]}…{npub[-4:]}"
