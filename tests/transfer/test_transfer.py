"""Import and export, with the relay's own rules and the memory store."""

import asyncio
import gzip
import io
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import orjson
import pytest
import zstandard

from relay.assembly import relay_features
from relay.config import LimitsConfig, RelayConfig
from relay.engine.admission import Admission
from relay.nostr import kinds
from relay.nostr.event import Event, encode
from relay.nostr.filter import Filter
from relay.store.api import Bell, Store
from relay.store.memory import MemoryStore
from relay.transfer.exporting import export_events, output
from relay.transfer.importing import Importer
from relay.transfer.report import Report
from relay.transfer.source import Chunk, Source, Unreadable
from relay.transfer.verification import Verifiers, verifiers
from tests.events import ALICE, BOB, NOW, event, note, notes

LIMIT = 100_000

Run = Callable[..., "asyncio.Future[Report]"]


@pytest.fixture
async def processes() -> AsyncIterator[Verifiers]:
    async with verifiers(2) as running:
        yield running


class Imports:
    """Imports lines into a store, as the command does."""

    def __init__(self, folder: Path, processes: Verifiers) -> None:
        self.store: Store = MemoryStore()
        self.rejects = io.BytesIO()
        self.stop = asyncio.Event()
        self.done: list[Chunk] = []
        self.finished = False
        self.config = RelayConfig(limits=LimitsConfig(max_content_chars=1_000))
        self._path = folder / "events"
        self._processes = processes

    async def run(self, *lines: Event | bytes, stop_after: int | None = None) -> Report:
        self._path.write_bytes(
            b"".join((encode(one) if isinstance(one, Event) else one) + b"\n" for one in lines)
        )
        return await self.read(self._path, stop_after)

    async def read(self, path: Path, stop_after: int | None = None) -> Report:
        report = Report()

        async def on_done(chunk: Chunk) -> None:
            self.done.append(chunk)
            if len(self.done) == stop_after:
                self.stop.set()

        importer = Importer(
            self.store,
            Admission(relay_features(self.config, ALICE)),
            self._processes,
            max_line_bytes=LIMIT,
            now=lambda: NOW,
            stop=self.stop,
        )
        with Source(path, max_line_bytes=LIMIT) as source:
            source.path = Path("events")
            self.finished = await importer.run(source, report, on_done=on_done, rejects=self.rejects)
        return report

    async def stored(self) -> list[bytes]:
        """What is there, newest first."""
        head = await self.store.head()
        return [row.json async for page in self.store.scan(Filter(), upto=head, now=NOW) for row in page]

    async def export(self) -> bytes:
        written = io.BytesIO()
        await export_events(self.store, written.write, now=NOW, on_page=lambda count: None)
        return written.getvalue()


@pytest.fixture
def imports(tmp_path: Path, processes: Verifiers) -> Imports:
    return Imports(tmp_path, processes)


async def test_events_are_stored_once(imports: Imports) -> None:
    hello = note(ALICE, "hello")

    first = await imports.run(hello, hello, b"")
    again = await imports.run(hello)

    assert (first.stored, first.duplicate, first.events) == (1, 1, 2)
    assert (again.stored, again.duplicate, again.events) == (0, 1, 1)
    assert await imports.stored() == [encode(hello)]
    assert imports.finished


async def test_the_newest_version_stays_in_either_order(imports: Imports) -> None:
    old = event(ALICE, kinds.PROFILE, "old", created_at=NOW - 1)
    new = event(ALICE, kinds.PROFILE, "new", created_at=NOW)

    report = await imports.run(new, old)

    assert (report.stored, report.superseded) == (1, 1)
    assert await imports.stored() == [encode(new)]


async def test_what_was_deleted_before_it_arrives_is_not_stored(imports: Imports) -> None:
    gone = note(ALICE, "gone", created_at=NOW - 1)
    deletion = event(ALICE, kinds.DELETION, tags=[["e", gone.id]])

    report = await imports.run(deletion, gone)

    assert (report.stored, report.deleted) == (1, 1)
    assert await imports.stored() == [encode(deletion)]


async def test_nobody_deletes_what_is_not_theirs(imports: Imports) -> None:
    kept = note(ALICE, "kept", created_at=NOW - 1)
    attempt = event(BOB, kinds.DELETION, tags=[["e", kept.id]])

    await imports.run(kept, attempt)

    assert await imports.stored() == [encode(attempt), encode(kept)]


async def test_events_that_no_relay_keeps_are_left_out(imports: Imports) -> None:
    report = await imports.run(
        event(ALICE, 20_001, "ephemeral"),
        event(ALICE, kinds.CLIENT_AUTH, tags=[["challenge", "x"]]),
        note(ALICE, "expired", tags=[["expiration", str(NOW)]]),
        note(ALICE, "expires later", tags=[["expiration", str(NOW + 1)]]),
    )

    assert list(report.lines()) == [
        "4 events: 1 stored",
        "  2 left out: an ephemeral event, which no relay keeps (events:1, events:2)",
        "  1 left out: expired (NIP-40) (events:3)",
    ]
    assert report.rejects == 0
    assert imports.rejects.getvalue() == b""


async def test_a_protected_event_of_somebody_else_may_be_imported(imports: Imports) -> None:
    report = await imports.run(note(BOB, tags=[["-"]]))

    assert report.stored == 1


async def test_rejected_lines_are_reported_and_written_down(imports: Imports) -> None:
    forged = encode(note(ALICE, "hello")).replace(b"hello", b"howdy")
    future = note(ALICE, created_at=NOW + 10_000)
    long = note(ALICE, "x" * 1_001)

    report = await imports.run(b"nonsense", forged, note(ALICE), future, long, b"{}", b"oops")

    assert list(report.lines()) == [
        "7 events: 1 stored",
        "  2 rejected: not JSON (events:1, events:7)",
        "  1 rejected: id is not the hash of the event (events:2)",
        "  1 rejected: created_at is more than 900 seconds in the future (events:4)",
        "  1 rejected: content has 1001 characters, this relay takes 1000 (events:5)",
        "  1 rejected: the event has no id (events:6)",
    ]
    assert imports.rejects.getvalue().splitlines() == [
        b"nonsense",
        forged,
        encode(future),
        encode(long),
        b"{}",
        b"oops",
    ]


async def test_live_subscribers_get_nothing_of_it(imports: Imports) -> None:
    bells: list[Bell] = []
    imports.store.listen(bells.append)

    await imports.run(*notes(ALICE, 3))

    assert bells
    assert [bell.rows for bell in bells] == [()] * len(bells)


async def test_chunks_are_reported_in_order_and_after_they_are_stored(imports: Imports) -> None:
    lines = [encode(one) for one in notes(ALICE, 1)] * 9_500

    report = await imports.run(*lines)

    assert [chunk.first for chunk in imports.done] == list(range(1, 9_501, 1_000))
    assert report.events == 9_500


async def test_a_stop_finishes_what_was_begun(imports: Imports) -> None:
    report = await imports.run(*[b"x"] * 50_000, stop_after=1)

    assert not imports.finished
    done = imports.done[-1]
    assert report.rejects == done.first + len(done.lines) - 1
    assert report.rejects < 50_000


async def test_what_stands_before_a_break_is_stored(imports: Imports, tmp_path: Path) -> None:
    lines = b"".join(encode(one) + b"\n" for one in notes(ALICE, 300))
    packed = gzip.compress(lines)
    (tmp_path / "broken").write_bytes(packed[:-100])

    with pytest.raises(Unreadable, match="broken at line"):
        await imports.read(tmp_path / "broken")

    assert len(await imports.stored()) > 250


async def test_exports_are_ordered_by_time_and_then_by_id(imports: Imports) -> None:
    events = [note(ALICE, f"{n}", created_at=NOW - n // 3) for n in range(9)]
    random.Random(1).shuffle(events)

    await imports.run(*events)

    values = [orjson.loads(line) for line in (await imports.export()).splitlines()]
    places = [(value["created_at"], value["id"]) for value in values]
    assert places == sorted(places)
    assert len(places) == 9


async def test_an_export_imports_to_the_same_export(
    imports: Imports, tmp_path: Path, processes: Verifiers
) -> None:
    gone, address = note(ALICE, "gone", created_at=NOW - 9), f"30023:{BOB.public}:page"
    await imports.run(
        *notes(BOB, 5, created_at=NOW - 50),
        gone,
        event(ALICE, kinds.DELETION, tags=[["e", gone.id]]),
        event(ALICE, kinds.PROFILE, "first", created_at=NOW - 2),
        event(ALICE, kinds.PROFILE, "second", created_at=NOW - 1),
        event(BOB, 30_023, "page", created_at=NOW - 8, tags=[["d", "page"]]),
        event(BOB, kinds.DELETION, created_at=NOW - 7, tags=[["a", address]]),
        event(BOB, 30_023, "page again", created_at=NOW - 6, tags=[["d", "page"]]),
        note(ALICE, "short-lived", tags=[["expiration", str(NOW + 60)]]),
        note(ALICE, "\x00\x1f\x7f\u2028😀 \\u0041", created_at=NOW - 3),
    )
    exported = await imports.export()
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "export").write_bytes(exported)
    second = Imports(tmp_path / "again", processes)

    report = await second.read(tmp_path / "again" / "export")

    assert (report.stored, report.events) == (11, 11)
    assert await second.export() == exported


@pytest.mark.parametrize(
    ("suffix", "unpack"),
    [
        ("", bytes),
        (".gz", gzip.decompress),
        (".zst", lambda data: zstandard.ZstdDecompressor().stream_reader(data).read()),
    ],
)
def test_the_name_says_how_an_export_is_compressed(
    suffix: str, unpack: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    path = tmp_path / f"events{suffix}"

    with output(path) as file:
        file.write(b"one\n")
        file.write(b"two\n")

    assert unpack(path.read_bytes()) == b"one\ntwo\n"
    assert [found.name for found in tmp_path.iterdir()] == [f"events{suffix}"]


def test_equal_exports_are_equal_files(tmp_path: Path) -> None:
    for name in ("one.gz", "two.gz"):
        with output(tmp_path / name) as file:
            file.write(b"text")

    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def test_an_export_that_fails_leaves_the_older_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "events"
    path.write_bytes(b"older")

    with pytest.raises(RuntimeError), output(path) as file:
        file.write(b"newer")
        raise RuntimeError

    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
