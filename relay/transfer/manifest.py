"""What a backup is: a folder with files of the relay, and a manifest that says what they hold.

A manifest is read as if a stranger had written it: nothing that it names leaves its folder.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Protocol, cast

import orjson
import zstandard

MANIFEST = "manifest.json"
FORMAT = 1
COMPRESSED = ".zst"
_BLOCK = 2**20
_ZSTD_LEVEL = 3
_MOST_BYTES = 2**20
_MOST_FILES = 64


class BadBackup(Exception):
    """What was given is no backup, or not a whole one; the text says what and where."""


@dataclass(frozen=True, slots=True)
class BackedUpFile:
    """A file of a backup."""

    bytes: int
    sha256: str
    """64 hex digits, of the file as it lies in the backup."""
    unpacked_bytes: int
    """Its length when it is restored; the same unless it is compressed."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds."""

    made_at: int
    """Unix seconds."""
    torv: str
    """The version that made it."""
    migrations: tuple[str, ...]
    """What makes a database of its version."""
    head: int
    """The seq of the last commit in it."""
    events: int
    fingerprint: str
    """Negentropy's, of all events (NIP-77): 32 hex digits. Equal sets of events have equal fingerprints."""
    counts: Mapping[str, int]
    """Rows of the database's other tables."""
    files: Mapping[str, BackedUpFile]
    """By name; one whose name ends in .zst is compressed."""

    def write(self, folder: Path) -> None:
        """Put the manifest into a backup's folder, safe on the disk."""
        text = orjson.dumps({"format": FORMAT, **asdict(self)}, option=orjson.OPT_INDENT_2)
        with private_file(folder / MANIFEST) as file:
            file.write(text + b"\n")
            _settle(file)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a backup. Raises BadBackup."""
    path = folder / MANIFEST
    try:
        with path.open("rb") as file:
            value = orjson.loads(file.read(_MOST_BYTES))
    except (OSError, orjson.JSONDecodeError) as error:
        raise BadBackup(f"cannot read {path}: {error}") from error
    match value:
        case {"format": int(format_)} if format_ > FORMAT:
            raise BadBackup(
                f"{folder} was made by a newer Torv ({value.get('torv')}): restore it with that one"
            )
        case {
            "format": 1,
            "made_at": int(made_at),
            "torv": str(torv),
            "migrations": list(migrations),
            "head": int(head),
            "events": int(events),
            "fingerprint": str(fingerprint),
            "counts": dict(counts),
            "files": dict(files),
        } if len(files) <= _MOST_FILES:
            read = {name: _read_file(name, file) for name, file in files.items()}
            return Manifest(
                *(made_at, torv, tuple(map(str, migrations)), head, events, fingerprint, counts, read)
            )
    raise BadBackup(f"{path} is no manifest of a backup")


def _read_file(name: str, value: object) -> BackedUpFile:
    match value:
        case {"bytes": int(size), "sha256": str(digest), "unpacked_bytes": int(unpacked)} if Path(
            name
        ).name == name and not name.startswith("."):
            return BackedUpFile(size, digest, unpacked)
    raise BadBackup(f"the manifest's entry {name!r} is no file of a backup")


def restored_name(name: str) -> str:
    """Return the name that a file of a backup has in a relay's folder."""
    return name.removesuffix(COMPRESSED)


def private_file(path: Path) -> BinaryIO:
    """Make a new file for its owner's eyes only (mode 0600)."""
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def settle_folder(folder: Path) -> None:
    """Make the names in a folder safe on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


Advance = Callable[[int], None]
"""Called with how many further bytes are done."""


def measure(path: Path, unpacked_bytes: int | None, on_advance: Advance) -> BackedUpFile:
    """Read a file of a backup for its entry in the manifest."""
    digest, size = sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
            on_advance(len(block))
    return BackedUpFile(size, digest.hexdigest(), size if unpacked_bytes is None else unpacked_bytes)


def compress(source: Path, target: Path, on_advance: Advance) -> None:
    """Write a compressed copy of a file, safe on the disk."""
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
    with source.open("rb") as plain, private_file(target) as packed:
        with compressor.stream_writer(packed, closefd=False) as stream:
            while block := plain.read(_BLOCK):
                stream.write(block)
                on_advance(len(block))
        _settle(packed)


def check_files(folder: Path, manifest: Manifest, on_advance: Advance) -> list[str]:
    """Compare a backup's files with its manifest; return what differs, a sentence each."""
    wrong: list[str] = []
    for name, expected in manifest.files.items():
        path = folder / name
        try:
            size = path.stat().st_size
            if size != expected.bytes:
                wrong.append(f"{name} has {size} bytes, and should have {expected.bytes}")
            elif measure(path, expected.unpacked_bytes, on_advance) != expected:
                wrong.append(f"{name} is not the file that was backed up: its sha256 differs")
        except OSError as error:
            wrong.append(f"{name} cannot be read: {error.strerror}")
    return wrong


def unpack(folder: Path, name: str, manifest: Manifest, target: Path, on_advance: Advance) -> None:
    """Write one file of a backup where it is restored, as it was, safe on the disk. Raises BadBackup.

    What it holds is compared with the manifest on the way: a file may change after it was checked.
    """
    expected = manifest.files[name]
    with (folder / name).open("rb") as packed, private_file(target) as file:
        reading = _Hashing(packed)
        source: _Readable
        if name.endswith(COMPRESSED):
            # It only reads, whatever its type says.
            source = zstandard.ZstdDecompressor().stream_reader(cast(BinaryIO, reading), closefd=False)
        else:
            source = reading
        size = 0
        try:
            while block := source.read(_BLOCK):
                size += len(block)
                if size > expected.unpacked_bytes:
                    raise BadBackup(f"{name} holds more than the {expected.unpacked_bytes} bytes it should")
                file.write(block)
                on_advance(len(block))
        except zstandard.ZstdError as error:
            raise BadBackup(f"{name} cannot be decompressed: {error}") from error
        if size != expected.unpacked_bytes or reading.digest.hexdigest() != expected.sha256:
            raise BadBackup(f"{name} is not the file that was backed up")
        _settle(file)


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


class _Hashing:
    """Reads a file, and knows the hash of what was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = sha256()

    def read(self, size: int = -1, /) -> bytes:
        block = self._file.read(size)
        self.digest.update(block)
        return block
