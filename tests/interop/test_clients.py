"""What clients that nobody here wrote can do on the relay; each test runs with each of them."""

import time

import pytest

from tests.interop.conftest import Driver, People
from tests.serving import TorvServe

NOW = int(time.time())


def contents(events: list[dict[str, object]]) -> list[object]:
    return [event["content"] for event in events]


def test_a_published_note_is_fetched_back_unchanged(people: People) -> None:
    alice, bob = people("alice"), people("bob")
    note = alice.sign(1, "hello from a client", created_at=NOW, tags=[["t", "torv"], ["p", bob.pubkey]])

    answer = alice.publish(note)

    assert answer["accepted"] is True
    assert bob.fetch(ids=[note["id"]]) == [note]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "naïve 日本語 🤙🏽 \U0001f469\u200d\U0001f680",
        'quote " slash \\ / <b> &',
        "\n\r\t\b\f",
        "\x7f\u2028\u2029\ufeff\uffff",
    ],
    ids=["empty", "beyond-ascii", "quotes", "short-escapes", "verbatim"],
)
def test_client_and_relay_hash_the_same_text_to_the_same_id(people: People, text: str) -> None:
    alice = people("alice")
    note = alice.sign(1, text, created_at=NOW, tags=[["x", text]])

    answer = alice.publish(note)

    assert answer["accepted"] is True
    assert contents(alice.fetch(ids=[note["id"]])) == [text]


def test_stored_notes_come_newest_first_and_stop_at_the_limit(people: People) -> None:
    alice = people("alice")
    for age in (30, 10, 20):
        alice.publish(alice.sign(1, f"{age} s ago", created_at=NOW - age))

    found = alice.fetch(authors=[alice.pubkey], limit=2)

    assert contents(found) == ["10 s ago", "20 s ago"]


def test_a_subscription_gets_what_is_stored_and_then_what_is_live(people: People) -> None:
    alice, bob = people("alice"), people("bob")
    alice.publish(alice.sign(1, "before", created_at=NOW - 1))

    stored = bob.subscribe("follow", authors=[alice.pubkey], kinds=[1])
    alice.publish(alice.sign(7, "+", created_at=NOW))
    alice.publish(alice.sign(1, "after", created_at=NOW))

    assert contents(stored) == ["before"]
    assert bob.next("follow")["content"] == "after"


def test_a_live_ephemeral_event_is_delivered_and_not_stored(people: People) -> None:
    alice, bob = people("alice"), people("bob")
    bob.subscribe("typing", authors=[alice.pubkey], kinds=[20_001])

    answer = alice.publish(alice.sign(20_001, "is typing", created_at=NOW))

    assert answer["accepted"] is True
    assert bob.next("typing")["content"] == "is typing"
    assert bob.fetch(authors=[alice.pubkey], kinds=[20_001]) == []


def test_a_newer_profile_replaces_the_older_one(people: People) -> None:
    alice = people("alice")
    alice.publish(alice.sign(0, '{"name":"a"}', created_at=NOW - 2))
    alice.publish(alice.sign(0, '{"name":"b"}', created_at=NOW))

    late = alice.publish(alice.sign(0, '{"name":"late"}', created_at=NOW - 1))

    assert late["accepted"] is False
    assert contents(alice.fetch(authors=[alice.pubkey], kinds=[0])) == ['{"name":"b"}']


def test_an_article_is_replaced_under_its_own_d_tag_only(people: People) -> None:
    alice = people("alice")
    alice.publish(alice.sign(30_023, "bread, first", created_at=NOW - 3, tags=[["d", "bread"]]))
    alice.publish(alice.sign(30_023, "soup", created_at=NOW - 2, tags=[["d", "soup"]]))
    alice.publish(alice.sign(30_023, "bread, second", created_at=NOW - 1, tags=[["d", "bread"]]))

    found = alice.fetch(authors=[alice.pubkey], kinds=[30_023])

    assert contents(found) == ["bread, second", "soup"]


def test_a_deleted_note_is_gone_and_stays_gone(people: People) -> None:
    alice, bob = people("alice"), people("bob")
    note = alice.sign(1, "regretted", created_at=NOW - 1)
    alice.publish(note)

    deletion = alice.publish(alice.sign(5, created_at=NOW, tags=[["e", note["id"]], ["k", "1"]]))

    assert deletion["accepted"] is True
    assert bob.fetch(ids=[note["id"]]) == []
    assert bob.publish(note)["accepted"] is False


def test_nobody_deletes_the_note_of_another(people: People) -> None:
    alice, mallory = people("alice"), people("mallory")
    note = alice.sign(1, "stays", created_at=NOW - 1)
    alice.publish(note)

    mallory.publish(mallory.sign(5, created_at=NOW, tags=[["e", note["id"]]]))

    assert contents(mallory.fetch(ids=[note["id"]])) == ["stays"]


def test_an_article_is_deleted_by_its_address(people: People) -> None:
    alice = people("alice")
    alice.publish(alice.sign(30_023, "draft", created_at=NOW - 1, tags=[["d", "bread"]]))

    alice.publish(alice.sign(5, created_at=NOW, tags=[["a", f"30023:{alice.pubkey}:bread"]]))

    assert alice.fetch(authors=[alice.pubkey], kinds=[30_023]) == []


def test_count_says_how_many_without_sending_them(people: People) -> None:
    alice = people("alice")
    for n in range(3):
        alice.publish(alice.sign(1, f"note {n}", created_at=NOW - n))

    assert alice.count(authors=[alice.pubkey], kinds=[1]) == 3
    assert alice.count(authors=[alice.pubkey], kinds=[7]) == 0


@pytest.mark.parametrize("kind", [4, 1059], ids=["direct-message", "gift-wrap"])
def test_a_private_message_is_read_by_its_recipient_only(people: People, kind: int) -> None:
    alice = people("alice", authenticate=True)
    bob = people("bob", authenticate=True)
    mallory = people("mallory", authenticate=True)
    stranger = people("stranger")
    letter = alice.sign(kind, "sealed", created_at=NOW, tags=[["p", bob.pubkey]])

    answer = alice.publish(letter)

    assert answer["accepted"] is True
    assert bob.fetch(kinds=[kind], **{"#p": [bob.pubkey]}) == [letter]
    assert mallory.fetch(kinds=[kind], **{"#p": [bob.pubkey]}) == []
    with pytest.raises(RuntimeError, match="auth-required: "):
        stranger.fetch(kinds=[kind], **{"#p": [bob.pubkey]})


def test_a_private_message_arrives_live_for_its_recipient(people: People) -> None:
    alice = people("alice", authenticate=True)
    bob = people("bob", authenticate=True)
    bob.subscribe("inbox", kinds=[1059], **{"#p": [bob.pubkey]})

    alice.publish(alice.sign(1059, "sealed", created_at=NOW, tags=[["p", bob.pubkey]]))

    assert bob.next("inbox")["content"] == "sealed"


def test_a_protected_event_is_taken_from_its_author_only(people: People) -> None:
    alice = people("alice", authenticate=True)
    mallory = people("mallory", authenticate=True)
    secret = alice.sign(1, "not to be spread", created_at=NOW, tags=[["-"]])

    by_another = mallory.publish(secret)
    by_the_author = alice.publish(secret)

    assert by_another["accepted"] is False
    assert "restricted: " in by_another["reason"]
    assert by_the_author["accepted"] is True


def test_a_bad_signature_is_refused_with_a_reason(people: People) -> None:
    alice = people("alice")
    note = alice.sign(1, "mine", created_at=NOW)
    other = alice.sign(1, "also mine", created_at=NOW)

    answer = alice.publish({**note, "sig": other["sig"]})

    assert answer["accepted"] is False


def test_a_client_comes_back_after_a_graceful_restart(driver: Driver, torv_serve: TorvServe) -> None:
    served = torv_serve()
    people = People(driver, served.url)
    # NDK comes back to a relay that sends a challenge only if it may answer it.
    bob = people("bob", authenticate=True)
    stored = bob.subscribe("follow", kinds=[1])

    served.stop()
    served.restart()
    alice = people("alice")
    answer = alice.publish(alice.sign(1, "after the restart", created_at=NOW))

    assert stored == []
    assert answer["accepted"] is True
    assert bob.next("follow")["content"] == "after the restart"
    people.leave()
