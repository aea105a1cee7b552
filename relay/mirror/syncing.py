"""Sync: one exchange with a partner, over as many connections as it takes."""

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson

from relay.client import Rejected, RelayFailure, Unreachable, backoff
from relay.mirror.exchange import Acquaintance, Direction, Exchange
from relay.mirror.house import House, Partner
from relay.mirror.report import Report
from relay.nostr.filter import Filter, encode_filter

_VAIN_CONNECTIONS = 5
"""Connections in a row during which nothing moved, before it is given up."""
_MARK_SECONDS = 7 * 86_400
"""An older mark is worth nothing: too much has changed since."""
_OVERLAP_SECONDS = 3_600
"""What is dated so long before a sync that was broken off may have reached the partner after it began."""


class Marks:
    """How far syncs came that were broken off with partners that do not reconcile; a small file."""

    def __init__(self, path: Path, *, now: Callable[[], int]) -> None:
        self._path = path
        self._now = now
        self._marks: dict[str, list[int]] = {}
        try:
            read = orjson.loads(path.read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            # Without a mark all is compared: that takes longer, no more.
            return
        if isinstance(read, dict):
            for key, mark in read.items():
                match mark:
                    case [int(), int(began)] if 0 <= now() - began <= _MARK_SECONDS:
                        self._marks[key] = mark

    def get(self, key: str) -> tuple[int, int] | None:
        """Return (everything from this second on was done, by a sync that began then), in unix seconds."""
        mark = self._marks.get(key)
        return None if mark is None else (mark[0], mark[1])

    def set(self, key: str, since: int, began: int) -> None:
        self._marks[key] = [since, began]
        self._save()

    def forget(self, key: str) -> None:
        if self._marks.pop(key, None) is not None:
            self._save()

    def _save(self) -> None:
        if not self._marks:
            self._path.unlink(missing_ok=True)
            return
        new = self._path.with_suffix(".new")
        new.write_bytes(orjson.dumps(self._marks))
        os.replace(new, self._path)


class Sync:
    """Brings this relay and one partner together, by some filters."""

    def __init__(
        self,
        house: House,
        partner: Partner,
        direction: Direction,
        marks: Marks,
        *,
        dry_run: bool = False,
        on_progress: Callable[[int], None] = lambda moved: None,
        pauses: Callable[[], Iterator[float]] = backoff,
    ) -> None:
        """`on_progress` is told how many events have moved."""
        self._house = house
        self._partner = partner
        self._direction = direction
        self._marks = marks
        self._dry_run = dry_run
        self._on_progress = on_progress
        self._pauses = pauses
        self._acquaintance = Acquaintance()

    async def run(self, filters: Iterable[Filter], report: Report) -> None:
        """Sync by each filter, one after the other. Raises StoreError.

        Why it did not come to its end, where it did not, is in the report.
        """
        for wanted in filters:
            await self._run(wanted, report)
            if report.failure is not None:
                return

    async def _run(self, wanted: Filter, report: Report) -> None:
        key = f"{self._partner.url} {self._direction} {orjson.dumps(encode_filter(wanted)).decode()}"
        began = self._house.relay.now()
        parts = [wanted]
        if (mark := self._marks.get(key)) is not None:
            done, began = mark
            # What is left of the last time, then what is new since.
            parts = [
                _later(wanted, began - _OVERLAP_SECONDS),
                replace(wanted, until=min(done, done if wanted.until is None else wanted.until)),
            ]
        for part in parts:
            is_last = part is parts[-1]

            def note(since: int, is_last: bool = is_last) -> None:
                # A partner that reconciles is compared with again in no time.
                if is_last and report.by_paging is not None:
                    self._marks.set(key, since, began)

            await self._insist(part, report, note)
            if report.failure is not None:
                return
        self._marks.forget(key)

    async def _insist(self, wanted: Filter, report: Report, note: Callable[[int], None]) -> None:
        """Run until the end, over lost connections, as long as there is progress."""
        vain = 0
        pauses = self._pauses()
        until = wanted.until

        def done(since: int) -> None:
            nonlocal until
            until = since - 1
            note(since)

        while True:
            moved, at = report.has_moved, until
            try:
                async with self._house.call(self._partner) as client:
                    exchange = Exchange(
                        client,
                        self._house,
                        self._partner,
                        report,
                        direction=self._direction,
                        dry_run=self._dry_run,
                        acquaintance=self._acquaintance,
                        on_progress=lambda: self._on_progress(report.has_moved),
                        on_done=done,
                    )
                    try:
                        return await exchange.run(replace(wanted, until=until))
                    finally:
                        report.note_broken(client.discards)
            except RelayFailure as error:
                is_passing = isinstance(error, Unreachable) or (
                    isinstance(error, Rejected) and error.is_temporary
                )
                if not is_passing:
                    report.failure = str(error)
                    return
                if report.has_moved > moved or until != at:
                    vain, pauses = 0, self._pauses()
                vain += 1
                if vain >= _VAIN_CONNECTIONS:
                    report.failure = str(error)
                    return
            await asyncio.sleep(next(pauses))


def _later(wanted: Filter, since: int) -> Filter:
    return replace(wanted, since=max(since, since if wanted.since is None else wanted.since))
