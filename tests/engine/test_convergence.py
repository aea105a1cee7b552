"""The order in which events arrive does not matter: relays that know the same events show the same."""

from collections.abc import Sequence
from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from relay import features
from relay.config import RelayConfig
from relay.engine.admission import Admission
from relay.engine.feature import Context
from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.store.api import Outcome, Seq
from relay.store.memory import MemoryStore
from tests.events import ALICE, BOB, NOW, event, note

Recipe = tuple[str, int, int, int]
"""(what, whose, which, when)."""

ADMISSION = Admission(features.enabled(RelayConfig(), Context(key=ALICE), ()))
AUTHORS = (ALICE, BOB)
D = ("x", "a:b")


@cache
def made(recipe: Recipe) -> Event:
    what, whose, which, when = recipe
    key, other = AUTHORS[whose], AUTHORS[which]
    created_at = NOW + when
    match what:
        case "note":
            return note(key, f"{which} {when}", created_at=created_at)
        case "profile":
            return event(key, 0, f"{which}", created_at=created_at)
        case "article":
            return event(key, 30_023, f"{when}", created_at=created_at, tags=[["d", D[which]]])
        case "delete note":
            # Now and then somebody else's.
            tags = [["e", made(("note", whose, which, n)).id] for n in range(when)]
            return event(key, 5, tags=[*tags, ["e", made(("note", 1 - whose, which, when)).id]])
        case "delete deletion":
            return event(key, 5, "again", tags=[["e", made(("delete note", whose, which, when)).id]])
        case "delete article":
            return event(key, 5, created_at=created_at, tags=[["a", f"30023:{other.public}:{D[which]}"]])
        case "delete profile":
            return event(key, 5, "profile", created_at=created_at, tags=[["a", f"0:{other.public}:"]])
        case "wrap":
            return event(key, 1059, f"{when}", tags=[["p", other.public]])
        case "delete wrap":
            return event(key, 5, "wrap", tags=[["e", made(("wrap", which, whose, when)).id]])
    raise AssertionError(what)


recipes = st.tuples(
    st.sampled_from(
        ["note", "profile", "article", "wrap"]
        + [f"delete {what}" for what in ("note", "deletion", "article", "profile", "wrap")]
    ),
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 2),
)


async def shown_after(arriving: Sequence[Event]) -> list[str]:
    """Return the ids of what a relay shows after these events arrived in this order."""
    store = MemoryStore()
    for one in arriving:
        await store.write([ADMISSION.effects(one)])
    pages = [page async for page in store.scan(Filter(), upto=Seq(1000), now=NOW)]
    return [row.id for page in pages for row in page]


@given(data=st.data(), chosen=st.lists(recipes, max_size=14, unique=True))
async def test_any_order_of_arrival_shows_the_same(data: st.DataObject, chosen: list[Recipe]) -> None:
    arriving = [made(recipe) for recipe in chosen]
    shuffled = data.draw(st.permutations(arriving))

    assert await shown_after(shuffled) == await shown_after(arriving)


@given(chosen=st.lists(recipes, max_size=14))
async def test_what_arrives_again_changes_nothing(chosen: list[Recipe]) -> None:
    arriving = [made(recipe) for recipe in chosen]

    assert await shown_after(arriving + arriving) == await shown_after(arriving)


@given(chosen=st.lists(recipes, max_size=14))
async def test_deletion_requests_are_always_kept(chosen: list[Recipe]) -> None:
    store = MemoryStore()

    for recipe in chosen:
        (outcome,) = await store.write([ADMISSION.effects(made(recipe))])
        if recipe[0].startswith("delete"):
            assert outcome in (Outcome.STORED, Outcome.DUPLICATE)
