"""NIP-59: gift wraps are shown to their receivers, kept or passed on."""

from secrets import token_bytes

from relay.doctor.probes.probe import Probe
from relay.doctor.probes.secrecy import prove_secrecy
from relay.doctor.visit import Visit
from relay.nostr import kinds


async def _hidden(visit: Visit, kind: int) -> None:
    # A wrap's author is a key of its own that nobody proves; who sends it is another one.
    once, receiver = visit.newcomer(), visit.newcomer()
    wrap = visit.event(once, kind, token_bytes(64).hex(), tags=[["p", receiver.public]])
    await prove_secrecy(visit, wrap, sender=visit.newcomer(), readers=(receiver,))


async def wraps_are_hidden_from_strangers(visit: Visit) -> None:
    await _hidden(visit, kinds.GIFT_WRAP)


async def ephemeral_wraps_are_hidden_from_strangers(visit: Visit) -> None:
    await _hidden(visit, kinds.EPHEMERAL_GIFT_WRAP)


PROBES = (
    Probe(59, "gift wraps (kind 1059) are shown to their receivers only", wraps_are_hidden_from_strangers),
    Probe(
        59,
        "ephemeral gift wraps (kind 21059) reach their receivers only",
        ephemeral_wraps_are_hidden_from_strangers,
    ),
)
