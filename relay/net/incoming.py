"""What a client says, sans-IO: bytes in, WebSocket messages out (RFC 6455, section 5).

A pull parser: what was not asked for yet lies as bytes, so that a connection which has to wait holds no
queue of messages. An idle one holds nothing at all.
"""

from websockets.exceptions import ProtocolError
from websockets.frames import Close, CloseCode, Opcode

try:
    from websockets.speedups import apply_mask
except ImportError:  # no wheel for this platform
    from websockets.utils import apply_mask

DEFLATED = 0x40
"""The bit that permessage-deflate gives a meaning (RFC 7692, section 6): RSV1 of a frame's first byte."""
_CONTROL = 0x08
_WHOLE_TEXT = 0x80 | Opcode.TEXT
_LONGEST_CONTROL = 125
MAX_FRAGMENTS = 1024
"""Frames of one message. Else a message need never end, for a fragment may be empty."""


class Broken(Exception):
    """The client's bytes mean that this WebSocket has to be closed, with this code."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Incoming:
    """The bytes of one client, and where in them the next frame begins.

    A frame costs 0.5 µs (one that lies whole in what was read, as nearly all do), as much as aiohttp's
    compiled reader, which takes 1.5 kB for each connection and hands messages over before they are wanted.
    """

    __slots__ = (
        "_at",
        "_bytes",
        "_deflates",
        "_fragments",
        "_max_message_bytes",
        "_needed",
        "_opcode",
        "_parts",
    )

    def __init__(self, max_message_bytes: int, *, deflates: bool = False) -> None:
        """`deflates`: permessage-deflate was agreed on."""
        self._deflates = deflates
        self._max_message_bytes = max_message_bytes
        self._bytes: bytes | bytearray = b""
        self._at = 0
        self._needed = 0
        """How many bytes must be there before it is worth looking at them again."""
        self._parts: bytearray | None = None
        """The message that has begun and goes on in later frames."""
        self._fragments = 0
        self._opcode = int(Opcode.CONT)

    def bound(self, max_message_bytes: int) -> None:
        """Take messages of so many bytes at most from now on."""
        self._max_message_bytes = max_message_bytes

    def feed(self, data: bytes) -> None:
        """Take what was read from the socket."""
        rest = self._bytes
        if not rest:
            self._bytes = data
            return
        if not isinstance(rest, bytearray):
            # Appending to it costs what is appended: who sends byte by byte cannot make it quadratic.
            rest = self._bytes = bytearray(memoryview(rest)[self._at :])
        else:
            del rest[: self._at]
        self._at = 0
        rest += data

    def __len__(self) -> int:
        """Return how many bytes were not taken yet."""
        return len(self._bytes) - self._at

    @property
    def has_begun(self) -> bool:
        """Whether a message has begun that has not ended."""
        return self._parts is not None or len(self) > 0

    def take(self) -> tuple[int, bytes] | None:
        """Return the next (opcode, payload), or None while its last byte has not come. Raises Broken.

        A fragment that does not end its message comes as (`Opcode.CONT`, b""), so that no call takes long.
        The opcode of a compressed message has `DEFLATED` added.
        """
        data, at = self._bytes, self._at
        there = len(data) - at
        if there < 2 or there < self._needed:
            return None
        first, length = data[at], data[at + 1] - 0x80
        if length < 0:
            raise Broken(CloseCode.PROTOCOL_ERROR, "clients mask their frames")
        start = at + 6
        if first != _WHOLE_TEXT or self._parts is not None:
            self._check(first, length)
        if length > 125:
            start += 2 if length == 126 else 8
            if there < start - at - 4:
                return None
            length = int.from_bytes(data[at + 2 : start - 4], "big")
        if length > self._max_message_bytes - (0 if self._parts is None else len(self._parts)):
            raise Broken(CloseCode.MESSAGE_TOO_BIG, f"a message has at most {self._max_message_bytes} bytes")
        end = start + length
        if end > len(data):
            self._needed = end - at
            return None
        payload = apply_mask(data[start:end], data[start - 4 : start])
        self._needed = 0
        if end == len(data):
            self._bytes, self._at = b"", 0
        else:
            self._at = end
        if first == _WHOLE_TEXT:
            return Opcode.TEXT, payload
        return self._assemble(first, payload)

    def _check(self, first: int, length: int) -> None:
        opcode = first & 0x0F
        # "An endpoint MUST NOT set the Per-Message Compressed bit of control frames and non-first fragments".
        if first & 0x70 and not (
            self._deflates and first & 0x70 == DEFLATED and opcode in (Opcode.TEXT, Opcode.BINARY)
        ):
            raise Broken(CloseCode.PROTOCOL_ERROR, "no extension was agreed on that means this")
        if opcode & _CONTROL:
            if opcode > Opcode.PONG:
                raise Broken(CloseCode.PROTOCOL_ERROR, f"unknown opcode {opcode}")
            if first < 0x80 or length > _LONGEST_CONTROL:
                raise Broken(CloseCode.PROTOCOL_ERROR, "a control frame is short and whole")
        elif opcode > Opcode.BINARY:
            raise Broken(CloseCode.PROTOCOL_ERROR, f"unknown opcode {opcode}")
        elif (opcode == Opcode.CONT) is (self._parts is None):
            raise Broken(CloseCode.PROTOCOL_ERROR, "the fragments of one message follow each other")

    def _assemble(self, first: int, payload: bytes) -> tuple[int, bytes]:
        opcode, ends = first & (0x0F | DEFLATED), first & 0x80
        if opcode & _CONTROL:
            return opcode, payload
        if self._parts is None:
            if ends:
                return opcode, payload
            self._opcode, self._parts, self._fragments = opcode, bytearray(payload), 0
            return Opcode.CONT, b""
        self._parts += payload
        self._fragments += 1
        if self._fragments >= MAX_FRAGMENTS:
            raise Broken(CloseCode.POLICY_VIOLATION, f"a message has less than {MAX_FRAGMENTS} fragments")
        if not ends:
            return Opcode.CONT, b""
        opcode, payload = self._opcode, bytes(self._parts)
        self._parts = None
        return opcode, payload


def parse_goodbye(payload: bytes) -> int:
    """Return the code of a client's close frame; `NO_STATUS_RCVD` where it has none. Raises Broken."""
    try:
        return int(Close.parse(payload).code)
    except UnicodeDecodeError:
        raise Broken(CloseCode.INVALID_DATA, "not UTF-8") from None
    except ProtocolError as error:
        raise Broken(CloseCode.PROTOCOL_ERROR, str(error)) from None
