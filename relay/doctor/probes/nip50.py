"""NIP-50: what was published is found by its words, and by them only."""

import asyncio
from secrets import choice

from relay.doctor.outcome import Failed, expect
from relay.doctor.probes.probe import Probe
from relay.doctor.visit import Visit
from relay.doctor.wire import Wire, shown, shown_all
from relay.nostr import kinds
from relay.nostr.filter import Filter

_PATIENCE_SECONDS = 15.0
"""How long an index may lag behind."""
_STEP_SECONDS = 0.25


def _word() -> str:
    """Return a word that nobody has written."""
    return "".join(choice("bdfgklmnprstv") + choice("aeiou") for _ in range(7))


async def found_by_words(visit: Visit) -> None:
    first, second, absent = _word(), _word(), _word()
    author = visit.newcomer()
    both = visit.event(author, content=f"The {first} went to the {second}.")
    one = visit.event(author, content=f"Nobody saw the {second} again.")
    notes = frozenset({kinds.NOTE})
    async with visit.dial() as wire:
        await visit.keep(wire, both, one)
        await _until_found(visit, wire, Filter(kinds=notes, search=first), [both.id])
        await _until_found(visit, wire, Filter(kinds=notes, search=second), sorted([both.id, one.id]))
        for search, right in (
            (f"{first} {second}", [both.id]),
            (first.upper(), [both.id]),
            # "Relays SHOULD ignore extensions they don't support."
            (f"{first} doctor:yes", [both.id]),
            (absent, []),
        ):
            answer = await visit.found(
                wire, Filter(kinds=notes, search=search, authors=frozenset({author.public}))
            )
            expect(
                sorted(answer.ids) == right,
                sent=f"REQ that searches {search!r}",
                expected=", ".join(shown(event) for event in (both, one) if event.id in right) or "nothing",
                came=shown_all(answer.events),
            )
        other = await visit.found(wire, Filter(kinds=frozenset({kinds.PROFILE}), search=first))
        expect(
            not other.events,
            sent=f"REQ that searches {first!r} among profiles",
            expected="nothing: the other conditions count too",
            came=shown_all(other.events),
        )


async def _until_found(visit: Visit, wire: Wire, wanted: Filter, right: list[str]) -> None:
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                answer = await visit.found(wire, wanted)
                if sorted(answer.ids) == right:
                    return
                await visit.pause(_STEP_SECONDS)
    except TimeoutError:
        raise Failed(
            sent=f"REQ that searches {wanted.search!r}, {_PATIENCE_SECONDS:g} s after it was published",
            expected=f"{len(right)} notes",
            came=shown_all(answer.events),
        ) from None


PROBES = (Probe(50, "notes are found by their words, and only by them", found_by_words),)
