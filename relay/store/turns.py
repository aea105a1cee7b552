"""Whose turn it is: the event loop's time, divided between the clients of one process.

Work comes in slices of about a millisecond: a step of a question, or the parsing of a large message. What
small questions need is done at once; all else is done one slice at a turn of the loop, the clients one after
the other. So whoever asks for little waits for one slice of somebody's, however many ask for much
(docs/decisions/0004).
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from contextvars import ContextVar
from time import thread_time
from typing import TypeVar

_R = TypeVar("_R")

LARGE_SECONDS = 0.004
"""Whose questions take longer than this asks for much; nine of ten questions take less than 2 ms."""
TURN_SECONDS = 0.0015
"""After so long nothing more is done at once in one turn of the loop."""
_SMALL_AT_ONCE = 4
"""Small questions that waited and go on in one turn of the loop."""
_PASSED_OVER = 4
"""After so many turns that went to small questions a large one has one."""


class Account:
    """What one client's questions cost, by the thread's own clock: a busy machine makes no question large."""

    __slots__ = ("_usual", "seconds", "turns")

    def __init__(self, turns: "Turns") -> None:
        self.turns = turns
        self.seconds = 0.0
        """Spent since the client's latest question came."""
        self._usual = 0.0
        """Seconds that its questions took lately, the latest most."""

    def asks(self) -> None:
        """A question comes: what was spent until now was spent on those before."""
        self._usual = (self._usual + self.seconds) / 2
        self.seconds = 0.0

    def measure(self, work: Callable[[], _R]) -> _R:
        """Do a slice of work and count its time."""
        began = thread_time()
        done = work()
        self.seconds += thread_time() - began
        return done

    @property
    def is_large(self) -> bool:
        """Whether this client asks for much: its present question, or those before."""
        return self.seconds > LARGE_SECONDS or self._usual > LARGE_SECONDS


class Turns:
    """The turns of one event loop."""

    def __init__(self) -> None:
        self._small, self._large = _Line(), _Line()
        self._ends_at: float | None = None
        """When the present turn of the loop is over for what need not wait; None where nothing was done."""
        self._passed_over = 0

    def may_begin(self, account: Account) -> bool:
        """Say whether a slice need not wait. It must be begun now, and its time put on the account."""
        if account.is_large or self._small or (self._ends_at is not None and thread_time() >= self._ends_at):
            return False
        self._begin()
        return True

    async def take(self, account: Account) -> None:
        """Wait until a slice may be worked on. It must be begun at once, and its time put on the account."""
        if self.may_begin(account):
            return
        line = self._large if account.is_large else self._small
        while True:
            waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            line.append(account, waiting)
            self._begin()
            try:
                is_first = await waiting
            except asyncio.CancelledError:
                line.remove(account, waiting)
                raise
            if is_first or self._ends_at is None or thread_time() < self._ends_at:
                return

    def _begin(self) -> None:
        if self._ends_at is None:
            self._ends_at = thread_time() + TURN_SECONDS
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        """The loop has come round."""
        self._ends_at = None
        if self._small and (not self._large or self._passed_over < _PASSED_OVER):
            self._passed_over += 1
            self._small.let_go(_SMALL_AT_ONCE)
        else:
            self._passed_over = 0
            self._large.let_go(1)
        if self._small or self._large:
            self._begin()


class _Line:
    """Slices that wait, of each client in their order, and the clients in turn."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Account, deque[asyncio.Future[bool]]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def append(self, account: Account, slice_: asyncio.Future[bool]) -> None:
        """Put a slice behind those of its client."""
        self._waiting.setdefault(account, deque()).append(slice_)

    def remove(self, account: Account, slice_: asyncio.Future[bool]) -> None:
        """Take out a slice whose question was given up; it may have been let go."""
        slices = self._waiting.get(account)
        if slices is not None and slice_ in slices:
            slices.remove(slice_)
            if not slices:
                del self._waiting[account]

    def let_go(self, count: int) -> None:
        """Let so many go on; all but the first only if there is time left in the turn."""
        is_first = True
        while count and self._waiting:
            account, slices = self._waiting.popitem(last=False)
            slice_ = slices.popleft()
            if slices:
                self._waiting[account] = slices
            if not slice_.done():
                slice_.set_result(is_first)
                is_first = False
                count -= 1


client: ContextVar[Account] = ContextVar("client")
"""The account of the client whose message is acted on. Tasks inherit it from who starts them, so that nobody
between a connection and the store has to pass it on."""
