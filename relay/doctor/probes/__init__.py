"""The probes, one file per NIP. Each of them would fail at a relay that lies about what it claims."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from relay.doctor.probes import (
    nip01,
    nip04,
    nip05,
    nip09,
    nip11,
    nip13,
    nip17,
    nip29,
    nip40,
    nip42,
    nip43,
    nip45,
    nip50,
    nip56,
    nip59,
    nip62,
    nip65,
    nip66,
    nip67,
    nip70,
    nip77,
    nip86,
    nip88,
    nip98,
)
from relay.doctor.probes.probe import Probe


def _by_nip(probes: Iterable[Probe]) -> Mapping[int, Sequence[Probe]]:
    return {nip: tuple(some) for nip, some in groupby(probes, key=lambda probe: probe.nip)}


PROBES: Mapping[int, Sequence[Probe]] = _by_nip(
    (
        *nip01.PROBES,
        *nip04.PROBES,
        *nip05.PROBES,
        *nip09.PROBES,
        *nip11.PROBES,
        *nip13.PROBES,
        *nip17.PROBES,
        *nip29.PROBES,
        *nip40.PROBES,
        *nip42.PROBES,
        *nip43.PROBES,
        *nip45.PROBES,
        *nip50.PROBES,
        *nip56.PROBES,
        *nip59.PROBES,
        *nip62.PROBES,
        *nip65.PROBES,
        *nip66.PROBES,
        *nip67.PROBES,
        *nip70.PROBES,
        *nip77.PROBES,
        *nip86.PROBES,
        *nip88.PROBES,
        *nip98.PROBES,
    )
)
"""By the NIP that they prove."""

NOT_PROVABLE: Mapping[int, str] = {
    2: "follow lists (kind 3) are plain replaceable events; NIP-01 proves those",
    15: "it binds clients: a relay only keeps its events",
    20: "it is part of NIP-01 today, whose probes ask for it",
    22: "it is part of NIP-11 today (created_at limits), whose probes ask for it",
    26: "delegation is deprecated, and nothing that a relay must do",
    28: "it binds clients: a relay only keeps its events",
    33: "it is part of NIP-01 today, whose probes ask for it",
    16: "it is part of NIP-01 today, whose probes ask for it",
    12: "it is part of NIP-01 today, whose probes ask for it",
}
"""NIPs that relays advertise and that no probe could prove, and why."""
