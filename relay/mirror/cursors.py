"""How far each link of the router has come: a small file in the data folder that survives restarts."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from relay.store.api import Seq

CURSORS = "router.json"


@dataclass(slots=True)
class Cursor:
    """How far one link has come. Times are unix seconds; None: not at all."""

    asked: str = ""
    """What the link is for: another direction, or other filters, begin anew."""
    sent: Seq | None = None
    """Everything in the log up to here was looked at, and sent if it was due."""
    caught_up: int | None = None
    """Everything that the partner had then is here."""
    compared: int | None = None
    """When everything was compared the last time."""
    pages: bool = False
    """Whether the partner does not reconcile, as it was then."""


class Cursors:
    """The cursors of all links, by name; each is changed in place, and `save` writes them all."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cursors: dict[str, Cursor] = {}
        try:
            read = orjson.loads(path.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            # Without cursors everything is compared once more; nothing is lost.
            read = {}
        self._saved = b""
        for name, values in read.items() if isinstance(read, dict) else ():
            match values:
                case {
                    "asked": str(asked),
                    "sent": int() | None as sent,
                    "caught_up": int() | None as caught_up,
                    "compared": int() | None as compared,
                    "pages": bool(pages),
                }:
                    seq = None if sent is None else Seq(sent)
                    self._cursors[name] = Cursor(asked, seq, caught_up, compared, pages)

    def of(self, name: str, asked: str) -> Cursor:
        """Return the cursor of a link, a new one where it was for something else."""
        cursor = self._cursors.get(name)
        if cursor is None or cursor.asked != asked:
            cursor = self._cursors[name] = Cursor(asked)
        return cursor

    def keep(self, names: frozenset[str]) -> None:
        """Forget the links that are no more."""
        self._cursors = {name: cursor for name, cursor in self._cursors.items() if name in names}

    def save(self) -> None:
        """Write what has changed; the file is replaced as a whole.

        It may be a little behind after a power cut: then some is done again, which changes nothing.
        """
        text = orjson.dumps({name: asdict(cursor) for name, cursor in self._cursors.items()})
        if text == self._saved:
            return
        new = self._path.with_suffix(".new")
        new.write_bytes(text)
        os.replace(new, self._path)
        self._saved = text
