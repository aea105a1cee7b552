"""NIP-04: encrypted direct messages are shown to those whom they concern."""

from secrets import token_bytes

from relay.doctor.probes.probe import Probe
from relay.doctor.probes.secrecy import prove_secrecy
from relay.doctor.visit import Visit
from relay.nostr import kinds


async def messages_are_hidden_from_strangers(visit: Visit) -> None:
    sender, receiver = visit.newcomer(), visit.newcomer()
    message = visit.event(
        sender,
        kinds.DIRECT_MESSAGE,
        token_bytes(32).hex() + "?iv=" + token_bytes(16).hex(),
        tags=[["p", receiver.public]],
    )
    await prove_secrecy(visit, message, sender=sender, readers=(sender, receiver))


PROBES = (
    Probe(
        4,
        "direct messages (kind 4) are shown to sender and receiver only",
        messages_are_hidden_from_strangers,
    ),
)
