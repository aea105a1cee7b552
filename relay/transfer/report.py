"""What became of an import's lines, and how far an import came that was broken off."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import orjson

from relay.store.api import Outcome, Seq

_MAX_REASONS = 100
_MAX_EXAMPLES = 3
_OTHER = "other reasons"


@dataclass(slots=True)
class Tally:
    """How many lines share a fate, and where the first of them stand."""

    count: int = 0
    first: list[str] = field(default_factory=list)
    """`file:line`, three at most."""

    def add(self, place: str) -> None:
        self.count += 1
        if len(self.first) < _MAX_EXAMPLES:
            self.first.append(place)


@dataclass(slots=True)
class Report:
    """What became of the lines."""

    stored: int = 0
    duplicate: int = 0
    superseded: int = 0
    """A newer version was there."""
    deleted: int = 0
    """Its author had deleted it."""
    left_out: dict[str, Tally] = field(default_factory=dict)
    """Right events that a relay does not keep, by reason."""
    rejected: dict[str, Tally] = field(default_factory=dict)
    """Lines that hold no event, or none this relay takes, by reason."""

    @property
    def events(self) -> int:
        """All lines that are done with; empty ones do not count."""
        kept = self.stored + self.duplicate + self.superseded + self.deleted
        return kept + sum(tally.count for tally in (*self.left_out.values(), *self.rejected.values()))

    @property
    def rejects(self) -> int:
        return sum(tally.count for tally in self.rejected.values())

    def add_outcome(self, outcome: Outcome) -> None:
        match outcome:
            case Outcome.STORED:
                self.stored += 1
            case Outcome.DUPLICATE:
                self.duplicate += 1
            case Outcome.SUPERSEDED:
                self.superseded += 1
            case Outcome.DELETED:
                self.deleted += 1

    def leave_out(self, reason: str, place: str) -> None:
        _tally(self.left_out, reason).add(place)

    def reject(self, reason: str, place: str) -> None:
        _tally(self.rejected, reason).add(place)

    def include(self, other: "Report") -> None:
        """Add another report's figures to this one's."""
        self.stored += other.stored
        self.duplicate += other.duplicate
        self.superseded += other.superseded
        self.deleted += other.deleted
        for mine, theirs in ((self.left_out, other.left_out), (self.rejected, other.rejected)):
            for reason, tally in theirs.items():
                merged = _tally(mine, reason)
                merged.count += tally.count
                merged.first = (merged.first + tally.first)[:_MAX_EXAMPLES]

    def lines(self) -> Iterator[str]:
        """Write the report for people."""
        noun = "event" if self.events == 1 else "events"
        yield f"{self.events:,} {noun}: {self.stored:,} stored"
        for count, text in (
            (self.duplicate, "there already"),
            (self.superseded, "superseded by a newer version"),
            (self.deleted, "deleted by their author"),
        ):
            if count:
                yield f"  {count:,} {text}"
        for title, tallies in (("left out", self.left_out), ("rejected", self.rejected)):
            for reason, tally in sorted(tallies.items(), key=lambda item: -item[1].count):
                more = ", …" if tally.count > len(tally.first) else ""
                yield f"  {tally.count:,} {title}: {reason} ({', '.join(tally.first)}{more})"


def _tally(tallies: dict[str, Tally], reason: str) -> Tally:
    if reason not in tallies and len(tallies) >= _MAX_REASONS:
        # Reasons quote figures of the event, so there may be as many as events.
        reason = _OTHER
    return tallies.setdefault(reason, Tally())


@dataclass(frozen=True, slots=True)
class Mark:
    """How far one input has been imported; all before it is in the store."""

    end: int
    """Bytes of text, decompressed."""
    line: int
    """The number of the next line."""
    report: Report


class Marks:
    """The marks of imports that are under way or were broken off: a small file beside the database."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, dict[str, object]] = {}
        with contextlib.suppress(FileNotFoundError):
            self._entries = orjson.loads(path.read_bytes())

    def get(self, key: str, *, head: Seq) -> Mark | None:
        """Return the mark of an input; None where there is none, or it was made with another database.

        `head` is the store's: one that is behind the mark's cannot hold what was imported.
        """
        match self._entries.get(key):
            case {"end": int(end), "line": int(line), "head": int(then), "report": dict(report)} if (
                then <= head
            ):
                return Mark(end, line, _read_report(report))
        return None

    def set(self, key: str, mark: Mark, *, head: Seq) -> None:
        """Remember a mark; in the file when it returns, though not yet safe from a power cut.

        That is enough: what is imported twice is found to be there already.
        """
        self._entries[key] = {
            "end": mark.end,
            "line": mark.line,
            "head": head,
            "report": asdict(mark.report),
        }
        self._save()

    def forget(self, keys: list[str]) -> None:
        """Remove the marks of inputs that are done with."""
        for key in keys:
            self._entries.pop(key, None)
        self._save()

    def _save(self) -> None:
        if not self._entries:
            self._path.unlink(missing_ok=True)
            return
        new = self._path.with_suffix(".new")
        new.write_bytes(orjson.dumps(self._entries))
        os.replace(new, self._path)


def _read_report(value: dict[str, object]) -> Report:
    tallies = {
        name: {reason: Tally(**tally) for reason, tally in value[name].items()}  # type: ignore[attr-defined]
        for name in ("left_out", "rejected")
    }
    return Report(**(value | tallies))  # type: ignore[arg-type]
