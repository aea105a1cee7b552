"""NIP-01, 09, 40, 45 over the wire, on a relay with two workers."""

import asyncio
import time
from contextlib import AsyncExitStack

import orjson
import pytest

from relay.nostr.event import encode
from tests.serving import TorvServe
from tests.wire.client import Refused, dial, new_key, note, now

DEADLINE_SECONDS = 20


def ids(events: list[dict[str, str]]) -> list[str]:
    return [event["id"] for event in events]


async def test_an_event_comes_back_byte_for_byte(relay_url: str) -> None:
    written = note(new_key(), 'naïve "quotes" \n 🤙', tags=[["t", "square", "extra"], ["alt", ""]])

    async with dial(relay_url) as wire:
        assert await wire.publish(written) == (True, "")
        await wire.send("REQ", "a", {"ids": [written.id]})

        assert await wire.connection.recv(decode=False) == b'["EVENT","a",' + encode(written) + b"]"


async def test_the_second_copy_is_a_duplicate(relay_url: str) -> None:
    written = note(new_key())

    async with dial(relay_url) as wire, dial(relay_url) as other:
        assert await wire.publish(written) == (True, "")
        for again in (wire, other):
            accepted, reason = await again.publish(written)
            assert accepted
            assert reason.startswith("duplicate: ")


async def test_copies_sent_at_once_are_all_accepted_and_kept_once(relay_url: str) -> None:
    key = new_key()
    written = note(key)

    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(relay_url)) for _ in range(8)]
        for wire in wires:
            for _ in range(5):
                await wire.send_event(written)
        answers = [await wire.receive() for wire in wires for _ in range(5)]

        assert {(verb, id_, accepted) for verb, id_, accepted, _ in answers} == {("OK", written.id, True)}
        assert [reason for *_, reason in answers].count("") >= 1
        assert await wires[0].count({"authors": [key.public]}) == 1


async def test_newest_first_and_on_a_tie_the_lowest_id(relay_url: str) -> None:
    key = new_key()
    old = note(key, "old", age=100)
    tied = sorted((note(key, f"tied {n}", age=50) for n in range(5)), key=lambda event: event.id)
    new = note(key, "new", age=10)

    async with dial(relay_url) as wire:
        for event in (tied[3], new, tied[0], old, tied[4], tied[2], tied[1]):
            assert await wire.publish(event) == (True, "")
        found = await wire.query({"authors": [key.public]})
        first = await wire.query({"authors": [key.public], "limit": 3})

    assert ids(found) == [new.id, *(event.id for event in tied), old.id]
    # NIP-67: a second is sent whole.
    assert ids(first) == [new.id, *(event.id for event in tied)]


async def test_an_event_that_two_filters_want_comes_once(relay_url: str) -> None:
    key = new_key()
    written = note(key, tags=[["t", "a"], ["t", "b"]])

    async with dial(relay_url) as wire:
        await wire.publish(written)

        assert ids(await wire.query({"authors": [key.public], "#t": ["a"]}, {"ids": [written.id]})) == [
            written.id
        ]
        assert await wire.count({"authors": [key.public], "#t": ["a"]}, {"ids": [written.id]}) == 1


async def test_every_filter_has_its_own_limit_and_the_answers_are_merged(relay_url: str) -> None:
    alice, bob = new_key(), new_key()
    events = [
        note(key, age=10 * age) for age, key in enumerate((alice, bob, alice, bob, alice, bob), start=10)
    ]

    async with dial(relay_url) as wire:
        for event in events:
            await wire.publish(event)
        found = await wire.query(
            {"authors": [alice.public], "limit": 2}, {"authors": [bob.public], "limit": 1}
        )

    assert ids(found) == [events[0].id, events[1].id, events[2].id]


async def test_a_limit_of_zero_gives_only_what_is_live(relay_url: str) -> None:
    key = new_key()
    before, after = note(key, "before"), note(key, "after")

    async with dial(relay_url) as wire, dial(relay_url) as publisher:
        await publisher.publish(before)
        assert await wire.subscribe({"authors": [key.public], "limit": 0}) == []
        await publisher.publish(after)

        assert (await wire.live())["id"] == after.id


async def test_a_live_event_reaches_the_subscribers_of_every_worker_once(relay_url: str) -> None:
    key = new_key()
    first, second = note(key, "first"), note(key, "second")

    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(relay_url)) for _ in range(16)]
        for wire in wires:
            assert await wire.subscribe({"authors": [key.public]}) == []
        await wires[0].send_event(first)
        await wires[0].send_event(second)

        for wire in wires[1:]:
            assert [(await wire.live())["id"], (await wire.live())["id"]] == [first.id, second.id]


async def test_an_ephemeral_event_reaches_every_worker_and_is_not_stored(relay_url: str) -> None:
    key = new_key()
    passing, marker = note(key, "passing", kind=20_001), note(key, "marker", kind=20_001)

    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(dial(relay_url)) for _ in range(16)]
        publisher = await stack.enter_async_context(dial(relay_url))
        for wire in wires:
            assert await wire.subscribe({"kinds": [20_001], "authors": [key.public]}) == []
        assert await publisher.publish(passing) == (True, "")
        assert await publisher.publish(marker) == (True, "")

        for wire in wires:
            assert [(await wire.live())["id"], (await wire.live())["id"]] == [passing.id, marker.id]
        assert await publisher.query({"kinds": [20_001], "authors": [key.public]}) == []
        assert await publisher.count({"kinds": [20_001], "authors": [key.public]}) == 0


async def test_a_lone_worker_says_that_nobody_heard_an_ephemeral_event(torv_serve: TorvServe) -> None:
    served = torv_serve(workers=1)

    async with dial(served.url) as wire:
        accepted, reason = await wire.publish(note(new_key(), kind=20_001))

    assert not accepted
    assert reason.startswith("mute: ")


async def test_the_same_name_again_replaces_the_subscription(relay_url: str) -> None:
    alice, bob = new_key(), new_key()
    from_alice, from_bob = note(alice), note(bob)

    async with dial(relay_url) as wire, dial(relay_url) as publisher:
        await wire.subscribe({"authors": [alice.public]})
        await wire.subscribe({"authors": [bob.public]})
        await publisher.publish(from_alice)
        await publisher.publish(from_bob)

        assert (await wire.live())["id"] == from_bob.id


async def test_after_close_nothing_more_comes(relay_url: str) -> None:
    key = new_key()

    async with dial(relay_url) as wire, dial(relay_url) as publisher:
        await wire.subscribe({"authors": [key.public]})
        await wire.send("CLOSE", "sub")
        await wire.subscribe({"authors": [key.public], "kinds": [7], "limit": 0}, name="marker")
        await publisher.publish(note(key, "unheard"))
        await publisher.publish(note(key, "+", kind=7))

        assert (await wire.live("marker"))["content"] == "+"


async def test_subscription_names_are_counted_in_characters_and_quoted_right(relay_url: str) -> None:
    name = '"\\é🤙' * 16

    async with dial(relay_url) as wire:
        assert await wire.subscribe({"limit": 0}, name=name) == []


async def test_names_belong_to_their_connection(relay_url: str) -> None:
    key = new_key()
    written = note(key)

    async with dial(relay_url) as one, dial(relay_url) as two:
        await one.subscribe({"authors": [key.public]})
        await two.subscribe({"authors": [key.public]})
        await two.send("CLOSE", "sub")
        await two.query({"limit": 0})
        await two.publish(written)

        assert (await one.live())["id"] == written.id


async def test_a_burst_of_questions_is_answered_in_full(relay_url: str) -> None:
    key = new_key()
    written = note(key)

    async with dial(relay_url) as wire:
        await wire.publish(written)
        for n in range(60):
            await wire.send("REQ", f"q{n}", {"authors": [key.public]})
        answers = [await wire.receive() for _ in range(120)]

    assert sorted(name for verb, name, *_ in answers if verb == "EVENT") == sorted(f"q{n}" for n in range(60))
    assert sorted(name for verb, name, *_ in answers if verb == "EOSE") == sorted(f"q{n}" for n in range(60))


# Replaceable and addressable events


@pytest.mark.parametrize("kind", [0, 3, 10_002])
async def test_the_newest_of_a_replaceable_kind_is_kept(relay_url: str, kind: int) -> None:
    key = new_key()
    old, new = note(key, "old", kind=kind, age=20), note(key, "new", kind=kind, age=10)
    middle = note(key, "middle", kind=kind, age=15)

    async with dial(relay_url) as wire:
        assert await wire.publish(old) == (True, "")
        assert await wire.publish(new) == (True, "")
        accepted, _ = await wire.publish(middle)

        assert not accepted
        assert ids(await wire.query({"authors": [key.public]})) == [new.id]
        assert await wire.query({"ids": [old.id, middle.id]}) == []


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["lowest first", "lowest last"])
async def test_on_equal_time_the_lowest_id_is_kept(relay_url: str, order: tuple[int, int]) -> None:
    key = new_key()
    pair = sorted((note(key, f"profile {n}", kind=0, age=10) for n in range(2)), key=lambda event: event.id)

    async with dial(relay_url) as wire:
        for n in order:
            await wire.publish(pair[n])

        assert ids(await wire.query({"authors": [key.public]})) == [pair[0].id]


async def test_addressable_events_differ_by_their_first_d_tag(relay_url: str) -> None:
    key = new_key()
    events = [
        note(key, "a, old", kind=30_023, age=50, tags=[["d", "a"]]),
        note(key, "a, new", kind=30_023, age=40, tags=[["d", "a"], ["d", "b"]]),
        note(key, "none", kind=30_023, age=30),
        note(key, "empty", kind=30_023, age=20, tags=[["d", ""]]),
        note(key, "other kind", kind=30_024, age=10, tags=[["d", "a"]]),
    ]

    async with dial(relay_url) as wire:
        for event in events:
            assert await wire.publish(event) == (True, "")

        assert ids(await wire.query({"authors": [key.public]})) == [events[n].id for n in (4, 3, 1)]


# NIP-09


async def test_a_deleted_event_is_gone_and_stays_gone(relay_url: str) -> None:
    key = new_key()
    regretted = note(key, age=10)
    deletion = note(key, kind=5, tags=[["e", regretted.id]])

    async with dial(relay_url) as wire:
        await wire.publish(regretted)
        assert await wire.publish(deletion) == (True, "")
        accepted, reason = await wire.publish(regretted)

        assert not accepted
        assert reason.startswith("blocked: ")
        assert ids(await wire.query({"authors": [key.public]})) == [deletion.id]
        assert await wire.count({"ids": [regretted.id]}) == 0


async def test_a_deletion_before_its_target_keeps_it_out(relay_url: str) -> None:
    key = new_key()
    late = note(key, age=10)

    async with dial(relay_url) as wire:
        await wire.publish(note(key, kind=5, tags=[["e", late.id]]))
        accepted, reason = await wire.publish(late)

    assert not accepted
    assert reason.startswith("blocked: ")


@pytest.mark.parametrize("first", ["the event", "the deletion"])
async def test_nobody_deletes_what_another_wrote(relay_url: str, first: str) -> None:
    alice, mallory = new_key(), new_key()
    kept = note(alice, age=10)
    article = note(alice, kind=30_023, age=10, tags=[["d", "a"]])
    deletion = note(mallory, kind=5, tags=[["e", kept.id], ["a", f"30023:{alice.public}:a"]])

    async with dial(relay_url) as wire:
        order = [kept, article, deletion] if first == "the event" else [deletion, kept, article]
        for event in order:
            assert await wire.publish(event) == (True, "")

        assert await wire.count({"authors": [alice.public]}) == 2


async def test_own_events_are_deleted_beside_foreign_ones(relay_url: str) -> None:
    alice, bob = new_key(), new_key()
    own, foreign = note(alice, age=10), note(bob, age=10)
    deletion = note(alice, kind=5, tags=[["e", foreign.id], ["e", own.id], ["e", ""], ["e"], ["k", "1"]])

    async with dial(relay_url) as wire:
        for event in (own, foreign, deletion):
            await wire.publish(event)

        assert ids(await wire.query({"ids": [own.id, foreign.id]})) == [foreign.id]


async def test_a_deletion_by_address_takes_the_versions_up_to_its_time(relay_url: str) -> None:
    key = new_key()
    old, late = (note(key, str(age), kind=30_023, age=age, tags=[["d", "a:b"]]) for age in (50, 40))
    deletion = note(key, kind=5, age=30, tags=[["a", f"30023:{key.public}:a:b"]])
    new = note(key, "new", kind=30_023, age=20, tags=[["d", "a:b"]])

    async with dial(relay_url) as wire:
        await wire.publish(old)
        await wire.publish(deletion)
        assert await wire.query({"authors": [key.public], "kinds": [30_023]}) == []
        accepted, reason = await wire.publish(late)
        assert (accepted, reason[:9]) == (False, "blocked: ")
        assert await wire.publish(new) == (True, "")

        assert ids(await wire.query({"authors": [key.public], "kinds": [30_023]})) == [new.id]


async def test_deleting_a_deletion_has_no_effect(relay_url: str) -> None:
    key = new_key()
    regretted = note(key, age=30)
    deletion = note(key, kind=5, age=20, tags=[["e", regretted.id]])
    second = note(key, kind=5, age=10, tags=[["e", deletion.id]])

    async with dial(relay_url) as wire:
        for event in (regretted, deletion, second):
            await wire.publish(event)

        assert ids(await wire.query({"authors": [key.public]})) == [second.id, deletion.id]
        assert (await wire.publish(regretted))[0] is False


async def test_deletions_are_passed_on_live(relay_url: str) -> None:
    key = new_key()
    deletion = note(key, kind=5, tags=[["e", "00" * 32]])

    async with dial(relay_url) as wire, dial(relay_url) as publisher:
        await wire.subscribe({"authors": [key.public], "kinds": [5]})
        await publisher.publish(deletion)

        assert (await wire.live())["id"] == deletion.id


# NIP-40, times, credentials


async def test_an_expired_event_is_refused(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        accepted, reason = await wire.publish(note(new_key(), tags=[["expiration", str(now() - 1)]]))

    assert not accepted
    assert reason.startswith("invalid: ")


async def test_an_event_is_gone_at_the_second_of_its_expiration(relay_url: str) -> None:
    key = new_key()
    at = now() + 2
    brief = note(key, tags=[["expiration", str(at)]])

    async with dial(relay_url) as wire, asyncio.timeout(DEADLINE_SECONDS):
        assert await wire.publish(brief) == (True, "")
        while await wire.query({"authors": [key.public]}):
            assert time.time() < at + 1
            await asyncio.sleep(0.1)

        assert time.time() >= at
        assert await wire.count({"authors": [key.public]}) == 0
        assert await wire.query({"ids": [brief.id]}) == []


@pytest.mark.parametrize("odd", ["soon", "", "1e12", "-5", "١٢٣"])
async def test_an_expiration_that_is_no_number_is_no_expiration(relay_url: str, odd: str) -> None:
    async with dial(relay_url) as wire:
        assert await wire.publish(note(new_key(), tags=[["expiration", odd]])) == (True, "")


async def test_what_lies_too_far_in_the_future_is_refused(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        assert await wire.publish(note(new_key(), age=-600)) == (True, "")
        accepted, reason = await wire.publish(note(new_key(), age=-1200))

    assert not accepted
    assert reason.startswith("invalid: ")


@pytest.mark.parametrize("kind", [22_242, 24_242, 27_235])
async def test_credentials_are_neither_stored_nor_passed_on(relay_url: str, kind: int) -> None:
    key = new_key()

    async with dial(relay_url) as wire, dial(relay_url) as publisher:
        await wire.subscribe({"authors": [key.public]})
        accepted, reason = await publisher.publish(note(key, kind=kind))
        await publisher.publish(note(key, "marker"))

        assert not accepted
        assert reason.startswith("blocked: ")
        assert (await wire.live())["content"] == "marker"


@pytest.mark.parametrize("kind", [45, 64, 443, 818, 999, 9999, 40_000, 65_535])
async def test_kinds_outside_the_ranges_are_regular(relay_url: str, kind: int) -> None:
    key = new_key()

    async with dial(relay_url) as wire:
        for content in ("one", "two"):
            assert await wire.publish(note(key, content, kind=kind)) == (True, "")

        assert await wire.count({"authors": [key.public], "kinds": [kind]}) == 2


async def test_count_and_req_agree_on_a_refusal(relay_url: str) -> None:
    async with dial(relay_url) as wire:
        for ask in (wire.query, wire.count):
            with pytest.raises(Refused, match=r"^unsupported: "):
                await ask({"&t": ["x"]})


async def test_stored_events_survive_a_restart_and_deleted_ones_do_not_return(torv_serve: TorvServe) -> None:
    served = torv_serve()
    key = new_key()
    kept, regretted = note(key, "kept", age=20), note(key, "regretted", age=10)
    async with dial(served.url) as wire:
        for event in (kept, regretted, note(key, kind=5, tags=[["e", regretted.id]])):
            await wire.publish(event)

    assert served.stop() == 0
    served.restart()

    async with dial(served.url) as wire:
        assert await wire.query({"authors": [key.public], "kinds": [1]}) == [orjson.loads(encode(kept))]
        assert (await wire.publish(regretted))[0] is False
