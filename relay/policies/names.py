"""Only authors with a name (NIP-05) at one of some domains may publish: the domain vouches for the key.

The name is the one in the author's profile (kind 0), the stored one or the one that is being published.
What a domain said is remembered for a while; one that does not answer takes nobody's word back.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import quote

import orjson
import structlog

from relay.client.fetching import CannotFetch, fetch
from relay.config import RelayConfig
from relay.engine.desk import Desk
from relay.engine.feature import Context, Feature, OfKinds, Published, Ruled
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.reasons import Prefix, Refusal
from relay.policies.standing import FROM_ANYBODY, WRAPS, Known

log = structlog.get_logger(__name__)

MAX_REMEMBERED = 20_000
MAX_ASKED = 64
"""Names that are looked up at a time; who needs another one is told to try again."""
MAX_BYTES = 256 * 1024
SECONDS = 5.0

_NAME = re.compile(r"([a-z0-9._-]+)@([a-z0-9.-]+)").fullmatch
_BUSY = Refusal(Prefix.ERROR, "too many names are being looked up; try again later")
_SILENT = Refusal(Prefix.ERROR, "your name's domain could not be asked; try again later")


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class _Name(NamedTuple):
    local: str
    domain: str


class _Word(NamedTuple):
    """What a domain has said of a key."""

    is_right: bool
    until: int


class Names:
    """Looks names up, and remembers what was found."""

    def __init__(
        self,
        desk: Desk,
        domains: Sequence[str],
        instead: dict[str, str],
        *,
        verified_seconds: int,
        failed_seconds: int,
    ) -> None:
        """`instead` has URLs of hosts that are asked in place of domains, private ones among them."""
        self._desk = desk
        self._domains = frozenset(domains)
        self._told = ", ".join(domains)
        self._instead = instead
        self._verified_seconds = verified_seconds
        self._failed_seconds = failed_seconds
        self._words: OrderedDict[tuple[str, _Name], _Word] = OrderedDict()
        self._profiles: OrderedDict[str, tuple[_Name, int]] = OrderedDict()
        """The names of authors whose words are good, and until when nobody looks for others."""
        self._asked: dict[tuple[str, _Name], asyncio.Task[Refusal | None]] = {}

    def known(self, event: Event, now: int) -> bool:
        """Say whether it is known, without a look, that the author has a name."""
        if event.kind == kinds.PROFILE:
            return False
        found = self._profiles.get(event.pubkey)
        return found is not None and found[1] > now

    async def refuse(self, event: Event, now: int) -> Refusal | None:
        """Say why the author has no name here, or None. Raises StoreError."""
        profile = event if event.kind == kinds.PROFILE else await self._profile(event.pubkey, now)
        name = None if profile is None else name_in(profile)
        if name is None or name.domain not in self._domains:
            return Refusal(
                Prefix.RESTRICTED,
                f"only people with a name (NIP-05) at {self._told} publish here; publish your profile first",
            )
        key = (event.pubkey, name)
        word = self._words.get(key)
        if word is None or word.until <= now:
            asking = self._asked.get(key)
            if asking is None:
                if len(self._asked) >= MAX_ASKED:
                    return _BUSY
                asking = self._asked[key] = asyncio.get_running_loop().create_task(self._ask(key, word, now))
                asking.add_done_callback(lambda _: self._asked.pop(key, None))
            # Others may wait for it too: it goes on when this one is cancelled.
            refusal = await asyncio.shield(asking)
        else:
            refusal = None if word.is_right else _wrong(name)
        if refusal is None:
            self._remember(self._profiles, event.pubkey, (name, self._words[key].until))
        return refusal

    async def close(self) -> None:
        """Ask nothing more."""
        for asking in tuple(self._asked.values()):
            asking.cancel()
        if self._asked:
            await asyncio.wait(tuple(self._asked.values()))

    async def _ask(self, key: tuple[str, _Name], before: _Word | None, now: int) -> Refusal | None:
        pubkey, name = key
        host = self._instead.get(name.domain)
        base = host or f"https://{name.domain}"
        url = f"{base}/.well-known/nostr.json?name={quote(name.local)}"
        try:
            found = await fetch(url, max_bytes=MAX_BYTES, seconds=SECONDS, private=host is not None)
        except CannotFetch as error:
            log.warning("a name could not be looked up", domain=name.domain, error=str(error))
            if before is None or not before.is_right:
                return _SILENT
            word = _Word(True, now + self._failed_seconds)
        else:
            is_right = says(found, name.local) == pubkey
            word = _Word(is_right, now + (self._verified_seconds if is_right else self._failed_seconds))
        self._remember(self._words, key, word)
        return None if word.is_right else _wrong(name)

    async def _profile(self, author: str, now: int) -> Event | None:
        wanted = Filter(authors=frozenset({author}), kinds=frozenset({kinds.PROFILE}), limit=1)
        store = self._desk.store
        async for page in store.scan(wanted, upto=await store.head(), now=now):
            for row in page:
                return row.event()
        return None

    @staticmethod
    def _remember(memory: OrderedDict[_Key, _Value], key: _Key, value: _Value) -> None:
        memory[key] = value
        memory.move_to_end(key)
        if len(memory) > MAX_REMEMBERED:
            memory.popitem(last=False)


def _wrong(name: _Name) -> Refusal:
    return Refusal(Prefix.RESTRICTED, f"{name.domain} does not say that {name.local} is your name (NIP-05)")


def name_in(profile: Event) -> _Name | None:
    """Return the name that a profile claims."""
    try:
        value = orjson.loads(profile.content)
    except orjson.JSONDecodeError:
        return None
    claimed = value.get("nip05") if isinstance(value, dict) else None
    found = _NAME(claimed.strip().lower()) if isinstance(claimed, str) and len(claimed) <= 256 else None
    return None if found is None else _Name(found[1], found[2])


def says(document: bytes, local: str) -> str | None:
    """Return the key that a domain's document gives for a name."""
    try:
        value = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    names = value.get("names") if isinstance(value, dict) else None
    key = names.get(local) if isinstance(names, dict) else None
    return key if isinstance(key, str) else None


def feature(config: RelayConfig, context: Context) -> Feature:
    settings = config.policies.names
    if not settings.domains:
        return Feature(title="Names at certain domains")
    known = Known(config, context)
    names = Names(
        context.desk,
        settings.domains,
        dict(entry.split("=", 1) for entry in settings.instead),
        verified_seconds=settings.verified_seconds,
        failed_seconds=settings.failed_seconds,
    )

    async def judge(published: Sequence[Published], now: int) -> AsyncGenerator[list[Ruled], None]:
        at_once: list[Ruled] = []
        looking: dict[asyncio.Task[Refusal | None], int] = {}
        for position, one in enumerate(published):
            if known.stands_behind(one.event, one.origin) or names.known(one.event, now):
                at_once.append((position, None))
            else:
                task = asyncio.get_running_loop().create_task(names.refuse(one.event, now))
                looking[task] = position
        try:
            if at_once:
                yield at_once
            while looking:
                done, _ = await asyncio.wait(looking, return_when=asyncio.FIRST_COMPLETED)
                yield [(looking.pop(task), task.result()) for task in done]
        finally:
            for task in looking:
                task.cancel()

    return Feature(
        title="Names at certain domains",
        slow_rules=(OfKinds(lambda kind: kind not in FROM_ANYBODY | WRAPS, judge),),
        close=names.close,
        limitation={"restricted_writes": True},
    )
