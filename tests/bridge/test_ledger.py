"""What the ledger keeps."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bridge.ledger import Ledger, LedgerError, Ready, Received
from bridge.model import Copy, Identity, Link, Place, Post, Profile, Ref
from bridge.network import Arrival, Rendered
from bridge.plan import (
    Confirmed,
    Delivery,
    Known,
    LinkEnded,
    LinkMade,
    OptedIn,
    OptedOut,
    PutPost,
    Withdraw,
    Withdrawn,
)
from bridge.text import rich

ROOM = Ref("matrix", "!r:x")
ALICE = Ref("matrix", "@alice:x")
BOB = Ref("nostr", "b0" * 32)
NOTE = Ref("nostr", "ab" * 32)
KNOWN_BOB = Identity(BOB, Profile("Bob", None), 5)
GHOSTS = {BOB: Ref("matrix", "@nostr_bob:x"), ALICE: Ref("nostr", "aa" * 32)}
LINK = Link(ROOM, BOB, 5_000, ALICE)
COPY = Copy(NOTE, BOB, "matrix", ROOM.id, None)
POST = Delivery(
    "matrix", BOB.id, "post 1", PutPost(Post(NOTE, BOB, None, 6_000, rich("hi")), KNOWN_BOB, ROOM), COPY
)
READY = Ready(POST, Rendered(b"payload", None))


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with closing(Ledger(":memory:")) as opened:
        yield opened


def arrive(ledger: Ledger, id_: str = "1") -> Received:
    """Let something arrive, and return it from the inbox."""
    ledger.receive("matrix", [Arrival(id_, b"raw")], 0.0, {}, {})
    return ledger.received("matrix", 10)[-1]


def test_arrivals_wait_in_order_and_each_once(ledger: Ledger) -> None:
    assert ledger.receive("matrix", [Arrival("a", b"1"), Arrival("b", b"2")], 0.0, {}, {}) == 2
    assert ledger.receive("matrix", [Arrival("a", b"1"), Arrival("c", b"3")], 0.0, {}, {}) == 1
    assert ledger.receive("nostr", [Arrival("a", b"4")], 0.0, {}, {}) == 1

    assert [one.id for one in ledger.received("matrix", 10)] == ["a", "b", "c"]
    assert [one.raw for one in ledger.received("matrix", 2)] == [b"1", b"2"]


def test_cursors_only_move_forward(ledger: Ledger) -> None:
    assert ledger.cursor("nostr", "x") is None

    ledger.receive("nostr", [], 0.0, {"x": 7}, {})
    ledger.receive("nostr", [], 0.0, {"x": 5}, {})

    assert ledger.cursor("nostr", "x") == 7


def test_bookmarks_are_replaced_and_go_with_their_link(ledger: Ledger) -> None:
    ledger.settle(arrive(ledger), [LinkMade(LINK)], [], {})
    ledger.receive("matrix", [], 0.0, {}, {ROOM.id: "t1"})
    ledger.receive("matrix", [], 0.0, {}, {ROOM.id: "t2"})
    assert ledger.bookmark("matrix", ROOM.id) == "t2"

    ledger.settle(arrive(ledger, "2"), [LinkEnded(ROOM)], [], {})

    assert ledger.bookmark("matrix", ROOM.id) is None


def test_a_settled_arrival_is_done_and_its_plan_is_kept(ledger: Ledger) -> None:
    arrival = arrive(ledger)

    ledger.settle(arrival, [LinkMade(LINK), Known(KNOWN_BOB)], [READY], GHOSTS)

    assert ledger.received("matrix", 10) == []
    assert ledger.link(ROOM) == LINK
    assert ledger.followers(BOB) == (LINK,)
    assert ledger.links() == [LINK]
    assert ledger.identity(BOB) == KNOWN_BOB
    assert ledger.copies(NOTE) == (COPY,)
    assert ledger.heads() == [("matrix", BOB.id, 0.0)]


def test_a_plan_that_fails_half_way_leaves_no_trace(ledger: Ledger) -> None:
    arrival = arrive(ledger)
    ledger.settle(arrive(ledger, "2"), [LinkMade(LINK)], [], {})

    with pytest.raises(sqlite3.IntegrityError):
        ledger.settle(arrival, [Known(KNOWN_BOB), LinkMade(LINK)], [READY], GHOSTS)

    assert [one.id for one in ledger.received("matrix", 10)] == ["1"]
    assert ledger.identity(BOB) is None
    assert ledger.heads() == []


def test_an_arrival_that_was_set_aside_does_not_come_again(ledger: Ledger) -> None:
    ledger.set_aside(arrive(ledger), "poison")

    assert ledger.received("matrix", 10) == []
    assert ledger.receive("matrix", [Arrival("1", b"raw")], 0.0, {}, {}) == 0


def test_a_delivery_notes_the_id_of_its_copy(ledger: Ledger) -> None:
    ledger.settle(arrive(ledger), [], [READY], {})
    entry = ledger.head("matrix", BOB.id)
    assert entry is not None
    assert (entry.key, entry.payload, entry.attempts, entry.native_id) == ("post 1", b"payload", 0, None)

    ledger.delivered(entry, "$9")

    assert ledger.head("matrix", BOB.id) is None
    assert [copy.native_id for copy in ledger.copies(NOTE)] == ["$9"]
    assert ledger.is_copy(Ref("matrix", "$9"))
    assert not ledger.is_copy(Ref("nostr", "$9"))


def test_an_entry_waits_where_it_stands(ledger: Ledger) -> None:
    second = Ready(Delivery("matrix", BOB.id, "later", POST.act), Rendered(b"2", None))
    ledger.settle(arrive(ledger), [], [READY, second], {})
    entry = ledger.head("matrix", BOB.id)
    assert entry is not None

    ledger.postpone(entry, 99.5)

    waiting = ledger.head("matrix", BOB.id)
    assert waiting is not None
    assert (waiting.key, waiting.attempts, waiting.not_before) == ("post 1", 1, 99.5)
    assert ledger.heads() == [("matrix", BOB.id, 99.5)]


def test_a_buried_entry_makes_way(ledger: Ledger) -> None:
    second = Ready(Delivery("matrix", BOB.id, "later", POST.act), Rendered(b"2", None))
    ledger.settle(arrive(ledger), [], [READY, second], {})
    entry = ledger.head("matrix", BOB.id)
    assert entry is not None

    ledger.bury(entry, "no")

    head = ledger.head("matrix", BOB.id)
    assert head is not None
    assert head.key == "later"


def test_a_delivery_planned_twice_is_one(ledger: Ledger) -> None:
    ledger.settle(arrive(ledger, "1"), [], [READY], {})
    ledger.settle(arrive(ledger, "2"), [], [READY], {})
    entry = ledger.head("matrix", BOB.id)
    assert entry is not None

    ledger.delivered(entry, None)

    assert ledger.heads() == []


def test_an_echo_settles_a_delivery_that_was_in_doubt(ledger: Ledger) -> None:
    ledger.settle(arrive(ledger, "1"), [], [READY], {})

    ledger.settle(arrive(ledger, "2"), [Confirmed(NOTE, ROOM, "$9")], [], {})

    assert ledger.heads() == []
    assert [copy.native_id for copy in ledger.copies(NOTE)] == ["$9"]


def test_a_withdrawal_knows_the_id_that_its_copy_got(ledger: Ledger) -> None:
    withdraw = Delivery("matrix", BOB.id, "withdraw", Withdraw(KNOWN_BOB, (COPY,), 9_000, False), COPY)
    ledger.settle(arrive(ledger, "1"), [], [READY], {})
    ledger.settle(arrive(ledger, "2"), [], [Ready(withdraw, Rendered(b"x", None))], {})
    first = ledger.head("matrix", BOB.id)
    assert first is not None

    ledger.delivered(first, "$9")

    second = ledger.head("matrix", BOB.id)
    assert second is not None
    assert (second.key, second.native_id) == ("withdraw", "$9")
    assert ledger.copies(NOTE) == ()


def test_opting_out_empties_the_lane_and_forgets_the_copies(ledger: Ledger) -> None:
    ledger.settle(arrive(ledger, "1"), [], [READY], {})

    ledger.settle(arrive(ledger, "2"), [OptedOut(BOB, "matrix", BOB.id, 7_000)], [], {})

    assert ledger.has_opted_out(BOB)
    assert ledger.heads() == []
    assert ledger.copies_by(BOB) == ()
    ledger.settle(arrive(ledger, "3"), [OptedIn(BOB)], [], {})
    assert not ledger.has_opted_out(BOB)


def test_ghosts_are_known_as_ours(ledger: Ledger) -> None:
    alice = Identity(ALICE, Profile("Alice", None), 5)

    ledger.settle(arrive(ledger), [Known(alice)], [], GHOSTS)

    assert ledger.is_ghost(Ref("nostr", "aa" * 32))
    assert not ledger.is_ghost(ALICE)


def test_what_was_taken_back_stays_taken_back_by_its_author_only(ledger: Ledger) -> None:
    ledger.settle(arrive(ledger), [Withdrawn(NOTE, BOB)], [], {})

    assert ledger.is_withdrawn(NOTE, BOB)
    assert not ledger.is_withdrawn(NOTE, ALICE)


def test_an_account_is_read_from_its_newest_link_on(ledger: Ledger) -> None:
    ledger.settle(arrive(ledger, "1"), [LinkMade(LINK)], [], {})
    assert ledger.cursor("nostr", BOB.id) == 5
    ledger.receive("nostr", [], 0.0, {BOB.id: 100}, {})

    ledger.settle(arrive(ledger, "2"), [LinkEnded(ROOM)], [], {})
    ledger.settle(arrive(ledger, "3"), [LinkMade(Link(ROOM, BOB, 900_000, ALICE))], [], {})

    assert ledger.cursor("nostr", BOB.id) == 900


def test_a_second_link_from_earlier_on_reads_the_account_again(ledger: Ledger) -> None:
    ledger.settle(arrive(ledger, "1"), [LinkMade(Link(ROOM, BOB, 100_000, ALICE))], [], {})

    earlier = Link(Ref("matrix", "!other:x"), BOB, 50_000, ALICE)
    ledger.settle(arrive(ledger, "2"), [LinkMade(earlier)], [], {})

    assert ledger.cursor("nostr", BOB.id) == 50


def test_ids_of_old_arrivals_are_forgotten_and_waiting_ones_are_not(ledger: Ledger) -> None:
    ledger.settle(arrive(ledger, "done"), [], [], {})
    arrive(ledger, "waiting")

    ledger.prune(31 * 86_400.0)

    assert ledger.receive("matrix", [Arrival("done", b"raw"), Arrival("waiting", b"raw")], 0.0, {}, {}) == 1


def test_another_seed_is_refused(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger")) as ledger:
        ledger.check_canary("aa")
        ledger.check_canary("aa")

        with pytest.raises(LedgerError, match="the seed is not the one"):
            ledger.check_canary("bb")


def test_everything_is_there_after_reopening_and_each_commit_is_durable(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger")) as ledger:
        ledger.settle(arrive(ledger), [LinkMade(LINK), Known(KNOWN_BOB)], [READY], GHOSTS)
        pragma = ledger._db.execute("PRAGMA synchronous").fetchone()

    assert pragma == (2,)
    with closing(Ledger(tmp_path / "ledger")) as ledger:
        assert ledger.link(ROOM) == LINK
        assert ledger.heads() == [("matrix", BOB.id, 0.0)]


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    Ledger(tmp_path / "ledger").close()
    with closing(sqlite3.connect(tmp_path / "ledger")) as db, db:
        db.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('bridge', 'fly_to_the_moon', '2030-01-01')"
        )

    with pytest.raises(LedgerError, match="written by a newer version: it has fly_to_the_moon"):
        Ledger(tmp_path / "ledger")


def copied(origin: Ref, author: Ref, network: str, native_id: str | None, **more: Any) -> Ready:
    """Return the delivery of a copy, rendered."""
    target = ROOM.id if network == "matrix" else ""
    copy = Copy(origin, author, network, target, None, **more)
    delivery = Delivery(network, author.id, f"post {origin.id}", POST.act, copy)
    return Ready(delivery, Rendered(b"payload", native_id))


def test_a_post_is_found_where_its_copy_is(ledger: Ledger) -> None:
    message = Ref("matrix", "$m")
    root = Ref("matrix", "$root")
    alice = Identity(ALICE, Profile("Alice", None), 5)
    ready = [
        copied(root, ALICE, "nostr", "01" * 32, room=ROOM.id),
        copied(message, ALICE, "nostr", "02" * 32, room=ROOM.id, thread=root),
    ]

    ledger.settle(arrive(ledger), [Known(alice)], ready, GHOSTS)

    ghost = GHOSTS[ALICE]
    began = Place("nostr", "01" * 32, ghost, root)
    assert ledger.place(message, "nostr", "") == Place("nostr", "02" * 32, ghost, message, began)
    assert ledger.place(root, "nostr", "") == began
    assert ledger.place(Ref("matrix", "$other"), "nostr", "") is None


def test_a_copy_leads_to_its_original_in_the_room_that_it_was_written_in(ledger: Ledger) -> None:
    message = Ref("matrix", "$m")
    ready = [copied(message, ALICE, "nostr", "02" * 32, room=ROOM.id, thread=Ref("matrix", "$root"))]
    ledger.settle(arrive(ledger), [], ready, {})
    note = Ref("nostr", "02" * 32)

    began = Place("matrix", "$root", None, Ref("matrix", "$root"))
    assert ledger.place(note, "matrix", ROOM.id) == Place("matrix", "$m", ALICE, message, began)
    assert ledger.place(note, "matrix", "!other:x") is None


def test_a_conversation_is_known_by_what_began_it_on_either_network(ledger: Ledger) -> None:
    root, message = Ref("matrix", "$root"), Ref("matrix", "$m")
    ready = [
        copied(root, ALICE, "nostr", "01" * 32, room=ROOM.id),
        copied(message, ALICE, "nostr", "02" * 32, room=ROOM.id, thread=root),
    ]
    ledger.settle(arrive(ledger), [], ready, {})

    assert ledger.thread(message) == root
    assert ledger.thread(Ref("nostr", "02" * 32)) == Ref("nostr", "01" * 32)
    assert ledger.thread(root) is None


def plan_an_answer_in_another_lane(ledger: Ledger) -> None:
    """Plan the copy of a note in Bob's lane, and in Carol's what names that copy by its id."""
    first = copied(NOTE, BOB, "matrix", None)
    answer = Delivery(
        "matrix",
        "carol",
        "post 2",
        POST.act,
        Copy(Ref("nostr", "cd" * 32), BOB, "matrix", ROOM.id, None),
        needs=(NOTE,),
    )
    ledger.settle(arrive(ledger), [], [first, Ready(answer, Rendered(b"answer", None))], {})


def test_an_entry_waits_for_the_copy_that_it_names(ledger: Ledger) -> None:
    plan_an_answer_in_another_lane(ledger)
    assert ledger.head("matrix", "carol") is None
    assert [lane for _, lane, _ in ledger.heads()] == [BOB.id]

    made = ledger.head("matrix", BOB.id)
    assert made is not None
    ledger.delivered(made, "$made")

    entry = ledger.head("matrix", "carol")
    assert entry is not None
    assert entry.known == {NOTE: "$made"}


def test_an_entry_does_not_wait_for_what_was_given_up(ledger: Ledger) -> None:
    plan_an_answer_in_another_lane(ledger)

    refused = ledger.head("matrix", BOB.id)
    assert refused is not None
    ledger.bury(refused, "never")

    entry = ledger.head("matrix", "carol")
    assert entry is not None
    assert entry.known == {}
