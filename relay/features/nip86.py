"""NIP-86: the relay's people manage it by calls over HTTP, each authorised by a signature (NIP-98).

What they decide is kept in one table, whose every change all processes follow: it counts for the next
event and the next question. Bans and blocks count also where nobody may call any more.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import orjson

from relay.config import RelayConfig
from relay.engine.desk import Desk
from relay.engine.feature import (
    Context,
    Feature,
    Follower,
    Gate,
    HttpRequest,
    HttpResponse,
    Job,
    Origin,
    Route,
    Rule,
)
from relay.features.management import book, commands
from relay.features.management.callers import Staff, Standing
from relay.features.management.memory import Memory
from relay.features.management.methods import SUPPORTED_METHODS, methods_for
from relay.features.management.notices import JOIN, LEAVE
from relay.nostr import kinds
from relay.nostr.event import Event, EventId
from relay.nostr.filter import Filter
from relay.nostr.nip98 import InvalidAuthorization, UsedAuthorizations, authorize
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Bars, Table

MEDIA_TYPE = "application/nostr+json+rpc"
PURGE_SECONDS = 1.0
"""Between two looks whether a banned key has left something."""
REMOVED_AT_ONCE = 500
_HEADERS = {"Access-Control-Allow-Origin": "*"}

# "… relays that have restrictions on who can post MUST also follow the request regardless of the user's
# status" (NIP-62).
_OF_ANYBODY = frozenset({kinds.VANISH})
# NIP-62 must be served whatever kinds a relay takes; the others are requests and not kept.
_KINDS_OF_ALL = frozenset({kinds.VANISH, JOIN, LEAVE})
_BANNED = Refusal(Prefix.BLOCKED, "this event or its author is banned here")
_BLOCKED = Refusal(Prefix.BLOCKED, "your address is blocked here")


def feature(config: RelayConfig, context: Context) -> Feature:
    memory = Memory()
    staff = Staff.of(config, context.key.public)
    carrying_out = commands.Commands(
        staff, context.key, has_members=config.members.enabled, max_members=config.members.max_members
    )
    # Without anybody who may call there is nothing to advertise.
    is_managed = bool(staff.admins or staff.moderators)
    desk = Management(staff, memory, context.desk, has_members=config.members.enabled)
    return Feature(
        title="Relay management",
        nip=86 if is_managed else None,
        before_signature=(refuse_unwelcome(memory),),
        gates=(refuse_blocked(memory),),
        tables=(
            Table(
                book.TABLE,
                judge_nothing,
                command=carrying_out.carry_out,
                followed=True,
                # The rule has refused most already; here what was on its way when the ban came.
                bars=Bars(book.BANNED, book.BANNED_EVENT, _BANNED, except_kinds=_OF_ANYBODY),
            ),
        ),
        followers=(Follower(book.TABLE, memory.changed),),
        routes=(Route(config.path, MEDIA_TYPE, desk.answer, method="POST"),) if is_managed else (),
        jobs=(Job("remove what banned keys have left", PURGE_SECONDS, Purging(memory, context.desk).run),),
        describes=lambda: memory.texts,
        turns_away=memory.blocks,
    )


def judge_nothing(event: Event, records: object, now: int) -> Refusal:
    """Refuse: no event names this table itself."""
    return Refusal(Prefix.ERROR, "events do not manage the relay")


def refuse_unwelcome(memory: Memory) -> Rule:
    """Return the rule that refuses what is banned, blocked, or of a kind that is not taken."""

    def refuse(event: Event, origin: Origin, now: int) -> Refusal | None:
        if memory.welcomes_all:
            return None
        if memory.blocks(origin.address):
            return _BLOCKED
        if memory.bans(event) and event.kind not in _OF_ANYBODY:
            return _BANNED
        if not memory.takes_kind(event.kind) and event.kind not in _KINDS_OF_ALL:
            return Refusal(Prefix.BLOCKED, f"kind {event.kind} is not taken here")
        return None

    return refuse


def refuse_blocked(memory: Memory) -> Gate:
    """Return the gate that answers nothing to blocked addresses."""

    def refuse(wanted: Filter, origin: Origin) -> Filter | Refusal:
        return _BLOCKED if memory.blocks(origin.address) else wanted

    return refuse


class Management:
    """Answers calls."""

    def __init__(self, staff: Staff, memory: Memory, desk: Desk, *, has_members: bool) -> None:
        self._staff = staff
        self._memory = memory
        self._desk = desk
        self._has_members = has_members

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Carry out one call: 401 without a right signature, 403 for who may not call anything."""
        try:
            event = authorize(
                request.authorization or None,
                method="POST",
                urls=frozenset(names_of(request.url)),
                body=request.body,
                now=request.now,
                # Which were used is known to the table, for all processes; here nobody can fill it.
                used=UsedAuthorizations(1),
                payload_required=True,
            )
        except InvalidAuthorization as error:
            return _answer(401, {"error": str(error)}, {"WWW-Authenticate": "Nostr"})
        caller = event.pubkey
        roles = self._memory.members.get(caller, frozenset())
        standing = self._staff.standing(caller, roles)
        if standing is Standing.NOBODY:
            return _answer(403, {"error": "restricted: this key does not manage this relay"})
        try:
            match orjson.loads(request.body):
                case {"method": str(method), "params": [*params]}:
                    pass
                case {"method": str(method), **rest} if "params" not in rest:
                    params = []
                case _:
                    return _answer(400, {"error": "invalid: expected an object with method and params"})
        except orjson.JSONDecodeError:
            return _answer(400, {"error": "invalid: expected a JSON document"})
        methods = methods_for(standing, has_members=self._has_members)
        if method != SUPPORTED_METHODS and method not in methods:
            return _answer(200, {"error": f"unsupported: {method[:60]!r} is not a method that you may call"})
        said = await self._desk.command(book.TABLE, commands.call(method, params, caller, event.id))
        if isinstance(said, Refusal):
            return _answer(200, {"error": str(said)})
        outcome = orjson.loads(said)
        if "error" in outcome:
            return _answer(200, outcome)
        return _answer(
            200, {"result": sorted(methods) if method == SUPPORTED_METHODS else self._read(method)}
        )

    def _read(self, method: str) -> object:
        match method:
            case "listbannedpubkeys":
                return self._reasons("pubkey", book.BANNED)
            case "listbannedevents":
                return self._reasons("id", book.BANNED_EVENT)
            case "listallowedevents":
                return self._reasons("id", book.ALLOWED_EVENT)
            case "listdisallowedkinds":
                return sorted(int(kind) for kind, _ in self._all(book.REFUSED_KIND))
            case "listblockedips":
                return self._reasons("ip", book.BLOCKED)
            case "listallowedpubkeys":
                return [
                    {"pubkey": key, "reason": orjson.loads(member)["reason"]}
                    for key, member in self._all(book.MEMBER)
                ]
            case "listallowedkinds":
                return sorted(int(kind) for kind, _ in self._all(book.ALLOWED_KIND))
            case "listeventsneedingmoderation":
                reasons: dict[str, list[str]] = {}
                for name, reason in self._all(book.REPORT):
                    reasons.setdefault(name.partition(" ")[0], []).append(reason.decode())
                return [{"id": id_, "reason": "; ".join(told)} for id_, told in reasons.items()]
        return True  # it was done

    def _reasons(self, field: str, prefix: str) -> list[dict[str, str]]:
        return [{field: name, "reason": reason.decode()} for name, reason in self._all(prefix)]

    def _all(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        """Yield the records with a prefix, by the rest of their keys in order."""
        after = ""
        while page := self._desk.records(book.TABLE, prefix, after=after):
            yield from ((key[len(prefix) :], value) for key, value in page)
            after = page[-1][0]


def names_of(url: str) -> Iterator[str]:
    """Yield what clients call the relay's URL over HTTP: a proxy in front may change the scheme."""
    where = urlsplit(url)
    paths = ("", "/") if where.path in ("", "/") else (where.path,)
    for scheme in ("http", "https", "ws", "wss"):
        for path in paths:
            yield f"{scheme}://{where.netloc}{path}"


def _answer(status: int, body: object, headers: dict[str, str] | None = None) -> HttpResponse:
    return HttpResponse(orjson.dumps(body), MEDIA_TYPE, status, {**_HEADERS, **(headers or {})})


class Purging:
    """Removes what banned keys have published, a part at a time."""

    def __init__(self, memory: Memory, desk: Desk) -> None:
        self._memory = memory
        self._desk = desk

    async def run(self, now: int) -> None:
        """Remove some of each key's events; what remains is for the next time."""
        for key in sorted(self._memory.to_purge):
            await self._desk.command(book.TABLE, commands.purge(key, await self._some(key, now)))

    async def _some(self, key: str, now: int) -> list[EventId]:
        store = self._desk.store
        ids: list[EventId] = []
        async for page in store.scan(Filter(authors=frozenset({key})), upto=await store.head(), now=now):
            # A request to vanish stays: it goes into backups, and holds there.
            ids += [row.id for row in page if row.event().kind not in _OF_ANYBODY]
            if len(ids) >= REMOVED_AT_ONCE:
                break
        return ids[:REMOVED_AT_ONCE]
