"""The relay without sockets: publish, subscribe, count. One per process and served name."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial

import structlog

from relay.engine.admission import Admission
from relay.engine.authors import READ_AT_MOST, count_authors
from relay.engine.boundary import Scan, whole_seconds, whole_seconds_at_once
from relay.engine.crowds import TABLE as CROWDS
from relay.engine.crowds import Crowds
from relay.engine.feature import (
    Conjure,
    Doorkeeper,
    Feature,
    Gate,
    Handler,
    Origin,
    Request,
    Search,
    Sieve,
    Toll,
    VeilRule,
)
from relay.engine.followers import Followers
from relay.engine.index import SubscriptionIndex
from relay.engine.intake import Arrival, Intake, Reply
from relay.engine.metering import Metered, metered
from relay.engine.reconciliation import Reconciliation, Shelf
from relay.engine.sifting import may_concern, sift, sifted
from relay.engine.subscription import LiveEvent, Subscription, merge
from relay.engine.tail import Tail
from relay.nostr.crowds import crowd_of
from relay.nostr.event import Event, decode, encode
from relay.nostr.filter import Filter
from relay.nostr.messages import ClientMessage
from relay.nostr.negentropy import Item
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Seq, Store, Stored, StoreError, Veil

log = structlog.get_logger(__name__)

MAX_UNSIFTED = 10_000
"""Live events that wait for what another process says of them."""

_UNVEILED = Refusal(
    Prefix.AUTH_REQUIRED, "events of these kinds are shown only to the people they are meant for"
)
_NO_SEARCH = Refusal(Prefix.UNSUPPORTED, "this relay does not search")
_ONLY_SENT = Refusal(Prefix.UNSUPPORTED, "what a search finds is sent, but neither counted nor reconciled")


class Relay:
    """Everything the relay does for one store and one set of features.

    `run` has to be running; all methods are called on its event loop.
    """

    def __init__(
        self,
        store: Store,
        features: Sequence[Feature],
        *,
        max_limit: int,
        buffer_bytes: int,
        now: Callable[[], int],
        alone: bool = False,
    ) -> None:
        """`alone` says that no other process serves this store's subscribers."""
        self.store = store
        self.now = now
        self.index: SubscriptionIndex[Subscription] = SubscriptionIndex()
        self._searching = 0
        """Open subscriptions that search."""
        self._opened: set[Subscription] = set()
        self._unsifted: list[Sequence[tuple[Event, LiveEvent]]] = []
        """Live events that wait for what the sieve says."""
        self._arrived = asyncio.Event()
        self._shelf = Shelf()
        self._tasks: asyncio.TaskGroup | None = None
        """While it runs."""
        self._take_up(features, self._followers_of(features), max_limit, buffer_bytes)
        self.intake = Intake(
            store,
            self.admission,
            now=now,
            is_heard=self._is_heard if alone else None,
            requests=_requests(features),
            catch_up=self.catch_up,
        )
        self.tail = Tail(store, self._on_rows, now=now, wanted=lambda: len(self.index) > 0)

    def adopt(self, features: Sequence[Feature], *, max_limit: int, buffer_bytes: int) -> None:
        """Do everything by these features from now on, in place of those so far.

        Subscriptions stay open: what they are sent is judged by the new veils. What is being answered is
        answered to its end by the features that it began with. Raises StoreError; then nothing has changed.
        """
        followers = self._followers_of(features)
        # They must know who is banned before they are asked.
        followers.catch_up()
        self._take_up(features, followers, max_limit, buffer_bytes)
        self.intake.adopt(self.admission, _requests(features))

    def _followers_of(self, features: Sequence[Feature]) -> Followers:
        return Followers(self.store, (one for feature in features for one in feature.followers))

    def _take_up(
        self, features: Sequence[Feature], followers: Followers, max_limit: int, buffer_bytes: int
    ) -> None:
        self.features = tuple(features)
        self.admission = Admission(features)
        self.handlers: dict[type[ClientMessage], Handler] = {
            kind: handler for feature in features for kind, handler in feature.handlers.items()
        }
        self._doorkeepers: tuple[Doorkeeper, ...] = tuple(
            doorkeeper for feature in features for doorkeeper in feature.doorkeepers
        )
        self._gates: tuple[Gate, ...] = tuple(gate for feature in features for gate in feature.gates)
        self._veils: tuple[VeilRule, ...] = tuple(veil for feature in features for veil in feature.veils)
        self._followers = followers
        self.conjured: dict[int, Conjure] = {
            kind: conjure for feature in features for kind, conjure in feature.conjured.items()
        }
        self._turning_away = tuple(one.turns_away for one in features if one.turns_away is not None)
        self._lapses = tuple(lapse for feature in features for lapse in feature.lapses)
        self._sieve: Sieve | None = next((one.sieve for one in features if one.sieve is not None), None)
        self._toll: Toll | None = next((one.toll for one in features if one.toll is not None), None)
        self._search: Search | None = next((one.search for one in features if one.search is not None), None)
        self._max_limit = max_limit
        self._buffer_bytes = buffer_bytes
        is_counting = any(table.name == CROWDS for feature in features for table in feature.tables)
        self._crowds = Crowds(self.store) if is_counting else None
        self._lower_veils()

    async def run(self, ready: asyncio.Event | None = None) -> None:
        """Serve until cancelled."""
        self.catch_up()
        await self.tail.start()
        self.store.listen_ephemeral(self._on_ephemeral)
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self.tail.run())
            tasks.create_task(self.intake.run())
            tasks.create_task(self._sift_live())
            if ready is not None:
                ready.set()
        self._tasks = None

    def catch_up(self) -> None:
        """Let features know every change of followed records. Raises StoreError."""
        if self._followers.catch_up():
            self._lower_veils()

    def turns_away(self, address: str) -> bool:
        """Say whether clients of this address are not served."""
        return any(turns_away(address) for turns_away in self._turning_away)

    def _lower_veils(self) -> None:
        veiled = [(veil, veil.kinds() if callable(veil.kinds) else veil.kinds) for veil in self._veils]
        self._veiled_kinds: frozenset[int] = frozenset().union(*(kinds for _, kinds in veiled))
        self._personal_kinds: frozenset[int] = frozenset().union(
            *(kinds for veil, kinds in veiled if veil.is_personal)
        )
        self._visible = {
            kind: tuple(veil.visible for veil, kinds in veiled if kind in kinds)
            for kind in self._veiled_kinds
        }
        tagged = [(veil, veil.tags()) for veil in self._veils if veil.tags is not None]
        letters = {letter for _, tags in tagged for letter, values in tags.items() if values}
        self._veiled_tags: dict[str, frozenset[str]] = {
            letter: frozenset().union(*(tags.get(letter, frozenset()) for _, tags in tagged))
            for letter in letters
        }
        self._visible_by_tag = tuple(veil.visible for veil, tags in tagged if any(tags.values()))

    def publish(self, event: Event, json: bytes, origin: Origin, reply: Reply) -> None:
        """Take an event; `reply` is called once, after it is durable or was refused."""
        self.intake.take(Arrival(event, json, origin, reply))

    def ask(
        self, filters: Sequence[Filter], origin: Origin, *, may_search: bool = True
    ) -> list[Filter] | Refusal:
        """Return the filters as the gates leave them, limits capped; or why the question is refused."""
        self.catch_up()
        for is_refused in self._doorkeepers:
            if (refusal := is_refused(filters, origin)) is not None:
                return refusal
        return self.pass_gates(filters, origin, may_search=may_search)

    def pass_gates(
        self, filters: Sequence[Filter], origin: Origin, *, may_search: bool
    ) -> list[Filter] | Refusal:
        """Return what `ask` does, nobody being asked at the door."""
        narrowed = []
        for wanted in filters:
            answer = self._narrow(wanted, origin, may_search=may_search)
            if isinstance(answer, Refusal):
                return answer
            limit = self._max_limit if answer.limit is None else min(answer.limit, self._max_limit)
            narrowed.append(answer if answer.limit == limit else answer.limited(limit))
        return narrowed

    def _narrow(self, wanted: Filter, origin: Origin, *, may_search: bool) -> Filter | Refusal:
        # A filter that can match nothing but veiled kinds tells a stranger to authenticate; a
        # mixed one is veiled silently.
        if wanted.kinds and wanted.kinds <= self._personal_kinds and not origin.authenticated:
            return _UNVEILED
        for gate in self._gates:
            answer = gate(wanted, origin)
            if isinstance(answer, Refusal):
                return answer
            wanted = answer
        if wanted.search is not None:
            if self._search is None:
                return _NO_SEARCH
            if not may_search:
                return _ONLY_SENT
        return wanted

    def reconcile(self, wanted: Filter, origin: Origin, *, most: int) -> Reconciliation | Refusal:
        """Return a reconciliation with what this reader may see, `most` events at most, or a refusal."""
        answer = self.comparable(wanted, origin)
        if isinstance(answer, Refusal):
            return answer
        items = partial(self._items, answer, self.veil(origin))
        if self.is_sifted(answer):
            items = partial(self._sifted_items, answer, origin)
        return Reconciliation(partial(self._metered, items, origin), self._shelf, most)

    def comparable(self, wanted: Filter, origin: Origin) -> Filter | Refusal:
        """Return a filter as this reader may reconcile by it, or why not. Raises StoreError."""
        self.catch_up()
        for is_refused in self._doorkeepers:
            if (refusal := is_refused((wanted,), origin)) is not None:
                return refusal
        return self._narrow(wanted, origin, may_search=False)

    async def _metered(
        self, items: Callable[[], AsyncGenerator[list[Item], None]], origin: Origin
    ) -> AsyncGenerator[list[Item], None]:
        charge = None if self._toll is None else self._toll(origin)
        # What is compared is bounded by itself; only the work counts.
        pages = items() if charge is None else metered(items(), lambda seconds, _: charge(seconds, 0))
        async for page in pages:
            yield page

    async def _items(self, wanted: Filter, veil: Veil) -> AsyncGenerator[list[Item], None]:
        head = await self.store.head()
        async for page in self.store.items(wanted, upto=head, now=self.now(), veil=veil):
            yield page

    async def _sifted_items(self, wanted: Filter, origin: Origin) -> AsyncGenerator[list[Item], None]:
        async for page in self._scan(origin, await self.store.head())(wanted.limited(None)):
            yield [(row.created_at, bytes.fromhex(row.id)) for row in page]

    def _scan(self, origin: Origin, upto: Seq) -> Scan:
        """Return what scans for this reader: what it may see up to there."""
        scan: Scan = partial(self.store.scan, upto=upto, now=self.now(), veil=self.veil(origin))
        return scan if self._sieve is None else sifted(scan, self._sieve, origin)

    def is_sifted(self, wanted: Filter) -> bool:
        """Say whether what a filter matches may have to pass `sift`."""
        return self._sieve is not None and may_concern(self._sieve, wanted)

    async def sift(self, rows: Sequence[Stored], origin: Origin) -> Sequence[Stored]:
        """Return those of the rows, seen through the veil, that this reader may see."""
        return rows if self._sieve is None else await sift(self._sieve, rows, origin)

    def open(self, subscription: Subscription) -> None:
        """File the subscription: live events gather in its buffer from here on."""
        self.index.add(subscription)
        self._opened.add(subscription)
        self._searching += subscription.searches
        self.tail.follow()

    async def draw_line(self, subscription: Subscription) -> None:
        """Set where in the log the stored part of an opened subscription ends. Raises StoreError."""
        subscription.line = await self.store.head()

    def answer_at_once(self, subscription: Subscription) -> list[Stored] | None:
        """Draw the line of an opened subscription and return all that `answer` yields; None where it waits.

        Nothing comes between the filing, the line and the answer. Raises StoreError.
        """
        if len(subscription.filters) > 1 or self._sieve is not None or self._toll is not None:
            return None
        (wanted,) = subscription.filters
        if wanted.is_empty or wanted.limit == 0 or wanted.search is not None:
            return None
        if wanted.kinds is not None and not self.conjured.keys().isdisjoint(wanted.kinds):
            return None
        veil = self.veil(subscription.reader.origin)
        found = whole_seconds_at_once(partial(self.store.at_once, now=self.now(), veil=veil), wanted)
        if found is None:
            return None
        subscription.line, rows, subscription.is_complete = found
        return rows

    def answer(self, subscription: Subscription) -> AsyncIterator[list[Stored]]:
        """Yield what `stored` does, within the budget of who asks. Raises StoreError, Exhausted."""
        pages = self.stored(subscription)
        charge = None if self._toll is None else self._toll(subscription.reader.origin)
        return pages if charge is None else metered(pages, charge)

    async def stored(self, subscription: Subscription) -> AsyncIterator[list[Stored]]:
        """Yield what is stored up to the line, newest first, ties by lowest id, each event once.

        A limit's last second is sent whole; the end sets `subscription.is_complete` (NIP-67). What
        filters search for comes before what the others ask for, the best first (NIP-50). The line must
        have been drawn. Raises StoreError.
        """
        meant = [f for f in subscription.filters if not f.is_empty]
        wanted = [f for f in meant if f.limit != 0]
        now, veil = self.now(), self.veil(subscription.reader.origin)
        if self.conjured and (made := await self._conjure(wanted, subscription.reader.origin, now)):
            yield made
        sent: set[bytes] = set()
        if subscription.searches:
            async for page in self._found(wanted, subscription.line, now, veil):
                shown = await self.sift(page, subscription.reader.origin)
                # Several filters may find one event.
                fresh = {row.json[7:71]: row for row in shown if row.json[7:71] not in sent}
                sent.update(fresh)
                yield list(fresh.values())
        scan = self._scan(subscription.reader.origin, subscription.line)
        ends: list[bool] = []
        plain = [f for f in wanted if f.search is None]
        async for page in merge([whole_seconds(scan, f, ends.append) for f in plain]):
            yield [row for row in page if row.json[7:71] not in sent] if sent else page
        # A limit of 0 asks for nothing that is stored, and a search for the best: nobody has looked.
        subscription.is_complete = all(ends) if len(plain) == len(meant) else None

    async def _found(
        self, wanted: Sequence[Filter], upto: Seq, now: int, veil: Veil
    ) -> AsyncIterator[list[Stored]]:
        for one in wanted:
            if one.search is not None and self._search is not None:
                async for page in self._search.stored(self.store, one, upto=upto, now=now, veil=veil):
                    yield page

    async def _conjure(self, wanted: Sequence[Filter], origin: Origin, now: int) -> list[Stored]:
        """Return what features make for who asks for its kind; it is before everything stored."""
        asked = {kind for one in wanted for kind in one.kinds or () if kind in self.conjured}
        made = [event for kind in sorted(asked) for event in await self.conjured[kind](origin, now)]
        return [
            Stored(Seq(0), event.created_at, encode(event))
            for event in made
            if any(one.matches(event) for one in wanted)
        ]

    def close(self, subscription: Subscription) -> None:
        """Forget an opened subscription."""
        self.index.remove(subscription)
        self._opened.discard(subscription)
        self._searching -= subscription.searches

    def judge_anew(self, subscription: Subscription) -> Refusal | None:
        """Ask the gates about an opened subscription again: narrow it, or say why it has to end.

        What they had narrowed before stays so, until its client asks again.
        """
        # It was let in; only what it may see is asked again.
        answer = self.pass_gates(subscription.filters, subscription.reader.origin, may_search=True)
        if isinstance(answer, Refusal):
            return answer
        narrowed = [new.limited(old.limit) for new, old in zip(answer, subscription.filters, strict=True)]
        if narrowed != list(subscription.filters):
            self.close(subscription)
            subscription.narrow(narrowed)
            self.open(subscription)
        return None

    async def count(self, filters: Sequence[Filter], origin: Origin) -> int:
        """Return how many events that this reader may see match any of the filters.

        Raises StoreError, Exhausted.
        """
        charge = None if self._toll is None else self._toll(origin)
        counting = self._count(filters, origin)
        return await (counting if charge is None else Metered(counting, charge))

    async def _count(self, filters: Sequence[Filter], origin: Origin) -> int:
        wanted = [f.limited(None) for f in filters if not f.is_empty]
        if not wanted:
            return 0
        head = await self.store.head()
        if any(map(self.is_sifted, wanted)):
            scan = self._scan(origin, head)
            return sum([len(page) async for page in merge([scan(one) for one in wanted])])
        return await self.store.count(wanted, upto=head, now=self.now(), veil=self.veil(origin))

    async def registers(self, filters: Sequence[Filter], origin: Origin, count: int) -> bytes | None:
        """Return the HyperLogLog of who wrote the `count` events that match; None where there is none.

        See `count_authors`: so it is for few, and for what is asked for first. Of more than a few the NIP's
        common queries have it ready. Raises StoreError.
        """
        if len(filters) != 1:
            return None
        (wanted,) = filters
        crowd = crowd_of(wanted) if count > READ_AT_MOST and self._crowds is not None else None
        if crowd is not None and self._crowds is not None and self._may_all_be_seen(crowd.kinds):
            ready, is_missing = self._crowds.registers(crowd)
            if ready is not None:
                return ready
            if is_missing and self._tasks is not None:
                self._tasks.create_task(self._crowds.build(crowd, wanted, self.now()))
        return await count_authors(self._scan(origin, await self.store.head()), wanted, count)

    def _may_all_be_seen(self, kinds: Iterable[int]) -> bool:
        """Say whether no event of these kinds is ever hidden."""
        if self._sieve is not None and any(map(self._sieve.covers, kinds)):
            return False
        return self._veiled_kinds.isdisjoint(kinds)

    def veil(self, origin: Origin) -> Veil:
        """Return what this reader may see, as the store asks it."""
        return Veil(self._veiled_kinds, lambda event: self.is_visible(event, origin), self._veiled_tags)

    def is_visible(self, event: Event, origin: Origin) -> bool:
        """Say whether this reader may see this event: the one door for stored, live and counted."""
        asked = self._visible.get(event.kind, ())
        if self._veiled_tags:
            asked += self._visible_by_tag
        return all(visible(event, origin) for visible in asked)

    def _is_heard(self, event: Event) -> bool:
        if self._sieve is not None and self._sieve.covers(event.kind):
            return True  # nobody knows yet
        return any(
            self.is_visible(event, subscription.reader.origin) for subscription in self.index.matching(event)
        )

    def _on_rows(self, rows: Sequence[Stored]) -> None:
        if len(self.index):
            self._pass_on([(row.event(), LiveEvent(row.seq, row.json)) for row in rows])

    def _on_ephemeral(self, events: Sequence[bytes]) -> None:
        if len(self.index):
            self._pass_on([(decode(json), LiveEvent(None, json)) for json in events])

    def _pass_on(self, arrived: Sequence[tuple[Event, LiveEvent]]) -> None:
        try:
            self.catch_up()
        except StoreError as error:
            # What may be shown is not known then.
            log.error("live events were not passed on", events=len(arrived), error=str(error))
            return
        if self._sieve is None:
            self._offer(self._due(arrived))
        elif sum(map(len, self._unsifted)) + len(arrived) > MAX_UNSIFTED:
            log.error("the sieve does not keep up; subscriptions are ended", events=len(arrived))
            for subscription in tuple(self._opened):
                subscription.reader.end_slow(subscription)
        else:
            # What needs no look waits too: subscriptions get events in the order of the log.
            self._unsifted.append(arrived)
            self._arrived.set()

    async def _sift_live(self) -> None:
        """Pass on what waits for the sieve, in order, until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._unsifted:
                taken = tuple(self._unsifted)
                shown: dict[Subscription, list[LiveEvent]] = {}
                try:
                    shown = await self._shown(self._due([one for arrived in taken for one in arrived]))
                except Exception:
                    # A mistake of ours: what may be seen is not known, so nobody sees it.
                    log.exception("live events were not passed on")
                # Until here they counted as waiting.
                del self._unsifted[: len(taken)]
                self._offer({one: events for one, events in shown.items() if one in self._opened})

    async def _shown(
        self, due: Mapping[Subscription, Sequence[LiveEvent]]
    ) -> dict[Subscription, list[LiveEvent]]:
        """Return what of it their readers may see: each reader is asked about once for each event."""
        sieve = self._sieve
        if sieve is None:
            return {subscription: list(events) for subscription, events in due.items()}
        origins = {subscription: subscription.reader.origin for subscription in due}
        asked: defaultdict[Origin, dict[bytes, Stored]] = defaultdict(dict)
        for subscription, events in due.items():
            asked[origins[subscription]].update((live.json, _row(live)) for live in events)
        passed = await asyncio.gather(
            *(sift(sieve, list(rows.values()), origin) for origin, rows in asked.items())
        )
        seen = {origin: {row.json for row in rows} for origin, rows in zip(asked, passed, strict=True)}
        return {
            subscription: [live for live in events if live.json in seen[origins[subscription]]]
            for subscription, events in due.items()
        }

    def _due(self, arrived: Sequence[tuple[Event, LiveEvent]]) -> dict[Subscription, list[LiveEvent]]:
        """Return what who waits for events is to be sent, but for what the sieve says."""
        due: defaultdict[Subscription, list[LiveEvent]] = defaultdict(list)
        now = self.now()
        for event, live in arrived:
            subscriptions = self.index.matching(event)
            if subscriptions and any(has_lapsed(event, now) for has_lapsed in self._lapses):
                continue
            if event.kind in self._veiled_kinds or self._veiled_tags:
                subscriptions = [s for s in subscriptions if self.is_visible(event, s.reader.origin)]
            if self._searching and self._search is not None:
                subscriptions = _finding(event, subscriptions, self._search)
            for subscription in subscriptions:
                due[subscription].append(live)
        return due

    def _offer(self, due: Mapping[Subscription, list[LiveEvent]]) -> None:
        # All that is due to a subscription at once is one write.
        for subscription, events in due.items():
            if events:
                subscription.offer(events, buffer_bytes=self._buffer_bytes)


def _row(live: LiveEvent) -> Stored:
    return Stored(Seq(0), 0, live.json)


def _requests(features: Sequence[Feature]) -> dict[int, Request]:
    return {kind: ask for feature in features for kind, ask in feature.requests.items()}


def _finding(event: Event, subscriptions: Sequence[Subscription], search: Search) -> list[Subscription]:
    """Return those of the subscriptions that want this event, their searches considered too."""
    finds: Callable[[str], bool] | None = None
    wanting = []
    for subscription in subscriptions:
        if subscription.searches:
            # An event is taken apart once, and only for who searches.
            finds = finds or search.live(event)
            if not any(
                f.matches(event) and (f.search is None or finds(f.search)) for f in subscription.filters
            ):
                continue
        wanting.append(subscription)
    return wanting
