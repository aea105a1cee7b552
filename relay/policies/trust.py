"""A web of trust: whom the roots follow may publish, and whom those follow, and so on.

Every process works it out for itself, from the follow lists (kind 3) that are stored: exact at each
refresh, not between them.
"""

import asyncio
from collections.abc import Iterable

import structlog

from relay.config import RelayConfig
from relay.engine.desk import Desk
from relay.engine.feature import Context, Feature, Job, OfKinds, Origin
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.nostr.reasons import Prefix, Refusal
from relay.nostr.tags import HEX_64, values
from relay.policies.standing import FROM_ANYBODY, Known, keys_behind

log = structlog.get_logger(__name__)

AUTHORS_AT_ONCE = 200
MAX_FOLLOWS = 10_000
"""Of one list; nobody follows more people in earnest."""


class Web:
    """Who is trusted, as of the last refresh."""

    def __init__(self, roots: Iterable[str], *, depth: int, max_keys: int) -> None:
        self._roots = tuple(bytes.fromhex(root) for root in roots)
        self._depth = depth
        self._max_keys = max_keys
        self.keys: frozenset[bytes] | None = None
        """None before the first refresh."""

    async def refresh(self, desk: Desk, now: int) -> None:
        """Work it out anew. Raises StoreError."""
        trusted = dict.fromkeys(self._roots)
        level = list(trusted)
        head = await desk.store.head()
        for _ in range(self._depth):
            following: list[bytes] = []
            for start in range(0, len(level), AUTHORS_AT_ONCE):
                authors = frozenset(key.hex() for key in level[start : start + AUTHORS_AT_ONCE])
                wanted = Filter(authors=authors, kinds=frozenset({kinds.FOLLOWS}))
                async for page in desk.store.scan(wanted, upto=head, now=now):
                    for row in page:
                        for key in followed(row.event()):
                            if key not in trusted:
                                trusted[key] = None
                                following.append(key)
                        if len(trusted) >= self._max_keys:
                            log.warning("the web of trust is cut", keys=self._max_keys)
                            self.keys = frozenset(list(trusted)[: self._max_keys])
                            return
                        # A long list takes milliseconds: others get their turn after each.
                        await asyncio.sleep(0)
            level = following
        self.keys = frozenset(trusted)

    def holds(self, key: str) -> bool:
        """Say whether a key is trusted; what is no key is not."""
        return self.keys is not None and bool(HEX_64(key)) and bytes.fromhex(key) in self.keys


def followed(event: Event) -> Iterable[bytes]:
    """Return the keys that a follow list names."""
    return [bytes.fromhex(key) for key in values(event.tags, "p")[:MAX_FOLLOWS] if HEX_64(key)]


def feature(config: RelayConfig, context: Context) -> Feature:
    trust = config.policies.trust
    if not trust.roots:
        return Feature(title="Web of trust")
    web = Web(trust.roots, depth=trust.depth, max_keys=trust.max_keys)
    known = Known(config, context)

    def refuse_stranger(event: Event, origin: Origin, now: int) -> Refusal | None:
        if any(map(web.holds, keys_behind(event, origin))) or known.stands_behind(event, origin):
            return None
        if web.keys is None:
            return Refusal(Prefix.ERROR, "the web of trust is being worked out; try again in a minute")
        return Refusal(Prefix.RESTRICTED, "only people in this relay's web of trust publish here")

    return Feature(
        title="Web of trust",
        before_signature=(OfKinds(lambda kind: kind not in FROM_ANYBODY, refuse_stranger),),
        jobs=(
            Job(
                "work out the web of trust",
                trust.refresh_seconds,
                lambda now: web.refresh(context.desk, now),
                everywhere=True,
            ),
        ),
        limitation={"restricted_writes": True},
    )
