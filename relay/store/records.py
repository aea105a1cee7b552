"""Asking tables inside a write transaction: what one decides takes effect whole, or not at all."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from relay.nostr.event import Event
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import KEEP, Bars, Records, Ruling, Table

log = structlog.get_logger(__name__)

_FAILED = Refusal(Prefix.ERROR, "the relay could not judge this event")
_NO_SUCH_TABLE = Refusal(Prefix.ERROR, "the relay does not keep what this event needs")

OpenRecords = Callable[[Table], Records]
"""Gives the records of a table as the transaction has them so far."""


class Tables:
    """The tables of one store, by name."""

    def __init__(self, tables: Iterable[Table]) -> None:
        """Raises ValueError when two have one name, or one is of a table that is not there."""
        self._by_name: dict[str, Table] = {}
        for table in tables:
            if table.name in self._by_name:
                raise ValueError(f"two tables are named {table.name}")
            self._by_name[table.name] = table
        for table in self._by_name.values():
            if table.of is not None and (table.followed or table.of not in self._by_name):
                raise ValueError(f"{table.name} has no records, and those of {table.of} are asked for")

    def judge(
        self, names: Sequence[str], event: Event, opened: OpenRecords, now: int
    ) -> tuple[Ruling, ...] | Refusal:
        """Ask each table in order; after a Refusal the records are as they were."""
        drafts: list[Draft] = []
        rulings: list[Ruling] = []
        for name in names:
            table = self._by_name.get(name)
            if table is None:
                log.error("an event names a table that is not there", table=name, kind=event.kind)
                return _NO_SUCH_TABLE
            draft = Draft(opened(table))
            try:
                ruling = table.judge(event, draft, now)
            except Exception:
                # A mistake of ours must not keep the other events of the batch out.
                log.exception("a table failed; the event is refused", table=name, event_id=event.id[:8])
                return _FAILED
            if isinstance(ruling, Refusal):
                return ruling
            drafts.append(draft)
            rulings.append(ruling)
        for draft in drafts:
            draft.apply()
        return tuple(ruling for ruling in rulings if ruling is not KEEP)

    def forget(self, names: Sequence[str], event: Event, opened: OpenRecords) -> None:
        """Tell the tables that an event is gone; one that is not kept any more is not told."""
        for name in names:
            table = self._by_name.get(name)
            if table is None or table.forget is None:
                continue
            draft = Draft(opened(table))
            try:
                table.forget(event, draft)
            except Exception:
                # The event goes all the same; its table may count it from now on.
                log.exception("a table could not forget an event", table=name, event_id=event.id[:8])
            else:
                draft.apply()

    def command(self, name: str, payload: bytes, opened: OpenRecords, now: int) -> Ruling | Refusal:
        """Have a table carry out a command. Raises KeyError for a table that takes none."""
        table = self._by_name[name]
        if table.command is None:
            raise KeyError(name)
        draft = Draft(opened(table))
        ruling = table.command(payload, draft, now)
        if not isinstance(ruling, Refusal):
            draft.apply()
        return ruling

    @property
    def all(self) -> Mapping[str, Table]:
        """The tables by name."""
        return self._by_name


class Barred:
    """What the records of one table keep out, in memory: every new event is compared with it."""

    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._authors: set[bytes] = set()
        self._ids: set[bytes] = set()
        self.is_any = False
        """Whether anything is kept out: most relays bar nobody."""

    def note(self, key: str, *, is_there: bool) -> None:
        """Take note of a record that was put or deleted."""
        for prefix, known in ((self._bars.authors, self._authors), (self._bars.ids, self._ids)):
            if key.startswith(prefix):
                (known.add if is_there else known.discard)(key[len(prefix) :].encode())
                self.is_any = bool(self._authors or self._ids)

    def load(self, records: Records) -> None:
        """Take what is there in the place of what was known."""
        self._authors.clear()
        self._ids.clear()
        self.is_any = False
        for prefix in (self._bars.authors, self._bars.ids):
            after = ""
            while page := records.within(prefix, after=after):
                for key, _ in page:
                    self.note(key, is_there=True)
                after = page[-1][0]

    def refuse(self, id_: bytes, author: bytes, kind: int) -> Refusal | None:
        """Return why an event is kept out, if it is; both as 64 hex digits."""
        if (author in self._authors or id_ in self._ids) and kind not in self._bars.except_kinds:
            return self._bars.refusal
        return None


class Draft:
    """`Records` over others: changes stay here until they are applied."""

    def __init__(self, below: Records) -> None:
        self._below = below
        self._changed: dict[str, bytes | None] = {}

    def get(self, key: str) -> bytes | None:
        """See `Records.get`."""
        return self._changed[key] if key in self._changed else self._below.get(key)

    def put(self, key: str, value: bytes) -> None:
        """See `Records.put`."""
        self._changed[key] = value

    def delete(self, key: str) -> None:
        """See `Records.delete`."""
        self._changed[key] = None

    def within(self, prefix: str, *, after: str = "", limit: int = 1_000) -> list[tuple[str, bytes]]:
        """See `Records.within`."""
        ours = {key: value for key, value in self._changed.items() if key.startswith(prefix) and key > after}
        if not ours:
            return self._below.within(prefix, after=after, limit=limit)
        # Of those below, at most as many as we have changed may drop out.
        below = self._below.within(prefix, after=after, limit=limit + len(ours))
        merged = dict(below) | ours
        kept = [(key, value) for key in sorted(merged) if (value := merged[key]) is not None]
        return kept[:limit]

    def apply(self) -> None:
        """Make the changes below."""
        for key, value in self._changed.items():
            if value is None:
                self._below.delete(key)
            else:
                self._below.put(key, value)
