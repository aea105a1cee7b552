"""The client's side of a reconciliation (NIP-77), for probes."""

from collections.abc import Sequence

from relay.doctor.outcome import Failed
from relay.doctor.wire import Wire
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.messages import NegClose, NegErr, NegMsg, NegOpen
from relay.nostr.negentropy import Client, InvalidFrame, Vector

_MAX_ROUNDS = 20


async def reconcile(
    wire: Wire, wanted: Filter, mine: Sequence[Event]
) -> tuple[frozenset[str], frozenset[str]] | NegErr:
    """Compare what matches with events of mine; return the ids that the relay lacks, and those that I lack.

    Raises Failed where the relay's frames are none, or there is no end to them.
    """
    name = "sync"
    client = Client(Vector.of((event.created_at, bytes.fromhex(event.id)) for event in mine))
    frame: bytes | None = client.initiate()
    message: NegOpen | NegMsg = NegOpen(name, wanted, frame or b"")
    have: set[bytes] = set()
    need: set[bytes] = set()
    for _ in range(_MAX_ROUNDS):
        answer = await wire.negotiate(message, name)
        if isinstance(answer, NegErr):
            return answer
        try:
            frame, differences = client.reconcile(answer.frame)
        except InvalidFrame as error:
            raise Failed(
                sent="a Negentropy frame",
                expected="a Negentropy frame",
                came=f"{error} ({answer.frame.hex()})",
            ) from None
        have.update(differences.have)
        need.update(differences.need)
        if frame is None:
            await wire.say(NegClose(name))
            return frozenset(id_.hex() for id_ in have), frozenset(id_.hex() for id_ in need)
        message = NegMsg(name, frame)
    raise Failed(
        sent=f"{_MAX_ROUNDS} Negentropy frames",
        expected="agreement",
        came="there is no end to the differences",
    )
