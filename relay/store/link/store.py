"""The store of a worker process: it reads the database itself and writes through the writer process."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from relay.nostr.event import EventId
from relay.nostr.reasons import Prefix, Refusal
from relay.store.api import Bell, Outcome, StoreError, Write
from relay.store.link.client import ANSWER_SECONDS, WriterLink
from relay.store.link.frames import Say
from relay.store.sqlite import REMOVED_AT_ONCE, Hashes, Reading, prepare

_COPY_ASKED_SECONDS = 0.1
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}


class LinkedStore(Reading):
    """A `Store` whose writes another process commits.

    When the writer dies, batches that it has not answered are sent again to the next one; of these,
    what was committed already comes back as DUPLICATE (or SUPERSEDED or DELETED by a later write of
    the same batch), and its removals take effect.
    """

    def __init__(self, path: Path, link: WriterLink, followers: "_Followers") -> None:
        super().__init__(path)
        self._link = link
        self._followers = followers
        self._hashes = Hashes(self.key)

    @classmethod
    async def connect(
        cls, path: Path, socket_path: Path, *, answer_seconds: float = ANSWER_SECONDS
    ) -> "LinkedStore":
        """Open a database whose writer listens on `socket_path`, waiting for it if need be.

        `answer_seconds` bounds how long a write waits for the writer, restarts of it included.
        Raises StoreError, StoreTooNew.
        """
        followers = _Followers()
        link = WriterLink(socket_path, followers.ring, followers.tell, answer_seconds=answer_seconds)
        # First the writer, which makes and migrates the database.
        await link.connect()
        try:
            return cls(path, link, followers)
        except StoreError:
            await link.close()
            raise

    async def write(self, batch: Sequence[Write]) -> list[Outcome | Refusal]:
        """See `Store.write`.

        When the writer stays away, raises StoreError although the batch may be stored: the writer
        may have died between its commit and its answer.
        """
        if not batch:
            return []
        outcomes = await self._link.ask(Say.WRITE, [prepare(write, self._hashes) for write in batch])
        return [_OUTCOMES.get(value) or _refusal(value) for value in cast(list[Any], outcomes)]

    async def command(self, table: str, payload: bytes) -> bytes | Refusal:
        """See `Store.command`; with a writer that stays away, in doubt as `write` is."""
        answer = await self._link.ask(Say.COMMAND, table, payload)
        return answer if isinstance(answer, bytes) else _refusal(cast(tuple[str, str], answer))

    async def sweep(self, now: int) -> int:
        """See `Store.sweep`; the writer also does so by itself, every second, by the wall clock."""
        return cast(int, await self._link.ask(Say.SWEEP, now))

    async def remove(self, ids: Sequence[EventId], *, barred: bool = False) -> int:
        """See `Store.remove`. Of a batch that is sent again to a next writer, none may be counted."""
        removed = 0
        for start in range(0, len(ids), REMOVED_AT_ONCE):
            some = list(ids[start : start + REMOVED_AT_ONCE])
            removed += cast(int, await self._link.ask(Say.REMOVE, some, barred))
        return removed

    async def copy(self, target: Path, on_progress: Callable[[int, int], None]) -> None:
        """Have the writer make a consistent copy of the database beside its commits.

        `target` is the absolute path of a new file. `on_progress` is told how many pages are done, and of
        how many. The file is safe on the disk at the end, and removed if it is not whole. Raises StoreError.
        """
        is_whole = False
        while not is_whole:
            answer = await self._link.ask(Say.COPY, str(target))
            is_whole, done, pages = cast(tuple[bool, int, int], answer)
            on_progress(done, pages)
            if not is_whole:
                await asyncio.sleep(_COPY_ASKED_SECONDS)

    def listen(self, on_bell: Callable[[Bell], None]) -> None:
        """See `Store.listen`. Bells are contiguous; one without rows stands for all that were missed."""
        self._followers.on_bell.append(on_bell)

    def follow(self, wanted: bool) -> None:
        """See `Store.follow`."""
        self._link.follow(wanted)

    async def announce(self, rows: Sequence[bytes]) -> None:
        """See `Store.announce`."""
        if rows:
            self._followers.tell(rows)
            self._link.announce(rows)

    def listen_ephemeral(self, on_events: Callable[[Sequence[bytes]], None]) -> None:
        """See `Store.listen_ephemeral`."""
        self._followers.on_events.append(on_events)

    @property
    def is_connected(self) -> bool:
        """Whether the writer process is there, as far as this process knows."""
        return self._link.is_connected

    @property
    def dropped_ephemeral(self) -> int:
        """How many events could not be announced to other processes."""
        return self._link.dropped_ephemeral

    async def close(self) -> None:
        """See `Store.close`: waits for the answers that are due; the writer checkpoints."""
        await self._link.close()
        await super().close()


def _refusal(said: tuple[str, str]) -> Refusal:
    prefix, text = said
    return Refusal(Prefix(prefix), text)


class _Followers:
    """Who in this process listens to the store."""

    def __init__(self) -> None:
        self.on_bell: list[Callable[[Bell], None]] = []
        self.on_events: list[Callable[[Sequence[bytes]], None]] = []

    def ring(self, bell: Bell) -> None:
        for ring in self.on_bell:
            ring(bell)

    def tell(self, rows: Sequence[bytes]) -> None:
        for tell in self.on_events:
            tell(rows)
