"""NIP-56: reports of trusted moderators join a queue; what becomes of it people decide (NIP-86).

Everybody's reports are kept and served like all events. "It is not recommended that relays perform
automatic moderation using reports".
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature, OfKinds
from relay.features.management import book
from relay.features.management.book import Book
from relay.features.management.callers import Staff, Standing
from relay.nostr import kinds
from relay.nostr.event import Event
from relay.nostr.tags import HEX_64
from relay.store.api import KEEP, Records, Ruling, Table, Write

REPORTS = "reports"
MAX_REPORTED = 20
"""Events that one report puts into the queue; those named after them are left out."""
MAX_REASON_CHARS = 300


def feature(config: RelayConfig, context: Context) -> Feature:
    staff = Staff.of(config, context.key.public)
    # Where nobody is trusted there is no queue.
    is_moderated = bool(staff.admins or staff.moderators)
    if not is_moderated:
        return Feature(title="Reports")
    return Feature(
        title="Reports",
        nip=56,
        effects=(OfKinds(kinds.REPORT.__eq__, name_table),),
        tables=(Table(REPORTS, judging_by(staff), forget=forget, of=book.TABLE),),
    )


def name_table(write: Write) -> Write:
    """Let the table judge a report."""
    return replace(write, tables=(*write.tables, REPORTS))


def judging_by(staff: Staff) -> Callable[[Event, Records, int], Ruling]:
    """Return what puts the reports of trusted people into the queue."""

    def judge(event: Event, records: Records, now: int) -> Ruling:
        known = Book(records)
        roles = known.roles_of(event.pubkey) or ()
        if known.has(book.BANNED, event.pubkey) or staff.standing(event.pubkey, roles) is Standing.NOBODY:
            return KEEP
        for id_, reason in reported(event):
            if known.has(book.ALLOWED_EVENT, id_) or known.has(book.BANNED_EVENT, id_):
                continue
            if known.size(book.REPORT) < book.MAX_REPORTS:
                known.add(book.REPORT, f"{id_} {event.id}", reason)
        return KEEP

    return judge


def forget(event: Event, records: Records) -> None:
    """Take a report that was withdrawn out of the queue."""
    known = Book(records)
    for id_, _ in reported(event):
        known.drop(book.REPORT, f"{id_} {event.id}")


def reported(event: Event) -> Iterator[tuple[str, str]]:
    """Yield what a report is about, as (id of an event, reason): itself, where it is about a person."""
    events = [tag for tag in event.tags if len(tag) > 1 and tag[0] == "e" and HEX_64(tag[1])]
    for tag in events[:MAX_REPORTED]:
        yield tag[1], _reason(tag, event.content)
    if events:
        return
    for tag in event.tags:
        if len(tag) > 1 and tag[0] == "p" and HEX_64(tag[1]):
            yield event.id, _reason(("p", tag[1], f"key {tag[1]} {_kind(tag)}"), event.content)
            return


def _kind(tag: tuple[str, ...]) -> str:
    """Return the report type, "included as the 3rd entry to the e, p or x tag"."""
    return tag[2] if len(tag) > 2 and tag[2] else "other"


def _reason(tag: tuple[str, ...], content: str) -> str:
    reason = f"{_kind(tag)}: {content}" if content else _kind(tag)
    return reason[:MAX_REASON_CHARS]
