"""NIP-88: votes are counted exactly, in any order; refused where they cannot count; told, signed, audited."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from relay.assembly import relay_features, tables_of
from relay.config import AuthConfig, PollsConfig, RelayConfig
from relay.engine.feature import Feature, HttpRequest, Origin
from relay.features import nip62
from relay.features.nip88 import Tending, count_and_keep
from relay.features.polls.counting import (
    COUNTED_AT_ONCE,
    DUE,
    NAME,
    TALLY,
    UNCOUNTED,
    Counting,
    Tally,
    read_tally,
    voters_prefix,
)
from relay.features.polls.page import Page
from relay.nostr import nip19, polls
from relay.nostr.event import Event, decode
from relay.nostr.filter import Filter
from relay.nostr.keys import SecretKey
from relay.nostr.nip19 import Naddr, Nevent, Note
from relay.nostr.tags import Address
from relay.store.api import MAX_SEQ, RemoveEvent, Seq, Store, Veil, Write
from relay.store.memory import MemoryStore
from relay.store.sqlite import SqliteStore
from tests.events import ALICE, BOB, CAROL, DAVE, NOW, Clock, author, event, pubkey, write
from tests.features.test_nip77 import reconcile
from tests.net.house import RELAY_KEY, UNVEILED, URL, Client, House, values

END = NOW + 100
OPTIONS = (["option", "tea", "Tea"], ["option", "milk", "Milk"], ["option", "beer", "Beer"])


def poll(*tags: Sequence[str], ends: int | None = END, created_at: int = NOW) -> Event:
    until = [] if ends is None else [["endsAt", str(ends)]]
    return event(ALICE, 1068, "What do you drink?", created_at=created_at, tags=[*OPTIONS, *until, *tags])


def vote(key: SecretKey, about: Event, *choices: str, created_at: int = NOW) -> Event:
    tags = [["e", about.id], *(["response", choice] for choice in choices)]
    return event(key, 1018, created_at=created_at, tags=tags)


def tally_of(store: Store, about: Event) -> Tally:
    record = store.record(NAME, TALLY + about.id)
    assert record is not None
    return read_tally(record)


def counts(store: Store, about: Event) -> tuple[list[int], int]:
    tally = tally_of(store, about)
    return tally.counts, tally.voters


async def tend(house: House) -> None:
    await Tending(house.desk, RELAY_KEY).run(house.clock())


async def stored_votes(store: Store) -> list[Event]:
    found = Filter(kinds=frozenset([1018]))
    return [row.event() async for page in store.scan(found, upto=Seq(MAX_SEQ), now=NOW) for row in page]


async def events_of(client: Client, *filters: Any) -> list[Event]:
    """Return the stored events that match."""
    answers = await client.request("REQ", "find", *filters)
    client.send("CLOSE", "find")
    return [decode(orjson.dumps(answer[2])) for answer in answers[:-1]]


# What counts.


async def test_votes_are_counted_as_they_come(house: House, client: Client) -> None:
    asked = poll()
    for one in (asked, vote(BOB, asked, "tea"), vote(CAROL, asked, "milk"), vote(DAVE, asked, "tea")):
        assert await client.publish(one) == (True, "")

    assert counts(house.store, asked) == ([2, 1, 0], 3)


async def test_a_later_vote_takes_the_place_of_an_earlier_one(house: House, client: Client) -> None:
    asked = poll()
    await client.publish(asked)
    await client.publish(vote(BOB, asked, "tea", created_at=NOW - 1))
    await client.publish(vote(BOB, asked, "milk", created_at=NOW - 9))
    assert counts(house.store, asked) == ([1, 0, 0], 1)

    await client.publish(vote(BOB, asked, "beer"))

    assert counts(house.store, asked) == ([0, 0, 1], 1)


async def test_several_choices_count_where_the_poll_takes_them(house: House, client: Client) -> None:
    asked = poll(["polltype", "multiplechoice"])
    await client.publish(asked)
    await client.publish(vote(BOB, asked, "tea", "beer", "tea"))

    assert counts(house.store, asked) == ([1, 0, 1], 1)


async def test_votes_count_that_came_before_their_poll(house: House, client: Client) -> None:
    asked = poll()
    await client.publish(vote(BOB, asked, "tea"))
    await client.publish(vote(CAROL, asked, "wine"))
    await client.publish(vote(DAVE, asked, "wine", created_at=NOW))
    await client.publish(vote(DAVE, asked, "milk", created_at=NOW - 1))

    await client.publish(asked)

    assert counts(house.store, asked) == ([1, 1, 0], 2)


async def test_very_many_votes_before_their_poll_are_counted_in_slices(house: House) -> None:
    asked, voters = poll(), [author(f"voter {n}") for n in range(COUNTED_AT_ONCE + 50)]
    writes = [house.relay.admission.effects(vote(key, asked, "tea")) for key in voters]
    await house.store.write([*writes, house.relay.admission.effects(asked)])
    assert counts(house.store, asked) == ([COUNTED_AT_ONCE, 0, 0], COUNTED_AT_ONCE)

    # What changes meanwhile is counted once, whether or not it was its turn.
    changed = [vote(key, asked, "milk", created_at=NOW + 1) for key in (*voters[:40], author("new"))]
    await house.store.write([house.relay.admission.effects(one) for one in changed])
    await tend(house)

    assert counts(house.store, asked) == ([COUNTED_AT_ONCE + 10, 41, 0], COUNTED_AT_ONCE + 51)
    assert house.store.records(NAME, UNCOUNTED) == []


# What is refused.


@pytest.mark.parametrize(
    ("choice", "at", "reason"),
    [
        ("wine", NOW, "invalid: the poll has no such option"),
        ("tea", END + 1, "invalid: the poll has ended"),
        ("tea", NOW - 301, "invalid: a vote is taken until it is 300 seconds old"),
    ],
)
async def test_a_vote_that_cannot_count_is_refused(
    house: House, client: Client, choice: str, at: int, reason: str
) -> None:
    asked = poll()
    await client.publish(asked)

    assert await client.publish(vote(BOB, asked, choice, created_at=at)) == (False, reason)

    assert counts(house.store, asked) == ([0, 0, 0], 0)
    assert await client.find({"kinds": [1018]}) == []


async def test_polls_with_none_or_a_thousand_options_are_refused(client: Client) -> None:
    for tags in ([], [["option", str(n), "x"] for n in range(1_000)]):
        assert await client.publish(event(ALICE, 1068, tags=tags)) == (
            False,
            "invalid: a poll has 1 to 100 options",
        )


async def test_a_vote_for_nothing_is_refused(client: Client) -> None:
    assert await client.publish(event(BOB, 1018)) == (False, "invalid: a vote names its poll by an e tag")


async def test_one_key_does_not_vote_without_end(house: House, client: Client) -> None:
    asked = poll()
    await client.publish(asked)
    for n in range(32):
        assert await client.publish(vote(BOB, asked, "tea", created_at=NOW - n)) == (True, "")

    assert await client.publish(vote(BOB, asked, "milk", created_at=NOW + 1)) == (
        False,
        "blocked: one key votes 32 times at most in one poll",
    )
    assert counts(house.store, asked) == ([1, 0, 0], 1)


# What goes.


async def test_a_vote_is_not_deleted_but_vanishes(house: House, client: Client) -> None:
    asked = poll()
    cast = vote(BOB, asked, "tea")
    for one in (asked, cast, vote(CAROL, asked, "tea")):
        await client.publish(one)

    await client.publish(event(BOB, 5, created_at=NOW + 1, tags=[["e", cast.id]]))
    assert counts(house.store, asked) == ([2, 0, 0], 2)

    await client.publish(event(BOB, 62, created_at=NOW + 1, tags=[["relay", "ALL_RELAYS"]]))
    assert counts(house.store, asked) == ([1, 0, 0], 1)
    assert len(house.store.records(NAME, voters_prefix(asked.id))) == 1


async def test_a_vote_that_does_not_count_vanishes_without_a_trace_in_the_tally(
    house: House, client: Client
) -> None:
    asked = poll()
    await client.publish(asked)
    await client.publish(vote(BOB, asked, "tea", created_at=NOW - 5))
    latest = vote(BOB, asked, "milk", created_at=NOW)
    await client.publish(latest)
    await house.store.write(
        [write(event(DAVE, 5, created_at=NOW), removals=(RemoveEvent(latest.id, pubkey(BOB)),))]
    )
    assert counts(house.store, asked) == ([0, 1, 0], 1)

    gone = event(BOB, 62, created_at=NOW - 1, tags=[["relay", "ALL_RELAYS"]])
    await client.publish(gone)

    assert counts(house.store, asked) == ([0, 1, 0], 1)


async def test_a_vote_is_deleted_where_the_operator_lets_it(clock: Clock) -> None:
    async with House(clock, RelayConfig(polls=PollsConfig(deletable_votes=True))) as house:
        client, asked = await house.connect(), poll()
        first, second = vote(BOB, asked, "tea", created_at=NOW - 1), vote(BOB, asked, "milk")
        for one in (asked, first, second):
            await client.publish(one)

        await client.publish(event(BOB, 5, tags=[["e", second.id]]))
        assert counts(house.store, asked) == ([1, 0, 0], 1)
        await client.publish(event(BOB, 5, tags=[["e", first.id]]))
        assert counts(house.store, asked) == ([0, 0, 0], 0)


async def test_a_deleted_poll_is_not_counted_any_more(house: House, client: Client) -> None:
    asked = poll()
    await client.publish(asked)
    await client.publish(vote(BOB, asked, "tea"))

    await client.publish(event(ALICE, 5, created_at=NOW + 1, tags=[["e", asked.id]]))

    assert house.store.record(NAME, TALLY + asked.id) is None
    assert await client.publish(vote(CAROL, asked, "tea")) == (True, "")
    house.clock.advance(1_000)
    await tend(house)
    assert await client.find({"kinds": [31_068]}) == []


def kept(one: Event) -> Write:
    if one.kind == 62:
        return nip62.remove_all(write(one))
    counted = write(one, tables=(NAME,))
    return count_and_keep(counted) if one.kind == 1018 else counted


def happenings(chance: random.Random) -> tuple[Event, list[Event]]:
    """Return a poll, and in any order it, votes of few keys for it, copies of them, and who vanishes."""
    kind = chance.choice(["singlechoice", "multiplechoice"])
    asked = poll(["polltype", kind], ends=chance.choice([None, NOW + 20]), created_at=NOW - 50)
    keys = [author(f"voter {n}") for n in range(8)]
    votes = [
        vote(
            chance.choice(keys),
            asked,
            *chance.choices(["tea", "milk", "beer", "wine"], weights=[9, 9, 9, 2], k=chance.randint(1, 3)),
            created_at=NOW + chance.randint(0, 30),
        )
        for _ in range(60)
    ]
    gone = [
        event(chance.choice(keys), 62, created_at=NOW + chance.randint(0, 30), tags=[["relay", "ALL_RELAYS"]])
        for _ in range(3)
    ]
    all_of_it = [asked, *votes, *chance.sample(votes, 10), *gone]
    chance.shuffle(all_of_it)
    return asked, all_of_it


@pytest.mark.parametrize("seed", range(25))
async def test_a_tally_is_what_counting_all_votes_gives(seed: int) -> None:
    asked, events = happenings(random.Random(seed))
    store = MemoryStore([Counting(RELAY_KEY, 300).table()], now=Clock())

    for one in events:
        await store.write([kept(one)])

    assert tally_of(store, asked).result() == polls.count(polls.parse_poll(asked), await stored_votes(store))


async def test_a_tally_is_exact_in_the_real_store_too(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "torv.sqlite3", tables=[Counting(RELAY_KEY, 300).table()])
    for seed in range(100, 103):
        asked, events = happenings(random.Random(seed))
        for start in range(0, len(events), 20):
            await store.write([kept(one) for one in events[start : start + 20]])

        found = await stored_votes(store)
        assert tally_of(store, asked).result() == polls.count(polls.parse_poll(asked), found)
    await store.close()


# What is told.


async def test_watchers_hear_how_it_stands_without_the_votes(house: House, client: Client) -> None:
    asked, watcher = poll(), await house.connect()
    tending = Tending(house.desk, RELAY_KEY)
    await tending.run(NOW)
    await client.publish(asked)
    await watcher.subscribe("watch", {"kinds": [21_068], "#e": [asked.id]})

    for n in range(5):
        await client.publish(vote(author(f"voter {n}"), asked, "milk"))
    await tending.run(NOW)
    await tending.run(NOW)

    told = [decode(orjson.dumps(message[2])) for message in await watcher.heard()]
    assert [one.pubkey for one in told] == [RELAY_KEY.public]
    assert polls.parse_tally(told[0])[:2] == ({"tea": 0, "milk": 5, "beer": 0}, 5)


def page_of(house: House) -> Page:
    return Page(house.desk, RELAY_KEY.public, house.clock)


async def shown(page: Page, name: str, veil: Veil = UNVEILED, /, **query: str) -> tuple[int, dict[str, Any]]:
    answer = await page.answer(HttpRequest(f"/api/poll/{name}", "relay.test", URL, veil, query))
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.content_type == "application/json"
    return answer.status, orjson.loads(answer.body)


async def test_the_page_shows_the_tally(house: House, client: Client) -> None:
    asked = poll()
    for one in (asked, vote(BOB, asked, "tea"), vote(CAROL, asked, "milk"), vote(DAVE, asked, "tea")):
        await client.publish(one)
    page = page_of(house)

    status, body = await shown(page, asked.id)

    fingerprint = body.pop("fingerprint")
    assert (status, body) == (
        200,
        {
            "id": asked.id,
            "pubkey": ALICE.public,
            "created_at": NOW,
            "question": "What do you drink?",
            "polltype": "singlechoice",
            "options": [
                {"id": "tea", "label": "Tea", "votes": 2},
                {"id": "milk", "label": "Milk", "votes": 1},
                {"id": "beer", "label": "Beer", "votes": 0},
            ],
            "voters": 3,
            "ends_at": END,
            "closed": False,
            "complete": True,
            "curated": False,
            "tally": None,
        },
    )
    assert len(fingerprint) == 32
    for name in (nip19.encode(Note(asked.id)), nip19.encode(Nevent(asked.id))):
        assert (await shown(page, name))[1]["id"] == asked.id


async def test_the_page_counts_the_votes_of_a_set(house: House, client: Client) -> None:
    asked = poll()
    friends = event(
        ALICE, 30_000, tags=[["d", "friends"], ["p", BOB.public], ["p", CAROL.public], ["p", "x"]]
    )
    for one in (
        asked,
        friends,
        vote(BOB, asked, "tea"),
        vote(DAVE, asked, "tea"),
        vote(CAROL, asked, "beer"),
    ):
        await client.publish(one)
    page, address = page_of(house), Address(30_000, ALICE.public, "friends")

    for named in (str(address), nip19.encode(Naddr(address))):
        status, body = await shown(page, asked.id, set=named)
        assert (status, [option["votes"] for option in body["options"]], body["voters"]) == (
            200,
            [1, 0, 1],
            2,
        )
        assert body["curated"] is True


async def test_the_page_counts_votes_that_carry_work(house: House, client: Client) -> None:
    asked = poll()
    await client.publish(asked)
    cast = [vote(author(f"voter {n}"), asked, "tea") for n in range(24)]
    for one in cast:
        await client.publish(one)
    worked = sum(one.id[0] in "01" for one in cast)

    _, body = await shown(page_of(house), asked.id, min_pow="3")

    assert 0 < worked < 24
    assert (body["voters"], body["options"][0]["votes"]) == (worked, worked)


@pytest.mark.parametrize(
    ("name", "query", "status", "error"),
    [
        ("ab", {}, 404, "name a poll by its id: 64 hex digits, note1… or nevent1…"),
        ("00" * 32, {}, 404, "there is no such poll here"),
        ("", {"min_pow": "much"}, 400, "min_pow is a number of bits"),
        ("", {"min_pow": "257"}, 400, "min_pow is a number of bits"),
        ("", {"set": "x"}, 400, "set is a list of people: naddr1… or kind:pubkey:d, of kind 3 or 30000"),
        ("", {"set": f"30000:{BOB.public}:x"}, 404, "this relay does not have that set"),
    ],
)
async def test_the_page_says_what_it_cannot_answer(
    house: House, client: Client, name: str, query: dict[str, str], status: int, error: str
) -> None:
    asked = poll()
    await client.publish(asked)

    assert await shown(page_of(house), name or asked.id, **query) == (status, {"error": error})


async def test_a_groups_poll_is_counted_but_not_shown_to_everybody(house: House, client: Client) -> None:
    asked, tending = poll(["h", "members"]), Tending(house.desk, RELAY_KEY)
    await house.store.write([kept(asked), kept(vote(BOB, asked, "tea"))])
    house.clock.advance(1_000)

    await tending.run(house.clock())

    assert counts(house.store, asked) == ([1, 0, 0], 1)
    assert (await shown(page_of(house), asked.id))[0] == 404
    assert await client.find({"kinds": [31_068]}) == []


def polling(config: RelayConfig, house: House | None = None) -> Feature:
    house = house or House(Clock(), config)
    (found,) = [one for one in house.relay.features if one.title == "Polls"]
    return found


async def test_the_page_shows_nothing_that_is_veiled(clock: Clock) -> None:
    async with House(clock, RelayConfig(auth=AuthConfig(read_kinds=(30_000, 31_068)))) as house:
        asked, friends = poll(), event(ALICE, 30_000, tags=[["d", "friends"], ["p", BOB.public]])
        client = await house.connect()
        for one in (asked, vote(BOB, asked, "tea"), friends):
            await client.publish(one)
        clock.advance(1_000)
        await tend(house)
        veil, page = house.relay.veil(Origin("", URL)), page_of(house)

        named = str(Address(30_000, ALICE.public, "friends"))
        assert (await shown(page, asked.id, veil, set=named))[0] == 404
        assert (await shown(page, asked.id, set=named))[1]["voters"] == 1
        assert (await shown(page, asked.id, veil))[1]["tally"] is None
        assert (await shown(page, asked.id))[1]["tally"]["kind"] == 31_068


async def test_polls_that_the_settings_made_private_are_told_to_nobody(clock: Clock, tmp_path: Path) -> None:
    asked = poll()
    public, private = RelayConfig(), RelayConfig(auth=AuthConfig(read_kinds=(1_018,)))
    async with counting_store(tmp_path, public, clock) as store, House(clock, public, store=store) as house:
        await (await house.connect()).publish(asked)
    async with counting_store(tmp_path, private, clock) as store, House(clock, private, store=store) as house:
        client = await house.connect()
        await client.subscribe("how it stands", {"kinds": [21_068], "#e": [asked.id]})
        polls_ = polling(private, house)
        (job,) = polls_.jobs
        await job.run(clock())
        await client.publish(vote(BOB, asked, "tea"))
        await job.run(clock())
        clock.advance(1_000)
        await job.run(clock())

        assert polls_.routes == ()
        assert await client.live() == []
        assert await client.find({"kinds": [31_068]}) == []
        assert store.records(NAME, DUE) == []


@asynccontextmanager
async def counting_store(folder: Path, config: RelayConfig, clock: Clock) -> AsyncIterator[SqliteStore]:
    tables = tables_of(relay_features(config, RELAY_KEY))
    store = await SqliteStore.open(folder / "torv.sqlite3", tables=tables, now=clock)
    try:
        yield store
    finally:
        await store.close()


def test_where_reading_takes_a_key_there_is_no_page() -> None:
    assert [route.path for route in polling(RelayConfig()).routes] == ["/api/poll/*"]
    assert polling(RelayConfig(auth=AuthConfig(read=True))).routes == ()


@pytest.mark.parametrize(
    ("kinds", "pages"), [([], 0), (["1018"], 0), (["30000-30010"], 0), (["31068"], 0), (["1", "9"], 1)]
)
def test_where_a_program_may_hide_what_is_counted_there_is_no_page(kinds: list[str], pages: int) -> None:
    hiding = RelayConfig.model_validate({"plugins": {"read": {"command": "/bin/true", "kinds": kinds}}})

    assert len(polling(hiding).routes) == pages


# What is signed.


async def test_the_relay_signs_one_tally_after_the_end(house: House, client: Client) -> None:
    asked = poll()
    for one in (asked, vote(BOB, asked, "tea"), vote(CAROL, asked, "milk", created_at=END)):
        await client.publish(one)
    house.clock.advance(100 + 304)
    await tend(house)
    assert await client.find({"kinds": [31_068]}) == []

    house.clock.advance(1)
    for _ in range(2):
        await tend(house)
        house.clock.advance(1)

    (tally,) = await events_of(client, {"kinds": [31_068], "#d": [asked.id], "authors": [RELAY_KEY.public]})
    assert polls.parse_tally(tally)[:2] == ({"tea": 1, "milk": 1, "beer": 0}, 2)
    assert tally.created_at == NOW + 405
    _, body = await shown(page_of(house), asked.id)
    assert (body["closed"], body["tally"]) == (True, orjson.loads(orjson.dumps(values(tally))))


async def test_a_poll_that_ended_before_it_came_is_not_signed(house: House, client: Client) -> None:
    asked = poll(ends=NOW - 5_000, created_at=NOW - 9_000)
    await client.publish(asked)

    await tend(house)

    assert await client.find({"kinds": [31_068]}) == []


async def test_a_second_relay_audits_the_tally(clock: Clock) -> None:
    asked, other = poll(), poll(["relay", "ws://relay.test"])
    cast = [vote(author(f"voter {n % 40}"), asked, OPTIONS[n % 3][1], created_at=NOW + n) for n in range(60)]
    async with House(clock) as house, House(clock) as second:
        first, auditor = await house.connect(), await second.connect()
        for one in (asked, other, *cast, vote(BOB, other, "tea")):
            assert await first.publish(one) == (True, "")
        clock.advance(405)
        await tend(house)

        # By Negentropy the second one learns which votes there are, and fetches them.
        of_poll: dict[str, object] = {"kinds": [1018], "#e": [asked.id]}
        missing = (await reconcile(first, [], of_poll)).need
        fetched = await events_of(first, {"ids": sorted(missing)}, {"ids": [asked.id]})
        await second.store.write([second.relay.admission.effects(one, live=False) for one in fetched])
        (tally,) = await events_of(first, {"kinds": [31_068], "#d": [asked.id]})

        votes = await events_of(auditor, of_poll)
        assert polls.audit(polls.parse_poll(asked), votes, tally) == []
        assert tally_of(second.store, asked).result().fingerprint == polls.parse_tally(tally)[2]
        assert polls.audit(polls.parse_poll(asked), votes[1:], tally) != []
