"""NIP-98: HTTP requests are authorised by signatures; the management API (NIP-86) is where it can be seen."""

from relay.doctor.outcome import Skipped
from relay.doctor.probes.nip86 import signatures_are_checked
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit


async def requests_take_a_signature(visit: Visit) -> None:
    if 86 not in visit.information.nips:
        raise Skipped("the relay does not say which of its requests take a signature")
    await signatures_are_checked(visit)


PROBES = (Probe(98, "HTTP requests are authorised by right signatures only", requests_take_a_signature),)
