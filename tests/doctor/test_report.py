"""What an examination found is told in full."""

import io

from rich.console import Console

from relay.doctor.examination import Diagnosis
from relay.doctor.information import HttpAnswer, Information
from relay.doctor.outcome import Failure, Finding, Verdict
from relay.doctor.report import as_json, show

DIAGNOSIS = Diagnosis(
    "wss://relay.test/",
    Information(HttpAnswer(200, {}, b""), {"supported_nips": [9, 1, 50, True, "x"]}),
    (
        Finding(1, "stored events come [in order]", Verdict.PROVED, 0.25),
        Finding(9, "authors delete", Verdict.FAILED, 1.5, Failure("kind 5", "nothing", "[kind 1] came")),
        Finding(50, "notes are found", Verdict.SKIPPED, 0.0, reason="it demands a key"),
    ),
    2,
)


def test_people_are_shown_every_probe_and_what_came_of_failures() -> None:
    shown = io.StringIO()

    show(DIAGNOSIS, Console(file=shown, width=80))

    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines == [
        "NIP  the relay says that …                   seconds",
        " 01  stored events come [in order]  ok          0.25",
        " 09  authors delete                 failed      1.50",
        " 50  notes are found                skipped     0.00",
        "     it demands a key",
        "",
        "NIP-09: authors delete",
        "  sent     kind 5",
        "  expected nothing",
        "  but      [kind 1] came",
        "",
        "wss://relay.test/: 1 proved, 1 failed, 1 skipped; 2 events could not be deleted",
    ]


def test_programs_are_given_all_of_it() -> None:
    assert as_json(DIAGNOSIS) == {
        "url": "wss://relay.test/",
        "supported_nips": [1, 9, 50],
        "counts": {"ok": 1, "failed": 1, "skipped": 1},
        "left_behind": 2,
        "findings": [
            {"nip": 1, "claim": "stored events come [in order]", "verdict": "ok", "seconds": 0.25},
            {
                "nip": 9,
                "claim": "authors delete",
                "verdict": "failed",
                "seconds": 1.5,
                "sent": "kind 5",
                "expected": "nothing",
                "came": "[kind 1] came",
            },
            {
                "nip": 50,
                "claim": "notes are found",
                "verdict": "skipped",
                "seconds": 0.0,
                "reason": "it demands a key",
            },
        ],
    }
