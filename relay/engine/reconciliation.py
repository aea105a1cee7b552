"""Reconciliations (NIP-77): a client's set of events is compared with what is stored, frame by frame.

Compared is the set as it was when the client asked. It stays in memory until the end, so the sets of one
process are bounded together.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TypeVar

from relay.engine.sifting import Exhausted
from relay.nostr.negentropy import VERSION, Gathering, InvalidFrame, Item, Server, Vector, version_of
from relay.nostr.reasons import Prefix, Refusal

MAX_FRAME_BYTES = 250_000
"""Half a megabyte on the wire, in hex; what is longer is said in further frames."""

_SETS_AT_A_TIME = 2
"""How many sets of the greatest size one process holds, 45 MB each for a million items."""

_NO_ROOM = Refusal(Prefix.ERROR, "too many reconciliations at a time; try again later")

_T = TypeVar("_T")


@dataclass(slots=True)
class Shelf:
    """The items that the reconciliations of one process hold together."""

    held: int = 0


class Reconciliation:
    """One client's, from NEG-OPEN to the end. Its owner calls `close`."""

    __slots__ = ("_held", "_most", "_pages", "_server", "_shelf")

    def __init__(
        self, pages: Callable[[], AsyncGenerator[list[Item], None]], shelf: Shelf, most: int
    ) -> None:
        """`pages` gives the set, newest items first; of more than `most` nothing is compared."""
        self._pages = pages
        self._shelf = shelf
        self._most = most
        self._held = 0
        self._server: Server | None = None

    async def answer(self, frame: bytes) -> bytes | Refusal:
        """Return the answer to a client's frame, or why the reconciliation cannot go on. Raises StoreError.

        The set is gathered for the first frame. Others get their turn again and again meanwhile.
        """
        try:
            if version_of(frame) != VERSION:
                return bytes([VERSION])
            if self._server is None:
                vector = await self._gather()
                if isinstance(vector, Refusal):
                    return vector
                self._server = Server(vector, max_frame_bytes=MAX_FRAME_BYTES)
            return await _in_turns(self._server.answer(frame))
        except (InvalidFrame, Exhausted) as error:
            return error.refusal

    def close(self) -> None:
        """Let go of the set."""
        self._shelf.held -= self._held
        self._held = 0
        self._server = None

    async def _gather(self) -> Vector | Refusal:
        gathering = Gathering()
        pages = self._pages()
        async with aclosing(pages):
            async for page in pages:
                self._held += len(page)
                self._shelf.held += len(page)
                if self._held > self._most:
                    return Refusal(Prefix.BLOCKED, f"this query matches more than {self._most} events")
                if self._shelf.held > _SETS_AT_A_TIME * self._most:
                    return _NO_ROOM
                await _in_turns(gathering.add(page))
        return await _in_turns(gathering.seal())


async def _in_turns(steps: Generator[None, None, _T]) -> _T:
    """Take the steps, giving others their turn between them; return the result."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            result: _T = done.value
            return result
        await asyncio.sleep(0)
