"""How much work a question is: measured while it is answered, and stopped when it is too much.

Counted is the time in which this process works on the question, not that in which it waits.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sized
from contextlib import aclosing
from time import perf_counter
from typing import Any, Generic, TypeVar, cast

from relay.engine.feature import Charge
from relay.engine.sifting import Exhausted
from relay.nostr.reasons import Refusal

T = TypeVar("T")
Page = TypeVar("Page", bound=Sized)


async def metered(
    pages: AsyncIterator[Page], charge: Charge, clock: Callable[[], float] = perf_counter
) -> AsyncIterator[Page]:
    """Yield the pages, telling `charge` what they cost. Raises Exhausted when that says so."""
    async with aclosing(cast(Any, pages)):
        while True:
            try:
                page = await Metered(anext(pages), charge, clock)
            except StopAsyncIteration:
                return
            # What was found is sent: it has been paid for.
            refusal = charge(0.0, len(page))
            yield page
            if refusal is not None:
                raise Exhausted(refusal)


class Metered(Generic[T]):
    """Awaits some work, telling `charge` what each of its steps cost. Raises Exhausted."""

    def __init__(self, work: Awaitable[T], charge: Charge, clock: Callable[[], float] = perf_counter) -> None:
        self._work = work
        self._charge = charge
        self._clock = clock

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._work.__await__()
        thrown: BaseException | None = None
        is_stopping = False
        while True:
            began = self._clock()
            try:
                awaited = steps.send(None) if thrown is None else steps.throw(thrown)
            except StopIteration as done:
                self._pay(began)
                result: T = done.value
                return result
            thrown = None
            refusal = self._pay(began)
            if refusal is not None and not is_stopping:
                # It may have to let go of something, and to wait for that.
                is_stopping = True
                thrown = Exhausted(refusal)
                continue
            try:
                yield awaited
            except BaseException as error:  # to be passed on, whatever it is
                thrown = error

    def _pay(self, began: float) -> Refusal | None:
        return self._charge(self._clock() - began, 0)
