"""What is found, in which order, and what never is."""

import sqlite3
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.nostr.event import Event
from relay.nostr.filter import Filter
from relay.search.finding import POOL, IndexReader, question_of
from relay.search.index_file import MAX_TS
from relay.search.words import parse_question
from relay.store.api import RemoveEvent, Veil
from tests.events import ALICE, BOB, CAROL, NOW, author, event, note, pubkey
from tests.search.library import SEARCHED, Library, contents

DAY = 86_400


async def test_danish_english_and_japanese_are_found_by_their_words(library: Library) -> None:
    await library.publish(
        note(ALICE, "Rødgrød med fløde på Århus Havn"),
        note(BOB, "A naïve question about the harbour"),
        note(CAROL, "東京の港でラーメンを食べた"),
    )

    assert await library.find("RØDGRØD århus") == ["Rødgrød med fløde på Århus Havn"]
    assert await library.find("rodgrod arhus") == ["Rødgrød med fløde på Århus Havn"]
    assert await library.find("harbour naive") == ["A naïve question about the harbour"]
    assert await library.find("ラーメン") == ["東京の港でラーメンを食べた"]
    assert await library.find("港") == ["東京の港でラーメンを食べた"]
    assert await library.find("京港") == []


async def test_every_word_has_to_be_there(library: Library) -> None:
    await library.publish(note(ALICE, "orange juice"), note(ALICE, "orange"), note(ALICE, "juice"))

    assert await library.find("juice orange") == ["orange juice"]


async def test_better_matches_come_first_not_newer_ones(library: Library) -> None:
    long = "the harbour is mentioned once in this long note about something else entirely. " + "And on. " * 60
    twice = "harbour! I mean the old harbour, where the boats are, not the one behind the station"
    await library.publish(
        note(ALICE, long, created_at=NOW),
        note(ALICE, twice, created_at=NOW - DAY),
        event(
            ALICE,
            30_023,
            "Much text. " * 60,
            created_at=NOW - DAY,
            tags=[["d", "h"], ["title", "The harbour"]],
        ),
    )

    titles = [found.kind for found in await library.found("harbour")]

    assert await library.find("harbour", kinds=[1]) == [twice, long]
    assert titles[-1] == 1


async def test_words_side_by_side_come_before_words_apart(library: Library) -> None:
    together, apart = "we meet at the town square today", "a square table stands in our town hall"
    await library.publish(note(ALICE, together, created_at=NOW - DAY), note(ALICE, apart, created_at=NOW))

    assert await library.find("town square") == [together, apart]
    assert await library.find('"town square"') == [together]


async def test_what_is_spelled_as_asked_comes_first(library: Library) -> None:
    await library.publish(
        note(ALICE, "far er her", created_at=NOW), note(ALICE, "får er dyr", created_at=NOW - 9)
    )

    assert await library.find("får") == ["får er dyr", "far er her"]


async def test_of_equal_matches_the_newest_comes_first(library: Library) -> None:
    await library.publish(
        *(note(ALICE, f"equal note {n}", created_at=NOW - n * DAY) for n in (3, 1, 2)),
        note(BOB, "equal note 4", created_at=NOW - 900 * DAY),
    )

    assert await library.find("equal") == ["equal note 1", "equal note 2", "equal note 3", "equal note 4"]


async def test_the_limit_is_applied_after_ranking(library: Library) -> None:
    best = "pie pie pie, nothing but pie"
    await library.publish(
        note(ALICE, best, created_at=NOW - 100),
        *(
            note(ALICE, f"a {n}th word on pie among many others in a note", created_at=NOW - n)
            for n in range(20)
        ),
    )

    assert await library.find("pie", limit=1) == [best]
    assert len(await library.find("pie", limit=7)) == 7
    assert await library.find("pie", limit=7) == (await library.find("pie"))[:7]


async def test_all_other_conditions_hold(library: Library) -> None:
    wanted = note(
        ALICE, "apple pie", created_at=NOW - 50, tags=[["t", "food"], ["p", BOB.public], ["h", "kitchen"]]
    )
    others = (
        note(BOB, "apple tree", created_at=NOW - 50, tags=[["t", "garden"]]),
        note(ALICE, "apple sauce", created_at=NOW - 500),
        event(ALICE, 11, "apple cake", created_at=NOW - 5),
    )
    await library.publish(wanted, *others)

    assert len(await library.find("apple")) == 4
    for condition in (
        {"authors": [ALICE.public], "kinds": [1], "since": NOW - 50},
        {"#t": ["food", "drink"]},
        {"#p": [BOB.public]},
        {"#h": ["kitchen"], "#t": ["food"]},
        {"since": NOW - 50, "until": NOW - 50, "authors": [ALICE.public]},
        {"ids": [wanted.id]},
        {"ids": [wanted.id], "kinds": [1], "limit": 5},
    ):
        assert await library.find("apple", **condition) == ["apple pie"], condition
    nothings: tuple[dict[str, object], ...] = (
        {"kinds": [7]},
        {"kinds": []},
        {"authors": [CAROL.public]},
        {"since": 5, "until": 4},
        {"until": 0},
    )
    for nothing in nothings:
        assert await library.find("apple", **nothing) == [], nothing
    assert await library.find("pear", ids=[wanted.id]) == []
    assert len(await library.find("apple", until=2**63, since=-5)) == 4
    assert await library.find("apple", since=2**62) == []


async def test_conditions_with_very_many_values_hold_too(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"), note(BOB, "apple tree"))
    crowd = [author(f"somebody {n}").public for n in range(20)]
    strangers = [f"{n:064x}" for n in range(1, 700)]

    assert await library.find("apple", authors=[*strangers[:400], *crowd, BOB.public]) == ["apple tree"]
    assert await library.find("apple", authors=[*strangers, BOB.public]) == ["apple tree"]
    assert await library.find("apple", **{"#t": [str(n) for n in range(700)]}) == []


async def test_extensions_are_ignored(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"))

    assert await library.find("apple language:en include:spam nsfw:false sentiment:negative") == ["apple pie"]


async def test_a_search_for_nothing_but_extensions_is_a_plain_filter(library: Library) -> None:
    await library.publish(
        note(ALICE, "older", created_at=NOW - 9), note(ALICE, "newer"), event(ALICE, 7, "+")
    )

    assert await library.find("include:spam", kinds=[1]) == ["newer", "older"]
    assert await library.find("", kinds=[7]) == ["+"]
    assert await library.find("", kinds=[1], limit=1) == ["newer"]


async def test_only_the_chosen_kinds_are_found(library: Library) -> None:
    await library.publish(
        event(ALICE, 4, "apple secret"), event(ALICE, 1059, "apple wrap"), event(ALICE, 7, "apple")
    )

    assert await library.find("apple") == []
    assert await library.find("apple", kinds=[4, 7]) == []


async def test_profiles_are_found_by_the_beginning_of_a_name(library: Library) -> None:
    def profile(name: str, about: str) -> Event:
        return event(author(name), 0, f'{{"name":"{name}","about":"{about}"}}')

    await library.publish(
        profile("fiatjaf", "wrote nostr"),
        profile("fia", "x"),
        profile("sofia", "fia"),
        note(ALICE, "fiat money"),
    )

    names = [found.content.split('"')[3] for found in await library.found("fia", kinds=[0])]

    assert names == ["fia", "fiatjaf", "sofia"]
    assert len(await library.found("nostr so", kinds=[0])) == 0
    assert len(await library.found("nostr fiatj", kinds=[0])) == 1
    assert [found.kind for found in await library.found("fia")] == [0, 0]


async def test_who_may_not_see_an_event_does_not_find_it(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"), event(BOB, 11, "apple thread"))
    veil = Veil(frozenset({11}), lambda event: event.pubkey != BOB.public)

    assert contents(await library.found("apple", veil)) == ["apple pie"]


async def test_what_is_not_wanted_any_more_does_not_crowd_out_the_rest(library: Library) -> None:
    hidden = [event(BOB, 11, f"apple {n}", created_at=NOW) for n in range(POOL + 10)]
    await library.publish(note(ALICE, "apple pie", created_at=NOW - DAY), *hidden)
    veil = Veil(frozenset({11}), lambda event: False)

    assert contents(await library.found("apple", veil, limit=1)) == ["apple pie"]


async def test_removed_events_are_not_found_though_the_index_still_has_them(library: Library) -> None:
    gone = note(ALICE, "apple pie")
    await library.publish(gone, note(ALICE, "apple tree"))

    await library.remove(RemoveEvent(gone.id, pubkey(ALICE)))

    assert await library.find("apple") == ["apple tree"]


async def test_expired_events_are_not_found(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"), expires_at=NOW + 10)
    assert await library.find("apple") == ["apple pie"]

    library.clock.advance(10)

    assert await library.find("apple") == []


async def test_what_came_after_the_line_is_not_among_the_stored(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"))
    line = await library.store.head()
    await library.publish(note(ALICE, "apple tree"))

    found = [
        row.event().content
        async for page in library.searcher.stored(library.store, Filter(search="apple"), upto=line, now=NOW)
        for row in page
    ]

    assert found == ["apple pie"]


@pytest.mark.parametrize(
    "text",
    (
        '" "" \' * a* ^a NEAR(a,b) AND a{b}:c ( a)OR(b \0 a\0b % \\ ;-- \ue000 \ue0001 word:word : a: :a 🤙 '
        + "x" * 5_000
    ).split(" "),
)
async def test_no_text_is_a_mistake(library: Library, text: str) -> None:
    await library.publish(note(ALICE, "something else"))

    assert len(await library.find(text)) <= 1


@given(st.text(max_size=40))
@settings(max_examples=50)
def test_any_question_can_be_asked(text: str) -> None:
    asked = parse_question(text)
    question = question_of(Filter(), asked, SEARCHED)

    if question is not None:
        connection = sqlite3.connect(":memory:")
        connection.execute("CREATE VIRTUAL TABLE word USING fts5(text, tokenize='ascii')")
        connection.execute("INSERT INTO word VALUES (?)", [" ".join(asked.units)])
        assert connection.execute(
            "SELECT count(*) FROM word WHERE word MATCH ?", [question.match]
        ).fetchone() == (1,)
        connection.close()


async def test_rare_words_are_found_however_old(library: Library) -> None:
    await library.publish(note(ALICE, "a unicorn", created_at=1_000), note(ALICE, "another unicorn"))
    await library.publish(*(note(BOB, f"noise {n}", created_at=NOW - n) for n in range(100)))

    assert await library.find("unicorn") == ["another unicorn", "a unicorn"]


async def test_a_look_that_takes_too_long_ends_with_what_it_found(library: Library) -> None:
    await library.publish(note(ALICE, "apple pie"))
    question = question_of(Filter(), parse_question("apple"), SEARCHED)
    assert question is not None
    reader = IndexReader(library.path)
    ticks = iter([0.0, 9.0])

    pool = reader.find(question, below=MAX_TS, now=NOW, clock=lambda: next(ticks))

    assert (pool.hits, pool.below) == ([], None)
    reader.close()


async def test_live_events_are_matched_by_the_same_words(library: Library) -> None:
    is_found_by = library.searcher.live(note(ALICE, "Rødgrød med fløde"))

    assert is_found_by("rodgrod")
    assert is_found_by("FLØDE nsfw:true")
    assert is_found_by("include:spam")
    assert not is_found_by("rød")
    assert not library.searcher.live(event(ALICE, 7, "apple"))("apple")
    assert library.searcher.live(event(ALICE, 7, "apple"))("")


async def test_the_index_says_how_far_it_is(library: Library) -> None:
    await library.keep(*islice((note(ALICE, f"n {n}") for n in range(9)), 9))
    assert await library.searcher.progress() == (0, 0.0)

    library.catch_up()

    assert await library.searcher.progress() == (9, 1.0)


async def test_kinds_are_told_apart_whether_notes_are_among_them_or_not(library: Library) -> None:
    await library.publish(
        note(ALICE, "apple note"),
        event(ALICE, 11, "apple thread", created_at=NOW - 1),
        event(ALICE, 1068, "apple poll", created_at=NOW - 2),
    )

    assert await library.find("apple", kinds=[1]) == ["apple note"]
    assert await library.find("apple", kinds=[1, 11, 7]) == ["apple note", "apple thread"]
    assert await library.find("apple", kinds=[11, 1068]) == ["apple thread", "apple poll"]
    assert await library.find("apple", kinds=[11]) == ["apple thread"]
    assert await library.find("apple", kinds=[1, 0, 11, 1068, 30_023, 39_000]) == [
        "apple note",
        "apple thread",
        "apple poll",
    ]
