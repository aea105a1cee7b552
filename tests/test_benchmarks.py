"""The benchmark measures what it says: its events and answers are fixed, and a small run comes to its end."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from benchmarks import questions
from benchmarks.dataset import DataSet, drafts, load
from benchmarks.sockets import Tally, payloads
from relay.nostr.event import check_event

ROOT = Path(__file__).parent.parent


def test_a_set_is_the_same_on_every_machine() -> None:
    ids = "".join(draft.id for draft in drafts(300))

    assert sha256(ids.encode()).hexdigest()[:16] == "c0c880bd3306e646"


def test_a_set_is_signed_once_and_kept(tmp_path: Path) -> None:
    made = load(200, tmp_path)

    for event in made.events:
        check_event(event)
    assert len({event.created_at for event in made.events}) == 200
    assert load(200, tmp_path) == made
    assert len(list(tmp_path.iterdir())) == 1


def test_of_each_address_the_latest_survives(tmp_path: Path) -> None:
    made = load(600, tmp_path)
    lists = [event for event in made.events if event.kind == 10_002]
    latest = {event.pubkey: event.id for event in lists}

    assert len(lists) > len(latest)
    assert {event.id for event in made.surviving if event.kind == 10_002} == set(latest.values())


def test_answers_are_newest_first_and_stop_at_the_limit(tmp_path: Path) -> None:
    made = load(600, tmp_path)
    newest = tuple(event.id for event in reversed(made.events) if event.kind == 1)

    answers = {question.answer for question in questions.ask(made, 60) if question.name == "global"}

    assert answers == {newest[:500]}


def test_a_pattern_is_counted_over_pieces() -> None:
    tally = Tally(b"true")

    for piece in (b"xxtr", b"ue true t", b"r", b"u", b"e"):
        tally.take(piece)

    assert tally.count == 3


def test_frames_of_all_lengths_are_told_apart() -> None:
    bodies = [b"", b"a" * 125, b"b" * 126, b"c" * 65_535, b"d" * 65_536]
    heads = [
        b"\x81\x00",
        b"\x81\x7d",
        b"\x81\x7e\x00\x7e",
        b"\x81\x7e\xff\xff",
        b"\x81\x7f" + (65_536).to_bytes(8, "big"),
    ]

    assert list(payloads(b"".join(head + body for head, body in zip(heads, bodies, strict=True)))) == bodies


def test_a_small_run_measures_everything_and_every_answer_is_right(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--json", "-", "--cache", str(tmp_path)]
    sizes = ["--events", "400", "--asks", "60", "--subscribers", "4", "--notes", "20", "--idle", "10"]
    sizes += ["--seconds", "1"]

    done = subprocess.run([*command, *sizes], cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["events"] == 400
    assert found["limit"]["all_cores"] > 0
    rows = [(row["name"].strip(), row["method"]) for row in found["rows"]]
    assert rows[:5] == [
        ("ingest events", "1 connection"),
        ("ingest events", "8 connections"),
        ("ingest events", "64 connections"),
        ("known duplicates", "64 connections"),
        ("answer REQs, mixed", "1 connection"),
    ]
    assert rows[-6:] == [
        ("answer COUNTs", "1 connection"),
        ("live latency", "4 subscribers, 50 notes a second"),
        ("deliver live", "4 subscribers, all notes"),
        ("deliver live", "4 subscribers, 200 authors each"),
        ("open connections", "10 with one subscription"),
        ("import events", "one file"),
    ]
    assert all(row["of_all_cores"] > 0 for row in found["rows"] if row["name"] != "live latency")
    assert all(row["p50_ms"] > 0 for row in found["rows"] if row["name"] == "live latency")


def test_an_empty_set_survives_nothing() -> None:
    assert DataSet(()).surviving == ()
