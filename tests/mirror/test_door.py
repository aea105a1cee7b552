"""What may leave for other relays: what anybody may read here, and less."""

from pathlib import Path
from typing import Any

import pytest

from relay.engine.jobs import close
from relay.features.groups.vocabulary import CREATE_GROUP, EDIT_METADATA
from relay.mirror.door import PRIVATE
from relay.mirror.house import House
from relay.nostr.event import Event, encode
from relay.nostr.filter import Filter
from relay.nostr.reasons import Refusal
from relay.store.api import Seq
from tests.events import ALICE, BOB, NOW, event, note
from tests.mirror.houses import KEY, held, house_of, keep

HIDDEN = "not for everybody"
TO_BOB = [["p", BOB.public]]
LEAVING: dict[str, Event] = {
    "a note": note(ALICE),
    "a profile": event(ALICE, 0),
    "a deletion": event(ALICE, 5, tags=[["e", "ab" * 32]]),
    "what will expire": note(ALICE, tags=[["expiration", str(NOW + 60)]]),
    "a request to vanish from everywhere": event(ALICE, 62, tags=[["relay", "ALL_RELAYS"]]),
    "a repost": event(BOB, 6, encode(note(ALICE)).decode(), tags=[["e", "ab" * 32]]),
    "a vote": event(ALICE, 1018, tags=[["e", "ab" * 32], ["response", "yes"]]),
}
STAYING: dict[str, Event] = {
    "an encrypted message": event(ALICE, 4, tags=TO_BOB),
    "a seal": event(ALICE, 13),
    "a chat message": event(ALICE, 14, tags=TO_BOB),
    "a file message": event(ALICE, 15, tags=TO_BOB),
    "a gift wrap": event(ALICE, 1059, tags=TO_BOB),
    "another wrap": event(ALICE, 1060, tags=TO_BOB),
    "an ephemeral gift wrap": event(ALICE, 21059, tags=TO_BOB),
    "a protected note": note(ALICE, tags=[["-"]]),
    "a protected note, with more in the tag": note(ALICE, tags=[["t", "x"], ["-", "please"]]),
    "a repost that carries a protected note": event(
        BOB, 6, encode(note(ALICE, tags=[["-"]])).decode(), tags=[["e", "ab" * 32]]
    ),
    "an ephemeral event": event(ALICE, 20_001),
    "what has expired": note(ALICE, tags=[["expiration", str(NOW)]]),
    "a group's metadata": event(BOB, 39_000, tags=[["d", "square"]]),
    "a group's members": event(BOB, 39_002, tags=[["d", "square"]]),
    "a list of members": event(BOB, 13_534),
    "a member added": event(BOB, 8_000, tags=TO_BOB),
    "a role": event(BOB, 33_534, tags=[["d", "king"]]),
    "a tally of this relay": event(KEY, 31_068, tags=[["d", "ab" * 32]]),
    "an announcement of this relay": event(KEY, 30_166, tags=[["d", "wss://here.example"]]),
    "a request to vanish from here": event(ALICE, 62, tags=[["relay", "wss://here.example"]]),
    "a group's management": event(ALICE, 9_000, tags=[["h", "square"], ["p", BOB.public]]),
    "a request to join": event(ALICE, 9_021, tags=[["h", "square"], ["code", "secret"]]),
    "a word in a group that lives elsewhere": note(ALICE, tags=[["h", "unknown"]]),
}


@pytest.mark.parametrize("leaving", LEAVING.values(), ids=LEAVING)
def test_what_is_for_everybody_may_leave(leaving: Event) -> None:
    assert house_of().door.withheld(leaving) is None


@pytest.mark.parametrize("staying", STAYING.values(), ids=STAYING)
@pytest.mark.parametrize("settings", [{}, {"groups": {"enabled": False}}], ids=["groups", "no groups"])
def test_what_is_not_for_everybody_stays(staying: Event, settings: Any) -> None:
    assert house_of(**settings).door.withheld(staying) is not None


@pytest.mark.parametrize(
    ("flags", "leaves"),
    [
        ([], True),
        ([["restricted"]], True),
        ([["closed"]], True),
        ([["private"]], False),
        ([["hidden"]], False),
        ([["private"], ["hidden"]], False),
    ],
    ids=str,
)
async def test_only_open_groups_words_leave(flags: list[list[str]], leaves: bool) -> None:
    house = house_of()
    word = note(ALICE, "hello", tags=[["h", "square"]])
    await keep(
        house,
        [
            event(ALICE, CREATE_GROUP, tags=[["h", "square"]]),
            event(ALICE, EDIT_METADATA, tags=[["h", "square"], ["name", "Square"], *flags]),
            word,
        ],
    )
    house.relay.catch_up()

    assert (house.door.withheld(word) is None) is leaves
    both = note(ALICE, tags=[["h", "square"], ["h", "unknown"]])
    assert house.door.withheld(both) is not None


async def test_what_a_veil_hides_is_not_even_compared() -> None:
    house = house_of(auth={"read_kinds": [30_382]})
    shown = [note(ALICE), note(ALICE, "other", created_at=NOW - 1)]
    hidden = [event(ALICE, 4, tags=TO_BOB), event(BOB, 1059, tags=TO_BOB), event(ALICE, 30_382)]
    await keep(house, [*shown, *hidden])

    items, cut = await house.door.items(Filter(), most=100)

    assert {id_.hex() for _, id_ in items} == {one.id for one in shown}
    assert cut is None
    assert await house.door.events([one.id for one in (*shown, *hidden)], Filter()) == [shown[1], shown[0]]
    assert house.door.withheld(hidden[2]) == "not for everybody"


async def test_a_private_groups_words_are_not_even_compared() -> None:
    house = house_of()
    await keep(
        house,
        [
            event(ALICE, CREATE_GROUP, tags=[["h", "square"]]),
            event(ALICE, EDIT_METADATA, tags=[["h", "square"], ["private"]]),
            note(ALICE, "hello", tags=[["h", "square"]]),
            note(BOB),
        ],
    )

    items, _ = await house.door.items(Filter(kinds=frozenset({1})), most=100)

    assert [id_.hex() for _, id_ in items] == [note(BOB).id]


async def test_what_only_some_may_read_does_not_leave_at_all() -> None:
    house = house_of(auth={"read": True})
    await keep(house, [note(ALICE)])

    assert isinstance(house.door.narrow(Filter()), Refusal)
    assert await house.door.items(Filter(), most=100) == ([], None)
    assert await house.door.events([note(ALICE).id], Filter()) == []


async def test_only_what_strangers_may_ask_for_leaves() -> None:
    house = house_of(policies={"reading": {"kinds": ["1"]}})
    await keep(house, [note(ALICE), event(ALICE, 7)])
    notes_only, all_kinds = Filter(kinds=frozenset({1})), Filter()

    assert await judged(house, notes_only, all_kinds) == {note(ALICE).id: None, event(ALICE, 7).id: HIDDEN}
    assert len((await house.door.items(notes_only, most=100))[0]) == 1
    assert await house.door.events([note(ALICE).id, event(ALICE, 7).id], notes_only) == [note(ALICE)]
    assert await house.door.items(all_kinds, most=100) == ([], None)


async def test_what_a_plugin_hides_from_strangers_neither_leaves_nor_is_compared() -> None:
    hide = Path(__file__).parents[2] / "docs/operating/examples/hide_drafts.py"
    house = house_of(plugins={"read": {"command": str(hide), "seconds": 60}})
    shown, draft = note(ALICE), event(ALICE, 31_234, "draft", tags=[["d", "x"]])
    await keep(house, [shown, draft])
    try:
        items, _ = await house.door.items(Filter(), most=100)
        assert [id_.hex() for _, id_ in items] == [shown.id]
        assert await house.door.events([shown.id, draft.id], Filter()) == [shown]
        assert await judged(house, Filter()) == {shown.id: None, draft.id: HIDDEN}
    finally:
        await close(house.relay.features)


async def judged(house: House, *filters: Filter) -> dict[str, str | None]:
    head = await house.store.head()
    pages = house.store.log(after=Seq(0), upto=head, now=NOW)
    rows = [row async for page in pages for row in page]
    return {one.id: reason for one, reason in await house.door.judged(rows, filters)}


def test_asking_for_letters_alone_is_refused() -> None:
    refusal = house_of().door.narrow(Filter(kinds=frozenset({4, 1059})))

    assert isinstance(refusal, Refusal)
    assert {4, 1059} <= PRIVATE


async def test_many_events_are_compared_in_whole_seconds_the_newest_first() -> None:
    house = house_of()
    # Three in each second.
    events = [note(ALICE, f"{n}", created_at=NOW - n // 3) for n in range(3_000)]
    await keep(house, events)
    wanted, seen = Filter(), []

    while True:
        items, cut = await house.door.items(wanted, most=700)
        times = {time for time, _ in items}
        assert len(items) == 3 * len(times)
        seen += items
        if cut is None:
            break
        assert min(times) == cut
        wanted = Filter(until=cut - 1)

    assert {id_.hex() for _, id_ in seen} == await held(house)
    assert len(seen) == 3_000


async def test_one_full_second_is_compared_whole() -> None:
    house = house_of()
    await keep(house, [note(ALICE, f"{n}") for n in range(1_500)])

    items, cut = await house.door.items(Filter(), most=100)

    assert (len(items), cut) == (1_500, None)
