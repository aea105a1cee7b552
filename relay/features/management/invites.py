"""Invite codes, which the relay recognises as its own: nothing is kept of one until it is used.

A code is base64url of 84 bytes: when it was made and when it ends (unix seconds, 8 bytes each), how many may
use it (4), who asked for it (32), a number that nobody guesses (16) and the relay's mark (16).
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from relay.nostr.event import PubKey
from relay.nostr.keys import SecretKey

NUMBER_BYTES = 16
_MARK_BYTES = 16
_BYTES = 8 + 8 + 4 + 32 + NUMBER_BYTES + _MARK_BYTES
_CHARS = _BYTES * 4 // 3


class Invite(NamedTuple):
    """What a code says."""

    made_at: int
    """Unix seconds."""
    ends_at: int
    """Unix seconds, inclusive."""
    uses: int
    by: PubKey
    number: bytes


def encode_invite(invite: Invite, key: SecretKey) -> str:
    """Return the invite's code, marked with the relay's key."""
    times = invite.made_at.to_bytes(8, "big") + invite.ends_at.to_bytes(8, "big")
    told = times + invite.uses.to_bytes(4, "big") + bytes.fromhex(invite.by) + invite.number
    return urlsafe_b64encode(told + _mark(told, key)).decode()


def read_invite(code: str, key: SecretKey) -> Invite | None:
    """Return what a code says; None when this relay did not make it."""
    if len(code) != _CHARS or not code.isascii():
        return None
    try:
        text = urlsafe_b64decode(code)
    except ValueError:
        return None
    if len(text) != _BYTES:
        return None
    told, mark = text[:-_MARK_BYTES], text[-_MARK_BYTES:]
    if not hmac.compare_digest(mark, _mark(told, key)):
        return None
    return Invite(
        made_at=int.from_bytes(told[:8], "big"),
        ends_at=int.from_bytes(told[8:16], "big"),
        uses=int.from_bytes(told[16:20], "big"),
        by=PubKey(told[20:52].hex()),
        number=told[52:],
    )


def _mark(told: bytes, key: SecretKey) -> bytes:
    # A key of its own: what signs events marks nothing else.
    secret = hashlib.sha256(b"torv invite\0" + key.secret_bytes()).digest()
    return hmac.digest(secret, told, "sha256")[:_MARK_BYTES]
