"""Server-to-client WebSocket text frames, built once and written as they are (RFC 6455, section 5.2)."""

_TEXT = 0x81  # FIN, opcode 1; a server does not mask


def text_frame(payload: bytes) -> bytes:
    """Return one unfragmented, uncompressed text frame."""
    return _header(len(payload)) + payload


def event_frame(prefix: bytes, json: bytes) -> bytes:
    """Return the frame of `["EVENT", subscription, event]` without copying the event twice."""
    return b"".join((_header(len(prefix) + len(json) + 1), prefix, json, b"]"))


def _header(length: int) -> bytes:
    if length < 126:
        return bytes((_TEXT, length))
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")
