"""permessage-deflate (RFC 7692), without memory between messages: negotiation, frames out, messages in.

No side keeps a window from one message to the next, so an idle connection costs nothing more, all clients
can be sent the same compressed bytes, and what is kept of an event on its way out serves all of them.
"""

import zlib
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from websockets.exceptions import InvalidHeaderFormat
from websockets.frames import CloseCode
from websockets.headers import parse_extension

from relay.engine.subscription import LiveEvent
from relay.net.frames import add_stored_frames, header, live_frames, text_frame
from relay.net.incoming import DEFLATED, Broken
from relay.store.api import Stored

_NAME = "permessage-deflate"
WINDOW_BITS = 12
"""Of what we send: with 4 kB, an event of usual length comes out as small as with 32 kB."""
_MEMORY_LEVEL = 5
_LEVEL = 1
"""Ids, keys and signatures are most of an event: higher levels take longer and make it no shorter."""
MIN_BYTES = 200
"""Shorter messages go out as they are."""
MAX_BYTES = 64 * 1024
"""So do longer ones: compressing one takes as long as answering others tens of questions."""
MAX_STREAMS = 8
"""Final blocks in one message, each of which makes a new decompressor; nearly all senders use none."""
SLICE_BYTES = 16 * 1024
"""After so many bytes of a message we look whether they were worth it."""

_TAIL = b"\x00\x00\xff\xff"
"""What a sender leaves out at the end (RFC 7692, section 7.2.1)."""
_TEXT = DEFLATED | 0x81
_stored_block = Struct("<BHH").pack


class InvalidExtensions(Exception):
    """Sec-WebSocket-Extensions is not what RFC 6455 allows, which ends the handshake."""


def negotiate(lines: Iterable[str]) -> str | None:
    """Return our part of the agreement, for Sec-WebSocket-Extensions; None where no offer can be taken.

    Offers are tried in the client's order. "A server MUST decline an extension negotiation offer" that has
    unknown parameters, wrong values, or a parameter twice. Raises InvalidExtensions.
    """
    text = ", ".join(lines)
    if not text:
        return None
    try:
        offers = parse_extension(text)
    except InvalidHeaderFormat as error:
        raise InvalidExtensions(str(error)) from None
    for name, parameters in offers:
        if name == _NAME and (answer := _accept(parameters)) is not None:
            return answer
    return None


def _accept(parameters: Sequence[tuple[str, str | None]]) -> str | None:
    offered = dict(parameters)
    if len(offered) < len(parameters):
        return None
    answer = f"{_NAME}; server_no_context_takeover; client_no_context_takeover"
    for name, value in parameters:
        match name, value:
            case (
                "server_no_context_takeover" | "client_no_context_takeover" | "client_max_window_bits",
                None,
            ):
                pass
            case "client_max_window_bits", str(bits) if _window(bits):
                pass
            case "server_max_window_bits", str(bits) if _window(bits) >= WINDOW_BITS:
                answer += f"; server_max_window_bits={WINDOW_BITS}"
            case _:
                return None
    return answer


def _window(bits: str) -> int:
    """Return the number, or 0 for what is none. "8 to 15 inclusive without leading zeroes"."""
    return int(bits) if bits in ("8", "9", "10", "11", "12", "13", "14", "15") else 0


def inflate(data: bytes, most: int) -> bytes | None:
    """Return what a client's message says, or None if that is longer than `most` bytes. Raises Broken.

    Takes memory for `most` bytes and no more, and stops at messages that are much longer than what they say.
    """
    whole = memoryview(data + _TAIL)
    said, at = bytearray(), 0
    for _ in range(MAX_STREAMS):
        # Blocks behind a final one may still refer to what was said before it.
        decompressor = zlib.decompressobj(-zlib.MAX_WBITS, zdict=said[-(1 << zlib.MAX_WBITS) :])
        while not decompressor.eof:
            if at == len(whole):
                return bytes(said)
            part = whole[at : at + SLICE_BYTES]
            try:
                said += decompressor.decompress(part, most + 1 - len(said))
            except zlib.error:
                raise Broken(CloseCode.INVALID_DATA, "this is not compressed with DEFLATE") from None
            if len(said) > most:
                return None
            at += len(part) - len(decompressor.unused_data)
            # Blocks that hold nothing take time too.
            if at > 2 * len(said) + SLICE_BYTES:
                raise Broken(CloseCode.INVALID_DATA, "this is much longer than what it says")
    raise Broken(CloseCode.INVALID_DATA, f"a message has less than {MAX_STREAMS} final blocks")


class Frames(NamedTuple):
    """How messages to a client are put into frames."""

    text: Callable[[bytes], bytes]
    """One message."""
    live: Callable[[bytes, Sequence[LiveEvent]], bytes]
    """A subscription's live events, by their messages' prefix; joined."""
    add_stored: Callable[[list[bytes], bytes, Iterable[Stored]], int]
    """Appends pieces that are to be joined, and returns how many bytes they have."""


PLAIN = Frames(text_frame, live_frames, add_stored_frames)


class Deflater:
    """Makes compressed frames, for all connections of a process that agreed on them."""

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, -WINDOW_BITS, _MEMORY_LEVEL)
        self.frames = Frames(self._text, self._live, self._add_stored)

    def _text(self, payload: bytes) -> bytes:
        if not MIN_BYTES <= len(payload) <= MAX_BYTES:
            return text_frame(payload)
        deflated = self._deflate(payload)
        return header(len(deflated), _TEXT) + deflated

    def _live(self, prefix: bytes, events: Sequence[LiveEvent]) -> bytes:
        pieces: list[bytes] = []
        for event in events:
            if len(event.tail) > MAX_BYTES:
                pieces.append(live_frames(prefix, (event,)))
                continue
            if event.deflated is None:
                event.deflated = self._deflate(event.tail)
            _add_message(pieces, prefix, event.deflated)
        return b"".join(pieces)

    def _add_stored(self, pieces: list[bytes], prefix: bytes, rows: Iterable[Stored]) -> int:
        size = 0
        for row in rows:
            if len(row.json) > MAX_BYTES:
                size += add_stored_frames(pieces, prefix, (row,))
            else:
                size += _add_message(pieces, prefix, self._deflate(row.json + b"]"))
        return size

    def _deflate(self, data: bytes) -> bytes:
        # A full flush forgets what was said before: every message can be read by itself.
        whole = self._compressor.compress(data) + self._compressor.flush(zlib.Z_FULL_FLUSH)
        return whole[: -len(_TAIL)]


def _add_message(pieces: list[bytes], prefix: bytes, deflated: bytes) -> int:
    """Append the pieces of one message; its prefix, which differs between readers, is a block as it is."""
    length = len(prefix)
    block = _stored_block(0, length, length ^ 0xFFFF)
    size = len(block) + length + len(deflated)
    head = header(size, _TEXT)
    pieces += (head, block, prefix, deflated)
    return len(head) + size
