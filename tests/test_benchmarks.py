"""The benchmark measures what it says: its events and answers are fixed, and a small run comes to its end."""

import json
import random
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from benchmarks import prose, questions, searching
from benchmarks.dataset import DataSet, drafts, load
from benchmarks.filler import FIRST, prolific, unsigned
from benchmarks.goals import GOALS
from benchmarks.report import Row, merge
from benchmarks.soak import growths
from benchmarks.sockets import Tally, payloads
from relay.nostr.event import check_event, decode, has_right_id

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


def run(*arguments: str, cache: Path) -> str:
    command = [sys.executable, "-m", "benchmarks", "--cache", str(cache), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_small_run_measures_everything_and_every_answer_is_right(tmp_path: Path) -> None:
    sizes = ["--events", "400", "--asks", "60", "--subscribers", "4", "--notes", "20", "--idle", "10"]
    sizes += ["--seconds", "1", "--large", "2000"]
    written = tmp_path / "table.md"

    (found,) = json.loads(run("--json", "-", "--markdown", str(written), *sizes, cache=tmp_path))

    assert found["events"] == 400
    assert found["limit"]["all_cores"] > 0
    rows = {row["key"]: row for row in found["rows"]}
    expected = ["ingest/1", "ingest/8", "ingest/64", "duplicates", "disk", "single", "log"]
    expected += ["query/1", *(f"query/{name}" for name in questions.NAMES), "query/16", "count"]
    expected += ["latency/4", "live/4/all", "live/4/authors", "idle", "import", "large/start"]
    expected += ["large/query/1", *(f"large/query/{name}" for name in questions.NAMES), "large/query/16"]
    expected += ["large/count", "pages", "large/worst", "large/ingest"]
    assert rows.keys() == set(expected)
    assert all(row["figure"] > 0 for row in rows.values())
    assert rows["pages"]["method"] == "limit 500, slowest page"
    assert rows["pages"]["name"] == "page back through 400"
    table = [line for line in written.read_text().splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)


def test_growth_is_measured_at_each_size_and_drawn(tmp_path: Path) -> None:
    run("--only", "growth", "--sizes", "600,1200", "--plots", str(tmp_path), cache=tmp_path)

    found = json.loads((tmp_path / "growth.json").read_text())
    assert [point["events"] for point in found["points"]] == [600, 1200]
    for point in found["points"]:
        assert set(questions.NAMES) <= point["p50_ms"].keys()
        assert point["writer_us"] > 0
        assert 500 < point["disk_bytes_each"] < 10_000
    assert (tmp_path / "growth.svg").read_text().startswith("<?xml")


def test_soaking_watches_every_process_and_is_drawn(tmp_path: Path) -> None:
    options = ["--minutes", "0.1", "--large", "600", "--workers", "2"]

    run("--only", "soak", *options, "--plots", str(tmp_path), cache=tmp_path)

    found = json.loads((tmp_path / "soak.json").read_text())
    assert sorted(name.split()[0] for name in found["processes"]) == [
        "indexer",
        "supervisor",
        "worker",
        "worker",
        "writer",
    ]
    assert found["done"]["events"] > 200
    assert found["done"]["mistakes"] > 2
    assert len(found["growths"]) == 4
    assert (tmp_path / "soak.svg").read_text().startswith("<?xml")


def test_searching_is_measured_and_every_answer_is_right(tmp_path: Path) -> None:
    options = ["--large", "1500", "--asks", "40", "--plots", str(tmp_path)]

    table = run("--only", "search", *options, cache=tmp_path)

    found = json.loads((tmp_path / "search.json").read_text())["found"]
    assert found["milliseconds"].keys() <= {*searching.MIX, "the mix"}
    assert found["indexing_cpu_us"] > 0
    assert 100 < found["index_bytes_each"] < 10_000
    assert len(found["lag_seconds"]) == searching.BURSTS
    assert table.startswith("| searching 1,500 events |")


def test_a_poll_is_counted_watched_signed_and_audited(tmp_path: Path) -> None:
    options = ["--votes", "400", "--subscribers", "5", "--plots", str(tmp_path)]

    table = run("--only", "poll", *options, cache=tmp_path)

    found = json.loads((tmp_path / "poll.json").read_text())["found"]
    assert found["votes_rate"] > 0
    assert found["read_ms"][0] > 0
    assert len(found["lag_seconds"]) == 10
    assert table.startswith("| a poll of 400 votes | |")


def test_the_commonest_words_are_everywhere() -> None:
    words = prose.vocabulary()
    writer = prose.Prose(random.Random(1))
    notes = [writer.text(60, 600).split() for _ in range(400)]

    assert len(set(words)) == len(words) == prose.VOCABULARY
    assert words[:4] == ["the", "og", "and", "det"]
    assert 120 < sum("the" in note for note in notes) < 280


def test_steady_memory_does_not_grow() -> None:
    spike = [100, 100, 100, 400, 100, 100]

    assert growths(spike * 6) == [0, 0, 0, 0]


def test_memory_that_grows_after_the_first_window_is_told() -> None:
    windows = [10, 100, 100, 101, 101, 111.1]

    found = growths([value for value in windows for _ in range(60)])

    assert [round(growth, 6) for growth in found] == [0, 0.01, 0, 0.1]


def test_medians_of_runs_are_reported() -> None:
    found = [(30.0, 1.0), (10.0, 3.0), (20.0, 2.0)]
    runs = [[Row("single", "one at a time", "1", figure, "/s", p99_ms=p99)] for figure, p99 in found]

    (merged,) = merge(runs)

    assert (merged.figure, merged.p99_ms, merged.runs) == (20, 2, (30, 10, 20))


def test_goals_that_are_rates_follow_the_machine_and_others_do_not() -> None:
    assert GOALS["single"].scaled(19_400) == 750
    assert GOALS["ingest/8"].scaled(10_000) == 3_300
    assert GOALS["disk"].scaled(19_400) == 1_500
    assert GOALS["disk"].is_reached(1_400, 19_400)
    assert not GOALS["single"].is_reached(700, 19_400)


def test_filling_events_have_right_ids_and_a_fifth_is_by_one_author() -> None:
    events = [decode(json) for json in unsigned(50)]

    assert all(has_right_id(event) for event in events)
    assert sum(event.pubkey == prolific() for event in events) == 10
    assert [event.created_at - FIRST for event in events[:3]] == [0, 20, 40]


def test_an_empty_set_survives_nothing() -> None:
    assert DataSet(()).surviving == ()
