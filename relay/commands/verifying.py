"""`torv relay verify`: whether what the relay holds is undamaged."""

import asyncio
import os
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from relay.assembly import DATABASE
from relay.commands.opening import data_option, load_for
from relay.commands.results import Failed, ends_with, json_option, print_result
from relay.net.workers import CannotStart
from relay.nostr.polls import fingerprint
from relay.settings import config_option
from relay.store.api import StoreError
from relay.transfer.manifest import (
    COMPRESSED,
    MANIFEST,
    BadBackup,
    Manifest,
    check_files,
    read_manifest,
    unpack,
)
from relay.transfer.progress import Steps, steps
from relay.transfer.verification import VerifierLost, Verifiers, verifiers

if TYPE_CHECKING:
    from relay.store.sqlite.audit import Audit, AuditedEvents, Finding

_MOST_LISTED = 1_000
_SHOWN_OF_EACH = 5
_ANY_LENGTH = 2**31


@dataclass(slots=True)
class _Report:
    """What was looked at, and what was found."""

    events: int = 0
    postings: int = 0
    removals: int = 0
    fingerprint: str = ""
    findings: "list[Finding]" = field(default_factory=list)
    """The first ones."""
    kinds: Counter[str] = field(default_factory=Counter)

    def add(self, findings: "Iterable[Finding]") -> None:
        for finding in findings:
            self.kinds[finding.what] += 1
            if len(self.findings) < _MOST_LISTED:
                self.findings.append(finding)

    def lines(self) -> Iterator[str]:
        for what, count in self.kinds.most_common():
            where = (one.where for one in self.findings if one.what == what)
            more = f"; {count:,} in all" if count > _SHOWN_OF_EACH else ""
            yield f"{what}: {', '.join(islice(where, _SHOWN_OF_EACH))}{more}"
        noun = "no damage found" if not self.kinds else f"{self.kinds.total():,} findings"
        yield f"{self.events:,} events, {self.postings:,} postings, {self.removals:,} removals: {noun}"
        if self.fingerprint:
            yield f"fingerprint {self.fingerprint}"


@ends_with("no damage was found", "something is damaged, or could not be read")
@click.command("verify")
@click.argument("place", type=click.Path(path_type=Path, exists=True, file_okay=False), required=False)
@config_option
@data_option
@click.option("--quick", is_flag=True, help="Leave out signatures, and the way from the index to the events.")
@json_option
@click.pass_context
def verify(
    context: click.Context,
    place: Path | None,
    config: Path | None,
    data: Path | None,
    quick: bool,
    as_json: bool,
) -> None:
    """Look at everything in PLACE, a backup or a relay's data folder [default: the configured one].

    Each event's id, signature and form; each event's entries in the index, and each entry's event; what
    was removed; of a backup the manifest, too. The relay may be running; it then comes first.
    """
    folder = load_for(context, config, data).data if place is None else place
    with suppress(OSError):
        os.nice(10)
    report = _Report()
    try:
        with steps() as shown:
            asyncio.run(_verify(folder, quick, report, shown))
    except (StoreError, CannotStart, BadBackup, VerifierLost, OSError) as error:
        raise Failed(str(error)) from error
    result = {
        "place": str(folder),
        "events": report.events,
        "postings": report.postings,
        "removals": report.removals,
        "fingerprint": report.fingerprint,
        "found": report.kinds.total(),
        "findings": [one._asdict() for one in report.findings],
    }
    print_result(as_json, result, report.lines())
    context.exit(1 if report.kinds else 0)


async def _verify(folder: Path, quick: bool, report: _Report, shown: Steps) -> None:
    if (folder / MANIFEST).exists():
        await _verify_backup(folder, quick, report, shown)
        return
    from relay import app

    with ExitStack() as held:
        is_still = True
        try:
            held.enter_context(app.locked(folder))
        except CannotStart:
            is_still = False
        # A log may be left from before a crash: it is read as the relay would.
        await _verify_database(folder / DATABASE, report, shown, quick=quick, checks_structure=is_still)


async def _verify_backup(folder: Path, quick: bool, report: _Report, shown: Steps) -> None:
    from relay.store.sqlite.audit import Finding

    manifest = read_manifest(folder)
    with shown.counting("checking", sum(file.bytes for file in manifest.files.values())) as advance:
        wrong = check_files(folder, manifest, advance)
    report.add(Finding("the backup differs from its manifest", text) for text in wrong)
    packed = DATABASE + COMPRESSED
    if packed in manifest.files:
        if wrong:
            return
        with tempfile.TemporaryDirectory() as scratch:
            with shown.counting("unpacking", manifest.files[packed].unpacked_bytes) as advance:
                unpack(folder, packed, manifest, Path(scratch) / DATABASE, advance)
            await _compare(Path(scratch) / DATABASE, manifest, report, shown, quick)
    elif DATABASE in manifest.files:
        await _compare(folder / DATABASE, manifest, report, shown, quick)
    else:
        report.add([Finding("the backup differs from its manifest", f"{DATABASE} is missing in both")])


async def _compare(database: Path, manifest: Manifest, report: _Report, shown: Steps, quick: bool) -> None:
    from relay.store.sqlite.audit import Finding

    await _verify_database(database, report, shown, quick=quick, checks_structure=True, is_backup=True)
    if (report.events, report.fingerprint) != (manifest.events, manifest.fingerprint):
        noted = f"it holds {report.events:,} events, and {manifest.events:,} were noted"
        report.add([Finding("the events are not those of the manifest", noted)])


async def _verify_database(
    database: Path,
    report: _Report,
    shown: Steps,
    *,
    quick: bool,
    checks_structure: bool,
    is_backup: bool = False,
) -> None:
    from relay.store.sqlite.audit import Audit

    audit = await asyncio.to_thread(Audit, database, is_still=is_backup)
    try:
        if checks_structure:
            report.add(await asyncio.to_thread(lambda: list(audit.structure())))
        async with verifiers(0 if quick else os.cpu_count() or 1) as processes:
            await _verify_log(audit, processes, report, shown)
        report.add(await asyncio.to_thread(lambda: list(audit.removals())))
        report.add(await asyncio.to_thread(lambda: list(audit.expiring())))
        if not quick:
            for _, findings in audit.index():
                report.add(findings)
                shown.show("verifying the index", audit.postings, None)
        report.events, report.postings, report.removals = audit.events, audit.postings, audit.tombstones
        report.fingerprint = fingerprint(audit.total, audit.events)
    finally:
        audit.close()


async def _verify_log(audit: "Audit", processes: Verifiers, report: _Report, shown: Steps) -> None:
    """Read the log in one thread while its signatures are checked on all cores."""
    checking: deque[asyncio.Task[list[Finding]]] = deque()
    slices = audit.log()
    try:
        while (found := await asyncio.to_thread(next, slices, None)) is not None:
            report.add(found.findings)
            if processes.count:
                checking.append(asyncio.create_task(_check(found, processes)))
            if len(checking) > 2 * processes.count:
                report.add(await checking.popleft())
            shown.show("verifying events", audit.events, audit.head)
        while checking:
            report.add(await checking.popleft())
    finally:
        for task in checking:
            task.cancel()


async def _check(found: "AuditedEvents", processes: Verifiers) -> "list[Finding]":
    from relay.store.sqlite.audit import Finding

    verdicts = await processes.check(found.lines, _ANY_LENGTH)
    return [
        Finding(f"its signature or id is wrong: {verdict}", place)
        for verdict, place in zip(verdicts, found.places, strict=True)
        if isinstance(verdict, str)
    ]
