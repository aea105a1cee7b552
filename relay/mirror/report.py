"""What an exchange with a partner came to."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields

from relay.nostr.reasons import prefix_of

_MAX_REASONS = 50
_OTHER = "other reasons"


class Reasons(dict[str, int]):
    """How many events share a reason. Partners word them, so there are only so many."""

    def add(self, reason: str, count: int = 1) -> None:
        reason = reason[:200]
        if reason not in self and len(self) >= _MAX_REASONS:
            # What many reasons that quote figures of the event have in common.
            prefix = prefix_of(reason)
            reason = _OTHER if prefix is None else f"{prefix}: {_OTHER}"
        self[reason] = self.get(reason, 0) + count

    @property
    def total(self) -> int:
        return sum(self.values())


@dataclass(slots=True)
class Report:
    """What moved, what did not, and what the partner did wrong."""

    received: int = 0
    """Events that are stored here now and were not before."""
    received_quietly: int = 0
    """Those of them that subscribers were not sent."""
    sent: int = 0
    """Events that the partner took and did not have before."""
    known_here: int = 0
    """Events of the partner that were here, or a newer version of which is."""
    known_there: int = 0
    """The same on the other side, as the partner says."""
    refused_here: Reasons = field(default_factory=Reasons)
    """By this relay's rules."""
    refused_there: Reasons = field(default_factory=Reasons)
    """By the partner."""
    withheld: Reasons = field(default_factory=Reasons)
    """What stays here; no partner is sent it."""
    to_receive: int = 0
    """Of a dry run: what the partner has and this relay has not."""
    to_send: int = 0
    """Of a dry run."""
    given_up: int = 0
    """Events that the partner put off (`rate-limited:`, `error:`) until nobody waited any longer."""
    not_given: int = 0
    """Events that the partner says it has, and does not give."""
    not_had: int = 0
    """Events that the partner said it has, or took, and does not have: as far as that was looked at."""
    not_wanted: int = 0
    """Events that the partner offered though they do not meet the filter."""
    broken: Reasons = field(default_factory=Reasons)
    """What the partner sent against the protocol, and was passed over."""
    left_here: int = 0
    """What the partner has and this relay still lacks."""
    left_there: int = 0
    """What may go out and the partner still lacks."""
    by_paging: str | None = None
    """Why the sets were compared by fetching everything: what the partner said to NEG-OPEN."""
    failure: str | None = None
    """Why the exchange did not come to its end."""

    def include(self, other: "Report") -> None:
        """Add what another exchange moved, and what went wrong in it, to this one's."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if isinstance(mine, Reasons):
                for reason, count in theirs.items():
                    mine.add(reason, count)
            elif isinstance(mine, int):
                setattr(self, one.name, mine + theirs)

    @property
    def has_moved(self) -> int:
        """How much has changed on either side: to tell whether there is progress."""
        return self.received + self.sent

    @property
    def is_fine(self) -> bool:
        """Whether all that could move has moved, and the partner kept to the protocol."""
        return self.failure is None and not (
            self.broken or self.given_up or self.not_given or self.not_had or self.not_wanted
        )

    def note_broken(self, discards: Mapping[str, int]) -> None:
        """Add what a client passed over while its connection lasted."""
        for reason, count in discards.items():
            self.broken.add(reason, count)

    def as_values(self) -> dict[str, object]:
        """Return the report for a JSON document."""
        return {"fine": self.is_fine, **asdict(self)}

    def lines(self, *, dry_run: bool) -> Iterator[str]:
        """Write the report for people."""
        if dry_run:
            yield f"{self.to_receive:,} to receive, {self.to_send:,} to send; nothing was moved"
        else:
            yield f"{self.received:,} received, {self.sent:,} sent"
        for count, text in (
            (self.known_here, "were here, or a newer version was"),
            (self.known_there, "were there already"),
        ):
            if count:
                yield f"  {count:,} {text}"
        for title, reasons in (
            ("not stored here", self.refused_here),
            ("not taken by the partner", self.refused_there),
            ("not sent", self.withheld),
        ):
            for reason, count in sorted(reasons.items(), key=lambda item: -item[1]):
                yield f"  {count:,} {title}: {reason}"
        if not dry_run:
            yield f"  {self.left_here:,} still lacking here, {self.left_there:,} still lacking there"
        if self.by_paging is not None:
            yield f"  compared by fetching, for the partner does not reconcile ({self.by_paging})"
        for count, text in (
            (self.given_up, "put off by the partner again and again"),
            (self.not_given, "that the partner says it has, but does not give"),
            (self.not_had, "that the partner says it has, but has not"),
            (self.not_wanted, "offered by the partner that do not meet the filter"),
        ):
            if count:
                yield f"  WRONG: {count:,} {text}"
        for reason, count in sorted(self.broken.items(), key=lambda item: -item[1]):
            yield f"  WRONG: {count:,} messages of the partner were passed over: {reason}"
        if self.failure is not None:
            yield f"  stopped before the end: {self.failure}"
