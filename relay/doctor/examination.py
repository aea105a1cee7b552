"""One examination: every advertised NIP, probe by probe, each within its time; and what was found."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from relay.client import RelayFailure
from relay.doctor.information import Information, inform
from relay.doctor.outcome import Failed, Failure, Finding, Skipped, Verdict
from relay.doctor.probes import NOT_PROVABLE, PROBES
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.nostr.keys import SecretKey

PROBE_SECONDS = 45.0
"""For one probe; a single answer has less."""
ANSWER_SECONDS = 10.0
_CLEAN_UP_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found at one relay."""

    url: str
    information: Information
    findings: tuple[Finding, ...]
    left_behind: int
    """Events that could not be deleted; they expire where the relay knows NIP-40."""

    def number(self, verdict: Verdict) -> int:
        """Return how many probes ended so."""
        return sum(finding.verdict is verdict for finding in self.findings)


async def examine(
    url: str,
    *,
    key: SecretKey | None = None,
    only: Collection[int] = (),
    probes: Mapping[int, Sequence[Probe]] = PROBES,
    on_probe: Callable[[Probe, int, int], None] = lambda probe, done, total: None,
    now: Callable[[], int] = lambda: int(time.time()),
    answer_seconds: float = ANSWER_SECONDS,
    probe_seconds: float = PROBE_SECONDS,
) -> Diagnosis:
    """Examine the relay at a ws:// or wss:// URL. Raises Unreachable where it does not answer at all.

    `key` is one that the relay allows more than strangers, `only` some of the advertised NIPs;
    `on_probe` hears which probe begins, and how many of all are done.
    """
    information = await inform(url, seconds=answer_seconds)
    visit = Visit(url, information, now, answer_seconds, key)
    # Whether anybody answers at all.
    async with visit.dial():
        pass
    advertised = [nip for nip in information.nips or (1,) if not only or nip in only]
    if not information.nips and (not only or 11 in only):
        advertised = [*advertised, 11]
    chosen = [probe for nip in advertised for probe in probes.get(nip, ())]
    findings = []
    for done, probe in enumerate(chosen):
        on_probe(probe, done, len(chosen))
        findings.append(await _run(probe, visit, probe_seconds))
    findings += [_without_probe(nip) for nip in advertised if nip not in probes]
    findings.sort(key=lambda finding: finding.nip)
    return Diagnosis(url, information, tuple(findings), visit.left_behind)


async def _run(probe: Probe, visit: Visit, seconds: float) -> Finding:
    begun = time.monotonic()
    verdict, failure, reason = Verdict.PROVED, None, ""
    try:
        async with asyncio.timeout(seconds):
            await probe.run(visit)
    except Failed as error:
        verdict, failure = Verdict.FAILED, Failure(error.sent, error.expected, error.came)
    except Skipped as error:
        verdict, reason = Verdict.SKIPPED, str(error)
    except TimeoutError:
        came = f"it was not over after {seconds:g} s"
        verdict, failure = Verdict.FAILED, Failure("a probe", "its end", came)
    except RelayFailure as error:
        verdict, failure = Verdict.FAILED, Failure("a connection", "the relay to answer", error.text)
    finding = Finding(probe.nip, probe.claim, verdict, time.monotonic() - begun, failure, reason)
    await _clean_up(visit)
    return finding


async def _clean_up(visit: Visit) -> None:
    try:
        async with asyncio.timeout(_CLEAN_UP_SECONDS):
            await visit.clean_up()
    except (Failed, Skipped, RelayFailure, TimeoutError):
        # The verdict stands; that something stays until it expires is told at the end.
        visit.left_behind += 1


def _without_probe(nip: int) -> Finding:
    reason = NOT_PROVABLE.get(nip, "this version knows no probe for it")
    return Finding(nip, "what it says", Verdict.SKIPPED, 0.0, reason=reason)
