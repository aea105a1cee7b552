"""What an examination found, for people and for programs."""

from collections.abc import Mapping
from itertools import groupby

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from relay.doctor.examination import Diagnosis
from relay.doctor.outcome import Finding, Verdict

_SHOWN = {
    Verdict.PROVED: "[green]ok[/]",
    Verdict.FAILED: "[bold red]failed[/]",
    Verdict.SKIPPED: "[yellow]skipped[/]",
}


def as_json(diagnosis: Diagnosis) -> Mapping[str, object]:
    """Return the whole diagnosis as JSON values."""
    return {
        "url": diagnosis.url,
        "supported_nips": list(diagnosis.information.nips),
        "counts": {verdict.value: diagnosis.number(verdict) for verdict in Verdict},
        "left_behind": diagnosis.left_behind,
        "findings": [_finding(finding) for finding in diagnosis.findings],
    }


def _finding(finding: Finding) -> Mapping[str, object]:
    value: dict[str, object] = {
        "nip": finding.nip,
        "claim": finding.claim,
        "verdict": finding.verdict.value,
        "seconds": round(finding.seconds, 3),
    }
    if finding.failure is not None:
        failure = finding.failure
        value |= {"sent": failure.sent, "expected": failure.expected, "came": failure.came}
    if finding.reason:
        value["reason"] = finding.reason
    return value


def show(diagnosis: Diagnosis, console: Console) -> None:
    """Write a table of all probes, then every failure in full and a sum."""
    table = Table(box=None, pad_edge=False)
    table.add_column("NIP", justify="right", no_wrap=True)
    table.add_column("the relay says that …")
    table.add_column("", no_wrap=True)
    table.add_column("seconds", justify="right", no_wrap=True)
    for nip, findings in groupby(diagnosis.findings, key=lambda finding: finding.nip):
        for first, finding in zip((f"{nip:02}", *("" for _ in diagnosis.findings)), findings, strict=False):
            claim = escape(finding.claim)
            if finding.reason:
                claim += f"\n[dim]{escape(finding.reason)}[/]"
            table.add_row(first, claim, _SHOWN[finding.verdict], f"{finding.seconds:.2f}")
    console.print(table)
    for finding in diagnosis.findings:
        if finding.failure is not None:
            console.print(f"\n[bold]NIP-{finding.nip:02}: {escape(finding.claim)}[/]", highlight=False)
            for word, text in (
                ("sent", finding.failure.sent),
                ("expected", finding.failure.expected),
                ("but", finding.failure.came),
            ):
                console.print(f"  {word:9}{escape(text)}", highlight=False, soft_wrap=True)
    console.print("\n" + summary(diagnosis), highlight=False)


def summary(diagnosis: Diagnosis) -> str:
    """Return one line that says how it went."""
    counts = ", ".join(
        f"{diagnosis.number(verdict)} {word}"
        for verdict, word in (
            (Verdict.PROVED, "proved"),
            (Verdict.FAILED, "failed"),
            (Verdict.SKIPPED, "skipped"),
        )
    )
    left = f"; {diagnosis.left_behind} events could not be deleted" if diagnosis.left_behind else ""
    return f"{diagnosis.url}: {counts}{left}"
