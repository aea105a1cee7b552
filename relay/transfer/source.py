"""Reading JSON lines from a file or a pipe, plain or compressed, in chunks of bounded size."""

import gzip
import io
import os
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, cast

import zstandard
from typing_extensions import Buffer

CHUNK_LINES = 1_000
"""About as many events as a commit should have: larger ones are hardly cheaper."""
CHUNK_BYTES = 2**20

STANDARD_INPUT = Path("-")

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# What `zstd -d` accepts without being told otherwise.
_MAX_WINDOW_BYTES = 128 * 2**20
_SKIP_BYTES = 2**16
# Four bytes may stand for 128 KiB of one letter: this bounds what one piece unpacks to, at 64 MiB.
_ZSTD_PIECE_BYTES = 2**11


class Unreadable(Exception):
    """The input cannot be read, or not to its end; the text is for the operator."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some lines in a row."""

    lines: list[bytes]
    """Without line ends. A line that was too long is cut off after the limit."""
    first: int
    """The number of the first line, from 1."""
    end: int
    """Bytes of text before the end of this chunk, decompressed."""
    position: int
    """Bytes of the file read so far, as they lie on the disk: for the progress bar."""


class Source:
    """One input. A context manager; its methods block."""

    def __init__(self, path: Path, *, max_line_bytes: int) -> None:
        """Open `path` (STANDARD_INPUT: the pipe). Raises Unreadable."""
        self.path = path
        self.size: int | None = None
        """In bytes, as on the disk; None where it is not known."""
        self.key: str | None = None
        """Names this very content, to find out how much of it was imported before; None for a pipe."""
        self._max_line_bytes = max_line_bytes
        self._line = 1
        self._end = 0
        self._broken: Unreadable | None = None
        try:
            self._file = self._open()
            self._text = _decompressed(self._file)
        except OSError as error:
            raise Unreadable(f"{path}: {error.strerror}") from error

    def _open(self) -> io.BufferedReader:
        if self.path == STANDARD_INPUT:
            return cast(io.BufferedReader, sys.stdin.buffer)
        file = self.path.open("rb")
        status = os.fstat(file.fileno())
        if status.st_size or self.path.is_file():
            self.size = status.st_size
            self.key = f"{self.path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
        return file

    @property
    def name(self) -> str:
        """How reports call it."""
        return "standard input" if self.path == STANDARD_INPUT else str(self.path)

    def skip(self, *, end: int, line: int) -> None:
        """Go on behind a chunk that ended at `end`; `line` is the number of the next. Raises Unreadable."""
        left = end
        while left:
            skipped = len(self._reading(min(left, _SKIP_BYTES)))
            if not skipped:
                raise Unreadable(f"{self.name}: shorter than what was imported of it before")
            left -= skipped
        self._end, self._line = end, line

    def _reading(self, size: int) -> bytes:
        try:
            return self._text.read(size)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise Unreadable(f"{self.name}: broken behind line {self._line - 1}: {error}") from error

    def read_chunk(self) -> Chunk | None:
        """Return the next lines; None at the end. Raises Unreadable where the input is broken."""
        lines: list[bytes] = []
        size = 0
        first = self._line
        while len(lines) < CHUNK_LINES and size < CHUNK_BYTES and self._broken is None:
            try:
                line = self._read_line()
            except Unreadable as error:
                # The lines before it count.
                self._broken = error
                break
            if not line:
                break
            size += len(line)
            self._line += 1
            lines.append(line.rstrip(b"\r\n"))
        if not lines:
            if self._broken is not None:
                raise self._broken
            return None
        if first == 1:
            lines[0] = lines[0].removeprefix(_BYTE_ORDER_MARK)
        return Chunk(lines, first, self._end, self._position())

    def _read_line(self) -> bytes:
        try:
            # One more than fits and the line end: so it shows that the line is too long.
            line = self._text.readline(self._max_line_bytes + 2)
            self._end += len(line)
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = self._text.readline(_SKIP_BYTES)
                self._end += len(rest)
        except (OSError, EOFError, zlib.error, zstandard.ZstdError) as error:
            raise Unreadable(f"{self.name}: broken at line {self._line}: {error}") from error
        return line

    def _position(self) -> int:
        return self._file.tell() if self.size is not None else self._end

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.path != STANDARD_INPUT:
            self._file.close()


def _decompressed(file: io.BufferedReader) -> BinaryIO:
    """Look at the first bytes, not at the name: a pipe has none."""
    magic = file.peek(4)
    if magic.startswith(_GZIP):
        return cast(BinaryIO, gzip.GzipFile(fileobj=file))
    if magic.startswith(_ZSTD):
        return cast(BinaryIO, io.BufferedReader(_ZstdText(file), CHUNK_BYTES))
    return file


class _ZstdText(io.RawIOBase):
    """The text of one or more zstd frames.

    The library's own reader takes a file that was cut off for a whole one.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._packed = b""
        self._text = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Buffer, /) -> int:
        while not self._text:
            packed = self._packed or self._file.read(_ZSTD_PIECE_BYTES)
            if not packed:
                if self._frame is not None:
                    raise EOFError("the compressed data is cut off")
                return 0
            self._frame = self._frame or self._decompressor.decompressobj()
            self._text = self._frame.decompress(packed)
            self._packed = b""
            if self._frame.eof:
                self._packed = self._frame.unused_data
                self._frame = None
        view = memoryview(buffer)
        taken = min(len(view), len(self._text))
        view[:taken] = self._text[:taken]
        self._text = self._text[taken:]
        return taken
