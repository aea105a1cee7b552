"""What an import reports, and how far it came."""

from pathlib import Path

from relay.store.api import Outcome, Seq
from relay.transfer.report import Mark, Marks, Report


def test_a_report_says_what_became_of_every_line() -> None:
    report = Report()
    for outcome in (Outcome.STORED, Outcome.STORED, Outcome.DUPLICATE, Outcome.SUPERSEDED, Outcome.DELETED):
        report.add_outcome(outcome)
    for line in range(4):
        report.reject("not JSON", f"events:{line}")
    report.leave_out("expired", "events:9")

    assert list(report.lines()) == [
        "10 events: 2 stored",
        "  1 there already",
        "  1 superseded by a newer version",
        "  1 deleted by their author",
        "  1 left out: expired (events:9)",
        "  4 rejected: not JSON (events:0, events:1, events:2, …)",
    ]


def test_reports_add_up() -> None:
    one, two = Report(), Report()
    for report, place in ((one, "a"), (two, "b")):
        report.add_outcome(Outcome.STORED)
        report.reject("not JSON", place)
        report.reject("not JSON", place)

    one.include(two)

    assert list(one.lines()) == ["6 events: 2 stored", "  4 rejected: not JSON (a, a, b, …)"]


def test_the_number_of_reasons_is_bounded() -> None:
    report = Report()
    for n in range(1_000):
        report.reject(f"reason {n}", "x")

    assert len(report.rejected) == 101
    assert report.rejected["other reasons"].count == 900


def test_a_mark_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "imports.json"
    report = Report(stored=3)
    report.reject("not JSON", "events:2")

    Marks(path).set("key", Mark(end=100, line=5, report=report), head=Seq(3))

    assert Marks(path).get("key", head=Seq(3)) == Mark(end=100, line=5, report=report)
    assert Marks(path).get("another", head=Seq(3)) is None


def test_a_mark_of_another_database_does_not_count(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "imports.json")

    marks.set("key", Mark(end=100, line=5, report=Report()), head=Seq(3))

    assert marks.get("key", head=Seq(2)) is None


def test_nothing_is_left_of_marks_that_are_done_with(tmp_path: Path) -> None:
    marks = Marks(tmp_path / "imports.json")
    marks.set("key", Mark(end=100, line=5, report=Report()), head=Seq(3))

    marks.forget(["key", "another"])

    assert marks.get("key", head=Seq(3)) is None
    assert list(tmp_path.iterdir()) == []
