"""Secret keys and Schnorr signatures (BIP-340). The only file that sees the C binding."""

from functools import lru_cache

from coincurve import PrivateKey, PublicKeyXOnly

# BIP-340 allows a constant: the nonce still depends on key and message. Equal inputs then give
# equal signatures, on which the bridge's exactly-once delivery rests.
_AUX = bytes(32)


class SecretKey:
    """A secret key. Its text form is never shown by repr or in errors."""

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        """Take 32 bytes, 1 ≤ secret < n. Raises ValueError otherwise."""
        if len(secret) != 32:
            raise ValueError("a secret key has 32 bytes")
        try:
            self._key = PrivateKey(secret)
        except ValueError:
            raise ValueError("the secret key is out of the curve's range") from None
        self.public: str = self._key.public_key_xonly.format().hex()
        """The x-only public key, 64 lowercase hex digits."""

    @classmethod
    def generate(cls) -> "SecretKey":
        """Return a new random key."""
        return cls(PrivateKey().secret)

    def sign(self, message: str) -> str:
        """Sign 32 bytes given as hex; return 128 hex digits. Deterministic."""
        return self._key.sign_schnorr(bytes.fromhex(message), _AUX).hex()

    def secret_bytes(self) -> bytes:
        """Return the 32 secret bytes; for key files and NIP-19 only."""
        return self._key.secret

    def __repr__(self) -> str:
        return f"<SecretKey of {self.public[:8]}>"


# Parsing a key (lifting x to the curve) costs 6 µs of a 45 µs verification; authors repeat.
@lru_cache(maxsize=8192)
def _point(public: str) -> PublicKeyXOnly | None:
    try:
        return PublicKeyXOnly(bytes.fromhex(public))
    except ValueError:
        return None


def is_on_curve(public: str) -> bool:
    """Say whether 64 hex digits are the x coordinate of a point of the curve."""
    return _point(public) is not None


def verify(public: str, message: str, signature: str) -> bool:
    """Verify a signature (128 hex) of 32 bytes (64 hex) by an x-only key (64 hex)."""
    point = _point(public)
    return point is not None and point.verify(bytes.fromhex(signature), bytes.fromhex(message))
