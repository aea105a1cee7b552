"""The command `torv` as its users have it: a process with arguments, output and an exit status."""

import gzip
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from relay import __version__
from relay.nostr import kinds
from relay.nostr.event import Event, encode
from tests.events import ALICE, BOB, event, note, notes
from tests.serving import TorvServe

ROOT = Path(__file__).parent.parent
WAIT_SECONDS = 60

Run = subprocess.CompletedProcess[bytes]


def torv(*arguments: str | Path, given: bytes = b"", **variables: str) -> Run:
    """Run `torv` to its end."""
    return subprocess.run(
        command(arguments),
        input=given,
        capture_output=True,
        env=environment() | variables,
        timeout=WAIT_SECONDS,
        check=False,
    )


def command(arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", "torv", *map(str, arguments)]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TORV_")}
    return kept | {"PYTHONPATH": str(ROOT)}


def lines(*events: Event | bytes) -> bytes:
    return b"".join((one if isinstance(one, bytes) else encode(one)) + b"\n" for one in events)


def test_it_knows_its_version() -> None:
    assert torv("--version").stdout == f"torv, version {__version__}\n".encode()


def test_help_names_every_command() -> None:
    shown = torv("--help").stdout.decode()

    assert [name for name in ("bridge", "example-config", "relay", "serve") if f"\n  {name} " in shown] == [
        "bridge",
        "example-config",
        "relay",
        "serve",
    ]


def test_an_unknown_command_is_a_mistake() -> None:
    ended = torv("sevre")

    assert ended.returncode == 2
    assert b"Did you mean 'serve'?" in ended.stderr


def test_the_example_configuration_is_printed() -> None:
    assert torv("example-config").stdout == (ROOT / "config.example.toml").read_bytes()


def test_a_right_configuration_is_told_so_with_what_it_changes(tmp_path: Path) -> None:
    (tmp_path / "torv.toml").write_text('[relay]\nname = "Home"\nport = 7777')

    ended = torv(
        *("serve", "--check-config", "--config", tmp_path / "torv.toml", "--data", "/nowhere"),
        TORV_WORKERS="3",
    )

    assert ended.returncode == 0
    assert ended.stdout.decode().splitlines() == [
        "the configuration is right; 3 settings differ from their defaults",
        '  data = "/nowhere"',
        '  relay.name = "Home"',
        "  relay.workers = 3",
    ]
    assert ended.stderr == b""


def test_the_environment_may_name_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "torv.toml").write_text('[relay]\nname = "Home"')

    ended = torv("serve", "--check-config", TORV_CONFIG=str(tmp_path / "torv.toml"))

    assert b'relay.name = "Home"' in ended.stdout


@pytest.mark.parametrize("arguments", [("serve",), ("serve", "--check-config"), ("relay", "export")])
def test_a_wrong_configuration_ends_every_command_with_2(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "torv.toml").write_text("[relay]\nport = -1\nworkers = 1000")

    ended = torv(*arguments, "--config", tmp_path / "torv.toml", "--data", tmp_path / "data")

    assert ended.returncode == 2
    assert ended.stderr.decode().replace(f"{tmp_path}/", "").splitlines() == [
        "the configuration has 2 mistakes:",
        "  torv.toml:2: relay.port: expected at least 0, found -1",
        "    The port to listen on; 0: a free one.",
        "  torv.toml:3: relay.workers: expected at most 256, found 1000",
        "    Worker processes; 0: one per core.",
    ]
    assert not (tmp_path / "data").exists()


def test_a_bridge_needs_a_relay_with_a_port_that_it_knows(tmp_path: Path) -> None:
    (tmp_path / "torv.toml").write_text(
        '[bridge.matrix]\nhomeserver = "http://127.0.0.1:8008"\nserver_name = "example.org"'
    )

    ended = torv("serve", "--port", "0", "--check-config", "--config", tmp_path / "torv.toml")

    assert ended.returncode == 2
    assert b"Give the relay a fixed port, or set bridge.relay_url." in ended.stderr


def test_a_port_in_use_is_an_error_that_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        ended = torv("serve", "--port", str(port), "--data", tmp_path)

    assert ended.returncode == 1
    assert ended.stderr.decode() == (
        f"Error: port {port} on 127.0.0.1 is in use; choose another with --port\n"
    )


def test_a_part_that_cannot_start_is_an_error_that_names_it(tmp_path: Path) -> None:
    # The writer cannot listen.
    (tmp_path / "writer.sock.new").mkdir(parents=True)

    ended = torv("serve", "--port", "0", "--data", tmp_path, "--workers", "1")

    assert ended.returncode == 1
    assert ended.stderr.decode().splitlines()[-1] == "Error: the writer process stopped with exit code 1"
    assert b"Traceback" not in ended.stderr


@pytest.mark.xdist_group("relay")
def test_without_any_configuration_it_serves_and_says_where(tmp_path: Path) -> None:
    with subprocess.Popen(
        command(["serve", "--port", "0", "--workers", "1"]),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().decode() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=WAIT_SECONDS)

    port = said[0].removeprefix("ws://127.0.0.1:").removesuffix("/\n")
    assert said == [f"ws://127.0.0.1:{port}/\n", f"http://127.0.0.1:{port}/\n"]
    assert process.returncode == 0
    assert (tmp_path / "data").is_dir()
    assert (tmp_path / "data" / "relay.key").stat().st_mode & 0o777 == 0o600


def test_events_go_in_and_come_out_ordered(tmp_path: Path) -> None:
    newer, older = note(BOB, "newer", created_at=2_000), note(ALICE, "older", created_at=1_000)
    (tmp_path / "one.jsonl").write_bytes(lines(newer))
    (tmp_path / "two").write_bytes(gzip.compress(lines(older, newer)))

    ended = torv("relay", "import", tmp_path / "one.jsonl", tmp_path / "two", "--data", tmp_path / "data")
    exported = torv("relay", "export", "--data", tmp_path / "data")

    assert ended.stdout.decode().splitlines() == ["3 events: 2 stored", "  1 there already"]
    assert (ended.returncode, exported.returncode) == (0, 0)
    assert exported.stdout == lines(older, newer)
    assert exported.stderr == b"2 events exported\n"


def test_standard_input_is_imported_into_any_folder(tmp_path: Path) -> None:
    data = tmp_path / "50% of #1?"

    ended = torv("relay", "import", "--data", data, given=lines(note(ALICE)))

    assert (ended.returncode, ended.stdout) == (0, b"1 event: 1 stored\n")
    assert (data / "torv.sqlite3").exists()


def test_rejected_lines_are_kept_and_the_status_tells(tmp_path: Path) -> None:
    (tmp_path / "events").write_bytes(lines(note(ALICE), b"nonsense"))

    ended = torv(
        *("relay", "import", tmp_path / "events", "--data", tmp_path / "data"),
        *("--rejects", tmp_path / "rejects"),
    )

    assert ended.returncode == 1
    assert ended.stdout.decode().splitlines() == [
        "2 events: 1 stored",
        f"  1 rejected: not JSON ({tmp_path}/events:2)",
    ]
    assert (tmp_path / "rejects").read_bytes() == b"nonsense\n"


def test_a_file_that_is_not_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    ended = torv("relay", "import", tmp_path / "events", "--data", tmp_path / "data")

    assert ended.returncode == 1
    assert f"error: {tmp_path}/events: No such file or directory" in ended.stderr.decode()


def test_a_folder_without_a_database_has_nothing_to_export(tmp_path: Path) -> None:
    ended = torv("relay", "export", "--data", tmp_path / "data")

    assert ended.returncode == 1
    assert ended.stderr.decode() == f"Error: there is no database in the folder {tmp_path}/data\n"
    assert not (tmp_path / "data").exists()


def test_export_import_export_gives_the_same_file(tmp_path: Path) -> None:
    gone = note(ALICE, "gone", created_at=1_000)
    events = [
        *notes(BOB, 2_500, created_at=5_000),
        gone,
        event(ALICE, kinds.DELETION, tags=[["e", gone.id]]),
        event(ALICE, kinds.PROFILE, "first", created_at=2_000),
        event(ALICE, kinds.PROFILE, "second", created_at=3_000),
    ]

    torv("relay", "import", "--data", tmp_path / "one", given=lines(*events))
    torv("relay", "export", "--data", tmp_path / "one", "-o", tmp_path / "first.zst")
    ended = torv("relay", "import", "--data", tmp_path / "two", tmp_path / "first.zst")
    torv("relay", "export", "--data", tmp_path / "two", "-o", tmp_path / "second.zst")

    assert ended.stdout == b"2,502 events: 2,502 stored\n"
    assert (tmp_path / "first.zst").read_bytes() == (tmp_path / "second.zst").read_bytes()


def test_an_import_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """The first run is killed once it has noted how far it is; the second one skips that part.

    The note may lag behind what is stored: that much the second one finds there already.
    """
    path, data = tmp_path / "events", tmp_path / "data"
    many = notes(ALICE, 3_000)
    text = lines(*many)
    with path.open("wb") as file:
        for _ in range(100):
            file.write(text)
    arguments: list[str | Path] = ["relay", "import", path, "--data", data]
    with subprocess.Popen(
        command(arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as first:
        assert first.stderr is not None
        # It writes this line a moment before or after the mark; the second line is behind it.
        for _ in range(2):
            first.stderr.readline()
        os.kill(first.pid, signal.SIGKILL)
    (mark,) = orjson.loads((data / "imports.json").read_bytes()).values()
    before = exported(data)

    second = subprocess.Popen(
        command([*arguments, "--json"]), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert second.stderr is not None
    shown = second.stderr.readline().decode()
    second.terminate()
    said, _ = second.communicate(timeout=WAIT_SECONDS)
    after, report = exported(data), orjson.loads(said)

    assert mark["end"] > 0
    assert mark["line"] > 1_000
    already = int(shown.split(": ")[1].split(" ")[0].replace(",", ""))
    assert already >= mark["line"] - 1
    assert second.returncode == 1
    assert report["finished"] is False
    done = report["stored"] + report["duplicate"]
    assert done >= already
    # Nothing is lost: neither what the mark says, nor what came after it.
    in_order = [one.id for one in many]
    assert len(before) >= min(mark["line"] - 1, 3_000)
    assert before == set(in_order[: len(before)])
    assert after == set(in_order[: max(done, len(before))])
    # And each is counted once: as stored, unless the first run stored it without noting so.
    assert report["stored"] == mark["report"]["stored"] + len(after - before)


def exported(data: Path) -> set[str]:
    """Return the ids of all events in a data folder, each of which is there once."""
    ids = [orjson.loads(line)["id"] for line in torv("relay", "export", "--data", data).stdout.splitlines()]
    assert len(ids) == len(set(ids))
    return set(ids)


@pytest.mark.xdist_group("relay")
def test_import_and_export_work_beside_a_running_relay(torv_serve: TorvServe, tmp_path: Path) -> None:
    served = torv_serve()
    hello = note(ALICE, "hello")

    ended = torv("relay", "import", "--data", served.data, given=lines(hello))
    exported = torv("relay", "export", "--data", served.data)

    assert (ended.returncode, ended.stdout) == (0, b"1 event: 1 stored\n")
    assert exported.stdout == lines(hello)


def test_two_imports_do_not_write_at_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with subprocess.Popen(
        command(["relay", "import", "--data", data, "-"]),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as first:
        assert first.stdin is not None
        assert first.stderr is not None
        first.stdin.write(lines(*notes(ALICE, 3)))
        first.stdin.flush()
        while not (data / "torv.sqlite3").exists():
            assert first.poll() is None

        second = torv("relay", "import", "--data", data, given=b"")
        first.communicate(timeout=WAIT_SECONDS)

    assert second.returncode == 1
    assert f"error: another process uses the data folder {data}" in second.stderr.decode()
    assert first.returncode == 0
