"""From rows to lines: every surviving event in its canonical form, oldest first, ties by lowest id.

Equal stores give equal files, byte for byte.
"""

import asyncio
import gzip
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from relay.store.api import Store

_GZIP_LEVEL = 6
_ZSTD_LEVEL = 3


async def export_events(
    store: Store, write: Callable[[bytes], object], *, now: int, on_page: Callable[[int], None]
) -> int:
    """Write all that is stored now, one line per event; return how many.

    `write` is called in a thread, a page at a time. `on_page` gets the count so far.
    """
    count = 0
    async for page in store.dump(upto=await store.head(), now=now):
        if page:
            count += len(page)
            await asyncio.to_thread(write, b"\n".join(page) + b"\n")
            on_page(count)
    return count


@contextmanager
def output(path: Path | None) -> Iterator[BinaryIO]:
    """Open what an export is written to: a file, compressed if it ends in .gz or .zst; None: stdout.

    The file appears under its name, replacing another, only when it is whole and safe on the disk.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            with _compressed(file, path.suffix) as text:
                yield text
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _compressed(file: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    match suffix:
        case ".gz":
            # No name and no time in its header: equal events give an equal file.
            with gzip.GzipFile("", "wb", _GZIP_LEVEL, file, mtime=0) as packed:
                yield cast(BinaryIO, packed)
        case ".zst":
            compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
            with compressor.stream_writer(file, closefd=False) as stream:
                yield cast(BinaryIO, stream)
        case _:
            yield file
