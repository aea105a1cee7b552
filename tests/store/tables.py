"""Tables for tests of the contract: votes that are counted, and doors that are opened by command."""

from relay.engine import crowds
from relay.nostr.event import Event, EventId
from relay.nostr.reasons import Prefix, Refusal, invalid
from relay.nostr.tags import first_value
from relay.store.api import KEEP, Bars, Records, Ruling, Table
from tests.events import DAVE, event, write

ANNOUNCEMENT = 31_000


def _judge_vote(vote: Event, records: Records, now: int) -> Ruling | Refusal:
    choice = first_value(vote.tags, "choice") or ""
    count = int(records.get(f"count/{choice}") or 0) + 1
    records.put(f"count/{choice}", b"%d" % count)
    records.put(f"vote/{vote.id}", choice.encode())
    match vote.content.split(":"):
        case ["refuse"]:
            return invalid(f"no such choice, of {len(records.within('vote/'))}")
        case ["fail"]:
            raise RuntimeError("a mistake in a table")
        case ["announce"]:
            text = f"{choice}: {count}"
            tags = [["d", choice]]
            result = event(DAVE, ANNOUNCEMENT, text, created_at=vote.created_at + count, tags=tags)
            return Ruling(also=(write(result),))
        case ["second", other]:
            tags = [["choice", other]]
            return Ruling(also=(write(event(DAVE, 1_018, created_at=now, tags=tags), tables=("votes",)),))
        case ["strike", id_]:
            return Ruling(removals=(EventId(id_),))
    return KEEP


def _forget_vote(vote: Event, records: Records) -> None:
    choice = first_value(vote.tags, "choice") or ""
    records.put(f"count/{choice}", b"%d" % (int(records.get(f"count/{choice}") or 0) - 1))
    records.delete(f"vote/{vote.id}")


def _move_door(payload: bytes, records: Records, now: int) -> Ruling | Refusal:
    match payload.decode().split():
        case ["open", name]:
            records.put(name, b"open")
            return Ruling(answer=b"open at %d" % now)
        case ["close", name]:
            records.delete(name)
            return KEEP
        case ["announce", name]:
            return Ruling(also=(write(event(DAVE, ANNOUNCEMENT, name)),))
    records.put("broken", b"")
    return Refusal(Prefix.BLOCKED, "the door stays as it is")


def _refuse_all(any_event: Event, records: Records, now: int) -> Ruling | Refusal:
    return Refusal(Prefix.BLOCKED, "behind a door")


def _bar(payload: bytes, records: Records, now: int) -> Ruling | Refusal:
    match payload.decode().split():
        case ["bar", name]:
            records.put(name, b"")
        case ["admit", name]:
            records.delete(name)
        case ["fail", name]:
            records.put(name, b"")
            raise RuntimeError("a mistake in a table")
    return KEEP


def _judge_proxy(vote: Event, records: Records, now: int) -> Ruling | Refusal:
    records.put("count/by proxy", b"%d" % (int(records.get("count/by proxy") or 0) + 1))
    return KEEP


VOTES = Table("votes", _judge_vote, forget=_forget_vote)
PROXIES = Table("proxies", _judge_proxy, of="votes")
DOORS = Table("doors", _refuse_all, command=_move_door, followed=True)
BARRIER = Table(
    "barrier",
    _refuse_all,
    command=_bar,
    bars=Bars("author/", "id/", Refusal(Prefix.BLOCKED, "barred"), except_kinds=frozenset({62})),
)
TABLES = (VOTES, PROXIES, DOORS, BARRIER, crowds.table())
