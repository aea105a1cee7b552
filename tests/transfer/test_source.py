"""Reading JSON lines, plain and compressed."""

import gzip
import os
from pathlib import Path

import pytest
import zstandard

from relay.transfer.source import Chunk, Source, Unreadable

LIMIT = 100


def source(path: Path, *, max_line_bytes: int = LIMIT) -> Source:
    return Source(path, max_line_bytes=max_line_bytes)


def chunks(path: Path, **options: int) -> list[Chunk]:
    with source(path, **options) as opened:
        return list(iter(opened.read_chunk, None))


def lines(path: Path, **options: int) -> list[bytes]:
    return [line for chunk in chunks(path, **options) for line in chunk.lines]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_the_content_says_how_it_is_compressed_not_the_name(pack: type[bytes], tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    path.write_bytes(pack(b"one\ntwo\n"))

    assert lines(path) == [b"one", b"two"]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_joined_compressed_files_are_read_to_the_end(pack: type[bytes], tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(pack(b"one\n") + pack(b"two\n"))

    assert lines(path) == [b"one", b"two"]


def test_line_ends_a_byte_order_mark_and_a_missing_last_line_end_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\r\ntwo")

    assert lines(path) == [b"one", b"", b"two"]


def test_an_empty_file_has_no_lines(tmp_path: Path) -> None:
    (tmp_path / "events").touch()

    assert chunks(tmp_path / "events") == []


def test_chunks_hold_a_thousand_lines_and_know_their_place(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"x\n" * 2_500)

    assert [(chunk.first, len(chunk.lines), chunk.end) for chunk in chunks(path)] == [
        (1, 1000, 2000),
        (1001, 1000, 4000),
        (2001, 500, 5000),
    ]


def test_chunks_of_long_lines_hold_about_a_mebibyte(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes((b"x" * 300_000 + b"\n") * 6)

    assert [len(chunk.lines) for chunk in chunks(path, max_line_bytes=400_000)] == [4, 2]


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"x" * 300_000 + b"\n" + b"y" * LIMIT + b"\r\nz\n")

    found = lines(path)

    assert [len(line) for line in found] == [LIMIT + 2, LIMIT, 1]
    assert chunks(path)[0].end == 300_000 + LIMIT + 5


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress], ids=["plain", "gzip", "zstd"])
def test_reading_goes_on_behind_a_chunk(pack: type[bytes], tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(pack(b"".join(b"%d\n" % n for n in range(100_000))))
    with source(path) as first:
        seen = [first.read_chunk() for _ in range(70)][-1]
        assert seen is not None
        following = first.read_chunk()

    with source(path) as again:
        again.skip(end=seen.end, line=seen.first + len(seen.lines))

        found = again.read_chunk()
    assert following is not None
    assert found is not None
    assert (found.lines, found.first, found.end) == (following.lines, following.first, following.end)
    assert (following.first, following.lines[0]) == (70_001, b"70000")


def test_skipping_more_than_there_is_fails(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"one\n")

    with source(path) as opened, pytest.raises(Unreadable, match="shorter than what was imported"):
        opened.skip(end=5, line=3)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_the_lines_before_a_break_are_read(pack: type[bytes], tmp_path: Path) -> None:
    path = tmp_path / "events"
    text = b"".join(b"%d\n" % n for n in range(200_000))
    packed = pack(text)
    path.write_bytes(packed[: len(packed) // 2])

    with source(path) as opened:
        count = 0
        with pytest.raises(Unreadable, match=r"events: broken at line \d+"):
            while (chunk := opened.read_chunk()) is not None:
                count += len(chunk.lines)

    assert count > 10_000


def test_garbage_behind_a_compression_mark_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(b"\x28\xb5\x2f\xfd" + b"\xff" * 50)

    with pytest.raises(Unreadable, match="broken at line 1"):
        lines(tmp_path / "events")


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"events: No such file or directory"):
        source(tmp_path / "events")


def test_a_folder_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match=r"Is a directory"):
        source(tmp_path)


def test_the_key_tells_contents_apart(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"one\n")
    os.utime(path, ns=(1, 1))
    with source(path) as opened:
        key, size = opened.key, opened.size
    os.utime(path, ns=(2, 2))
    with source(path) as opened:
        assert opened.key != key
    os.utime(path, ns=(1, 1))
    with source(path) as opened:
        assert opened.key == key
    assert size == 4


def test_a_named_pipe_has_neither_size_nor_key(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # Opened for both, so that neither open waits for the other.
    both = os.open(path, os.O_RDWR)
    os.write(both, b"one\n")
    with source(path) as opened:
        os.close(both)

        assert (opened.size, opened.key) == (None, None)
        assert opened.read_chunk() == Chunk([b"one"], first=1, end=4, position=4)
