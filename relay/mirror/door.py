"""The one door by which events leave for other relays: what an anonymous reader may see here, and less."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from relay.engine.feature import Origin
from relay.engine.relay import Relay
from relay.features.groups import state
from relay.features.groups.vocabulary import MANAGEMENT, NOTICES
from relay.features.management.notices import MEMBER_ADDED, MEMBER_REMOVED, MEMBERS, ROLE_DEFINITION
from relay.features.nip40 import has_expired
from relay.features.nip62 import ALL_RELAYS
from relay.features.nip70 import refuse_embedded_protected
from relay.nostr import kinds
from relay.nostr.event import Event, PubKey
from relay.nostr.filter import Filter
from relay.nostr.kinds import Retention, retention
from relay.nostr.negentropy import Item
from relay.nostr.reasons import Refusal
from relay.nostr.tags import values
from relay.store.api import Stored

ANONYMOUS = Origin(address="", url="")
"""Who reads here without having proved a key."""

PRIVATE = frozenset(
    {
        kinds.DIRECT_MESSAGE,
        kinds.SEAL,
        kinds.CHAT_MESSAGE,
        kinds.FILE_MESSAGE,
        kinds.GIFT_WRAP,
        1060,  # what some clients wrap in beside NIP-59
        kinds.EPHEMERAL_GIFT_WRAP,
    }
)
"""Letters. Their senders chose the relays that get them, and no setting opens the door for them."""

_REPOSTS = frozenset({kinds.REPOST, kinds.GENERIC_REPOST})

OF_RELAYS = NOTICES | {MEMBER_ADDED, MEMBER_REMOVED, MEMBERS, ROLE_DEFINITION}
"""What relays say about themselves: true on that relay only."""


class Door:
    """Says what of a relay's events may go to others."""

    def __init__(self, relay: Relay, key: PubKey, *, has_groups: bool) -> None:
        """`relay` need not run; `key` is its own. `has_groups` says whether it keeps groups (NIP-29)."""
        self._relay = relay
        self._key = key
        self._has_groups = has_groups

    def narrow(self, wanted: Filter) -> Filter | Refusal:
        """Return the filter as this relay lets anonymous readers ask it. Raises StoreError."""
        return self._relay.comparable(wanted, ANONYMOUS)

    async def items(self, wanted: Filter, *, most: int) -> tuple[list[Item], int | None]:
        """Return (created_at, id) of what may be compared with others, newest first.

        Of more than `most` only the newest are returned, in whole seconds, and with them the oldest of
        these seconds; None: that is all. What is compared may still have to stay: see `withheld`.
        Raises StoreError.
        """
        narrowed = self.narrow(wanted)
        if isinstance(narrowed, Refusal):
            return [], None
        found: list[Item] = []
        async with aclosing(self._pages(narrowed)) as pages:
            async for page in pages:
                found += page
                if len(found) < most or not page:
                    continue
                # The next page may go on with the oldest second of this one.
                oldest = min(time for time, _ in page)
                if complete := [item for item in found if item[0] > oldest]:
                    return complete, oldest + 1
        return found, None

    async def _pages(self, narrowed: Filter) -> AsyncGenerator[list[Item], None]:
        """Yield items as `Store.items` does; where they have to be looked at one by one, as `scan` does."""
        relay = self._relay
        if relay.is_sifted(narrowed):
            async for rows in self._rows(narrowed):
                yield [(row.created_at, bytes.fromhex(row.id)) for row in rows]
            return
        head, veil = await relay.store.head(), relay.veil(ANONYMOUS)
        async for page in relay.store.items(narrowed, upto=head, now=relay.now(), veil=veil):
            yield page

    async def _rows(self, narrowed: Filter) -> AsyncGenerator[Sequence[Stored], None]:
        relay = self._relay
        head, veil = await relay.store.head(), relay.veil(ANONYMOUS)
        async for page in relay.store.scan(narrowed, upto=head, now=relay.now(), veil=veil):
            # No budget of rows: this is the operator's own question.
            yield await relay.sift(page, ANONYMOUS)

    async def events(self, ids: Sequence[str], within: Filter) -> list[Event]:
        """Return those of these that an anonymous reader who asks by a filter may see, oldest first."""
        wanted = self.narrow(replace(within, ids=frozenset(ids), limit=None))
        if isinstance(wanted, Refusal):
            return []
        return [row.event() async for page in self._rows(wanted) for row in page][::-1]

    async def judged(
        self, rows: Sequence[Stored], filters: Iterable[Filter]
    ) -> list[tuple[Event, str | None]]:
        """Return the rows that meet one of the filters, and why each stays; None: it may leave.

        Raises StoreError.
        """
        asked = list(filters)
        events = [row.event() for row in rows]
        meant = [
            (row, event)
            for row, event in zip(rows, events, strict=True)
            if any(wanted.matches(event) for wanted in asked)
        ]
        if not meant:
            return []
        leaving = self._leaving(asked)
        seen = {row.seq for row in await self._relay.sift([row for row, _ in meant], ANONYMOUS)}
        judged = []
        for row, event in meant:
            reason = self.withheld(event)
            if reason is None and (
                row.seq not in seen or not any(wanted.matches(event) for wanted in leaving)
            ):
                reason = "not for everybody"
            judged.append((event, reason))
        return judged

    def _leaving(self, filters: Iterable[Filter]) -> list[Filter]:
        """Return what an anonymous reader may ask for, of what the filters ask."""
        narrowed = map(self.narrow, filters)
        return [one for one in narrowed if not isinstance(one, Refusal)]

    def withheld(self, event: Event) -> str | None:
        """Say why an event that `events` found, or `judged` knows, does not leave; None: it may."""
        if event.kind in PRIVATE:
            return "private messages"
        if retention(event.kind) is Retention.EPHEMERAL:
            return "ephemeral"
        if any(tag and tag[0] == "-" for tag in event.tags):
            return "protected by their authors (NIP-70)"
        if event.kind in _REPOSTS and refuse_embedded_protected(event, ANONYMOUS, 0) is not None:
            return "carrying what its author protected (NIP-70)"
        if event.pubkey == self._key or event.kind in OF_RELAYS:
            return "what a relay says of itself"
        if has_expired(event, self._relay.now()):
            return "expired"
        if event.kind == kinds.VANISH and ALL_RELAYS not in values(event.tags, "relay"):
            return "requests to vanish from certain relays"
        if event.kind in MANAGEMENT:
            return "how groups are managed"
        if not all(map(self._is_open, values(event.tags, "h"))):
            return "of groups that are not open, or not known here"
        if not self._relay.is_visible(event, ANONYMOUS):
            return "not for everybody"
        return None

    def _is_open(self, id_: str) -> bool:
        """Say whether a group lives here and everybody may find and read it.

        Of a group that lives elsewhere nobody here can say that.
        """
        record = self._relay.store.record(state.TABLE, state.GROUP + id_) if self._has_groups else None
        if record is None:
            return False
        group = state.decode_group(record)
        return group.exists and not (group.is_deleted or group.has("private") or group.has("hidden"))
