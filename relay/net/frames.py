"""Server-to-client WebSocket frames, built once and written as they are (RFC 6455, section 5.2)."""

from collections.abc import Sequence

from relay.engine.subscription import LiveEvent

_TEXT = 0x81  # FIN, opcode 1; a server does not mask
PING = b"\x89\x00"


def text_frame(payload: bytes) -> bytes:
    """Return one unfragmented, uncompressed text frame."""
    return _header(len(payload)) + payload


def pong_frame(payload: bytes) -> bytes:
    """Return the answer to a ping, whose payload (at most 125 bytes) it bears."""
    return b"\x8a%c%b" % (len(payload), payload)


def close_frame(code: int, reason: bytes) -> bytes:
    """Return a goodbye; `reason` has at most 123 bytes."""
    return b"\x88%c%b%b" % (2 + len(reason), code.to_bytes(2, "big"), reason)


def accepted_frame(event_id: str) -> bytes:
    """Return the frame of `["OK", event id, true, ""]`, the commonest answer; the id is hex."""
    return b'\x81\x51["OK","%b",true,""]' % event_id.encode()


def event_frame(prefix: bytes, json: bytes) -> bytes:
    """Return the frame of `["EVENT", subscription, event]` without copying the event twice."""
    return b"".join((_header(len(prefix) + len(json) + 1), prefix, json, b"]"))


def live_frames(prefix: bytes, events: Sequence[LiveEvent]) -> bytes:
    """Return the frames of one subscription's live events, joined.

    Headers depend on the prefix by its length only, and are kept with the event.
    """
    length = len(prefix)
    pieces: list[bytes] = []
    for event in events:
        head = event.heads.get(length)
        if head is None:
            head = event.heads[length] = _header(length + len(event.tail))
        pieces += (head, prefix, event.tail)
    return b"".join(pieces)


def _header(length: int) -> bytes:
    if length < 126:
        return bytes((_TEXT, length))
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")
