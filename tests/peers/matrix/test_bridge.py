"""Messages between a real Synapse and a real relay, through the bridge."""

import json
import urllib.request
from urllib.parse import quote

import pytest

from bridge.identities import load_seed
from bridge.media import PictureFetcher
from bridge.model import Ref, Room
from bridge.network import Task
from bridge.networks.matrix.network import MatrixNetwork
from bridge.networks.matrix.registration import tokens
from relay.nostr import nip19
from tests.peers.matrix.conftest import BOT, PICTURE, Square
from tests.peers.matrix.homeserver import SERVER_NAME, Person
from tests.peers.matrix.notes import Account, connected

pytestmark = pytest.mark.xdist_group("matrix")


def ghost_of(account: Account) -> str:
    """Return the Matrix user that somebody on Nostr appears as."""
    return f"@nostr_{account.npub}:{SERVER_NAME}"


def test_a_message_becomes_a_signed_note_of_its_authors_ghost(
    alice: Person, bob: Account, linked: str
) -> None:
    id_ = alice.say(linked, "hello, square\nsecond line ✓")

    note = bob.until_note("hello, square\nsecond line ✓")

    (message,) = [event for event in alice.messages(linked) if event["event_id"] == id_]
    assert note.created_at == message["origin_server_ts"] // 1000
    assert note.tags == (("proxy", id_, "matrix"),)
    (profile,) = bob.stored(authors=[note.pubkey], kinds=[0])
    assert json.loads(profile.content)["name"] == "Alice Ä. (Matrix)"
    assert profile.tags == (("proxy", alice.id, "matrix"),)


def test_a_note_appears_with_its_authors_name_and_picture(
    alice: Person, bob: Account, linked: str, web: str
) -> None:
    ghost = ghost_of(bob)
    with alice.reading(linked) as timeline:
        bob.publish(0, json.dumps({"name": "Bob \u202eB.", "picture": f"{web}/picture.png"}))
        note = bob.note("hello, Matrix")
        message = timeline.until_text("hello, Matrix")
        with_picture = timeline.until(
            lambda event: (
                event["type"] == "m.room.member"
                and event["sender"] == ghost
                and event["content"].get("avatar_url")
            )
        )

    assert message["sender"] == ghost
    assert message["origin_server_ts"] == note.created_at * 1000
    assert message["content"]["dev.torv.source"] == {"network": "nostr", "id": note.id}
    assert with_picture["content"]["displayname"] == "Bob B. (Nostr)"
    assert _download(alice, with_picture["content"]["avatar_url"]) == PICTURE


def _download(person: Person, mxc: str) -> bytes:
    path = mxc.removeprefix("mxc://")
    asked = urllib.request.Request(f"{person.url}/_matrix/client/v1/media/download/{path}")
    asked.add_header("Authorization", f"Bearer {person.token}")
    with urllib.request.urlopen(asked, timeout=30) as answer:
        found: bytes = answer.read()
    return found


def test_formatted_text_and_mentions_cross_both_ways(alice: Person, bob: Account, linked: str) -> None:
    with alice.reading(linked) as timeline:
        bob.publish(0, json.dumps({"name": "Bob"}))
        bob.note("good morning")
        greeting = timeline.until_text("good morning")
        pill = f'<a href="https://matrix.to/#/{greeting["sender"]}">Bob</a>'
        html = f"{pill}: look at <strong>this</strong> on #nostr<ul><li>one</li></ul>"
        alice.say(linked, "Bob: look at this", format="org.matrix.custom.html", formatted_body=html)
        note = bob.until_note(f"nostr:{bob.npub}: look at **this** on #nostr\n- one")
        alices_ghost = nip19.encode(nip19.Npub(note.pubkey))
        bob.note(f"nostr:{alices_ghost} seen: https://example.org/a")
        answer = timeline.until(lambda event: "seen:" in str(event["content"].get("body")))

    assert note.tags[:2] == (("p", bob.pubkey), ("t", "nostr"))
    assert answer["content"]["body"] == "@Alice Ä. seen: https://example.org/a"
    assert answer["content"]["m.mentions"] == {"user_ids": [alice.id]}
    assert answer["content"]["formatted_body"] == (
        f'<a href="https://matrix.to/#/{alice.id}">Alice Ä.</a> seen: '
        '<a href="https://example.org/a">https://example.org/a</a>'
    )


def test_answers_and_reactions_cross_both_ways_and_are_taken_back(
    alice: Person, bob: Account, linked: str
) -> None:
    with alice.reading(linked) as timeline:
        question = bob.note("who is there?")
        asked = timeline.until_text("who is there?")["event_id"]
        alice.say(linked, "I am", **{"m.relates_to": {"m.in_reply_to": {"event_id": asked}}})
        answer = bob.until_note("I am")
        bob.note(
            "welcome",
            tags=[("e", question.id, "", "root"), ("e", answer.id, "", "reply"), ("p", answer.pubkey)],
        )
        welcome = timeline.until_text("welcome")
        within = welcome["content"]["m.relates_to"]

        mark = alice.react(linked, welcome["event_id"], "👍")
        like = bob.until(lambda event: event.kind == 7 and event.pubkey == answer.pubkey)
        bob.publish(7, "🔥", tags=[("e", answer.id), ("p", answer.pubkey)])
        fire = timeline.until(lambda event: event["type"] == "m.reaction" and event["sender"] != alice.id)
        alice.redact(linked, mark)
        bob.until(lambda event: event.kind == 5 and ("e", like.id) in event.tags and ("k", "7") in event.tags)

    assert answer.tags[:2] == (("e", question.id, "", "root"), ("p", bob.pubkey))
    assert within["rel_type"] == "m.thread"
    assert within["event_id"] == asked
    assert _said(alice, linked, within["m.in_reply_to"]["event_id"]) == "I am"
    assert like.content == "+"
    relation = fire["content"]["m.relates_to"]
    assert relation["key"] == "🔥"
    assert _said(alice, linked, relation["event_id"]) == "I am"


def _said(person: Person, room: str, event_id: str) -> str:
    (text,) = [one["content"]["body"] for one in person.messages(room) if one["event_id"] == event_id]
    return str(text)


def test_nothing_comes_back_to_where_it_came_from(alice: Person, bob: Account, linked: str) -> None:
    with alice.reading(linked) as timeline:
        alice.say(linked, "from Matrix")
        ghost = bob.until_note("from Matrix").pubkey
        bob.note("from Nostr")
        timeline.until_text("from Nostr")
        bob.note("through another bridge", tags=[("proxy", "https://x.example/1", "activitypub")])
        # What comes after proves that what came before was dropped.
        alice.say(linked, "last from Matrix")
        bob.until_note("last from Matrix")
        bob.note("last from Nostr")
        timeline.until_text("last from Nostr")

    assert alice.texts(linked, ghost_of(bob)) == ["from Nostr", "last from Nostr"]
    assert bob.notes_by(ghost) == ["from Matrix", "last from Matrix"]


def test_a_new_name_is_shown_on_nostr(square: Square, bob: Account, linked: str) -> None:
    carol = square.homeserver.register("carol")
    carol.join(linked)
    carol.say(linked, "my name is carol")
    ghost = bob.until_note("my name is carol").pubkey

    carol.show_name("Carol the Great")

    bob.until(lambda event: event.pubkey == ghost and "Carol the Great (Matrix)" in event.content)


def test_what_its_author_takes_back_is_taken_back_on_the_other_side(
    alice: Person, bob: Account, linked: str
) -> None:
    with alice.reading(linked) as timeline:
        message = alice.say(linked, "a slip of the tongue")
        mirrored = bob.until_note("a slip of the tongue")
        alice.redact(linked, message)
        bob.until(lambda event: event.kind == 5 and ("e", mirrored.id) in event.tags)

        note = bob.note("a slip of the pen")
        copy = timeline.until_text("a slip of the pen")
        bob.publish(5, "", tags=[("e", note.id)])
        timeline.until(
            lambda event: event["type"] == "m.room.redaction" and _redacts(event) == copy["event_id"]
        )

    assert bob.stored(ids=[mirrored.id]) == []
    assert "a slip of the pen" not in alice.texts(linked)


def _redacts(event: dict[str, object]) -> object:
    content = event["content"]
    assert isinstance(content, dict)
    return event.get("redacts", content.get("redacts"))


def test_who_opts_out_leaves_no_note_behind(square: Square, alice: Person, bob: Account, linked: str) -> None:
    dave = square.homeserver.register("dave")
    dave.join(linked)
    with alice.reading(linked) as timeline:
        dave.say(linked, "I did not know")
        note = bob.until_note("I did not know")

        dave.say(linked, "!torv optout")
        timeline.until_text("not published on Nostr any more")
        bob.until(lambda event: event.kind == 5 and event.pubkey == note.pubkey)
        dave.say(linked, "between us")
        alice.say(linked, "a word from Alice")
        bob.until_note("a word from Alice")

        assert bob.stored(authors=[note.pubkey], kinds=[0, 1]) == []

        dave.say(linked, "!torv optin")
        timeline.until_text("published on Nostr again")
        dave.say(linked, "here again")
        assert bob.until_note("here again").pubkey == note.pubkey

    assert [event.content for event in bob.stored(authors=[note.pubkey], kinds=[1])] == ["here again"]
    (profile,) = bob.stored(authors=[note.pubkey], kinds=[0])
    assert json.loads(profile.content)["name"] == "dave (Matrix)"


def test_a_ghost_that_was_put_out_comes_back_with_the_next_note(
    alice: Person, bob: Account, linked: str
) -> None:
    with alice.reading(linked) as timeline:
        bob.note("before")
        timeline.until_text("before")
        # From now on only who is invited may join.
        alice.set_state(linked, "m.room.join_rules", {"join_rule": "invite"})
        alice.set_state(linked, "m.room.power_levels", {"users": {}, "invite": 0})
        alice.call("POST", f"/rooms/{quote(linked)}/kick", {"user_id": ghost_of(bob)})

        bob.note("after")
        timeline.until_text("after")

    assert alice.texts(linked, ghost_of(bob)) == ["before", "after"]


def test_a_note_that_a_room_refuses_blocks_nothing(
    square: Square, alice: Person, bob: Account, linked: str
) -> None:
    with alice.reading(linked) as timeline:
        bob.note("before")
        timeline.until_text("before")
        alice.call("POST", f"/rooms/{quote(linked)}/ban", {"user_id": ghost_of(bob)})
        refused = bob.note("from outside")
        square.until_logged(f"gave up network=matrix key=post {refused.id[:16]}")
        alice.call("POST", f"/rooms/{quote(linked)}/unban", {"user_id": ghost_of(bob)})
        bob.note("after")
        timeline.until_text("after")

    assert alice.texts(linked, ghost_of(bob)) == ["before", "after"]


def test_only_a_room_that_everyone_can_read_is_linked(alice: Person, bob: Account) -> None:
    room = alice.create_room(visibility="shared")
    with alice.reading(room) as timeline:
        alice.invite(room, BOT)
        timeline.until_text("Hello")

        alice.say(room, f"!torv link {bob.npub}")
        timeline.until_text("not everyone can read it")

        alice.set_state(room, "m.room.history_visibility", {"history_visibility": "world_readable"})
        alice.say(room, f"!torv link {bob.npub}")
        notice = timeline.until_text("This room is now linked")
    assert "public Nostr note" in notice["content"]["body"]


def test_only_someone_with_power_links_a_room(square: Square, alice: Person, bob: Account) -> None:
    room = alice.create_room()
    erin = square.homeserver.register("erin")
    erin.join(room)
    with alice.reading(room) as timeline:
        alice.invite(room, BOT)
        timeline.until_text("Hello")

        erin.say(room, f"!torv link {bob.npub}")
        timeline.until_text("Only someone with the power")

        alice.say(room, f"!torv link {bob.npub}")
        timeline.until_text("This room is now linked")
        erin.say(room, "!torv unlink")
        timeline.until(lambda event: "Only someone with the power" in str(event["content"].get("body")))


@pytest.mark.parametrize(
    ("type_", "content", "why"),
    [
        (
            "m.room.history_visibility",
            {"history_visibility": "joined"},
            "it can no longer be read by everyone",
        ),
        ("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, "it is encrypted now"),
    ],
)
def test_a_room_that_stops_being_public_is_unlinked(
    alice: Person, bob: Account, linked: str, type_: str, content: dict[str, str], why: str
) -> None:
    other = alice.create_room()
    with alice.reading(other) as timeline:
        alice.invite(other, BOT)
        timeline.until_text("Hello")
        alice.say(other, f"!torv link {bob.npub}")
        timeline.until_text("This room is now linked")
    with alice.reading(linked) as timeline:
        alice.set_state(linked, type_, content)
        timeline.until_text(f"This room is no longer linked with Nostr: {why}.")

        alice.say(linked, "among ourselves")
        alice.say(other, "for everyone")
        ghost = bob.until_note("for everyone").pubkey

    assert "among ourselves" not in bob.notes_by(ghost)


def test_killed_in_the_middle_the_bridge_loses_and_doubles_nothing(
    square: Square, alice: Person, bob: Account, linked: str
) -> None:
    count = 24
    at = 0
    with alice.reading(linked) as timeline:
        for number in range(count):
            alice.say(linked, f"message {number}")
            # A second of its own for each: notes of one second have no order.
            at = bob.note(f"note {number}", at=at + 1 if at else None).created_at
            if number in (6, 12, 18):
                square.kill_bridge()
        alice.say(linked, "last message")
        bob.note("last note", at=at + 1)
        ghost = bob.until_note("last message").pubkey
        timeline.until_text("last note")

    assert bob.notes_by(ghost) == [f"message {number}" for number in range(count)] + ["last message"]
    assert alice.texts(linked, ghost_of(bob)) == [f"note {number}" for number in range(count)] + ["last note"]


def test_a_restart_of_the_homeserver_loses_and_doubles_nothing(
    square: Square, alice: Person, bob: Account, linked: str
) -> None:
    at = bob.note("note 0").created_at
    alice.say(linked, "message 0")
    square.homeserver.stop()
    for number in (1, 2, 3):
        bob.note(f"note {number}", at=at + number)
    # Both at once: the bridge finds no homeserver when it comes back, and Synapse no bridge.
    square.kill_bridge()
    square.homeserver.start()
    with alice.reading(linked) as timeline:
        alice.say(linked, "message 1")
        bob.note("note 4", at=at + 4)
        ghost = bob.until_note("message 1").pubkey
        if "note 4" not in alice.texts(linked):
            timeline.until_text("note 4")

    # Synapse never pushes what was written in its last moment: that is recovered, perhaps after the rest.
    bob.until_note("message 0")
    assert sorted(bob.notes_by(ghost)) == ["message 0", "message 1"]
    assert alice.texts(linked, ghost_of(bob)) == [f"note {number}" for number in range(5)]


def test_a_power_cut_of_relay_and_bridge_loses_and_doubles_nothing(
    square: Square, alice: Person, bob: Account, linked: str
) -> None:
    at = bob.note("note 0").created_at
    for number in range(5):
        alice.say(linked, f"before the cut {number}")
        bob.note(f"note {number + 1}", at=at + number + 1)
    square.served.kill()
    alice.say(linked, "before the cut 5")
    square.served.restart()

    with alice.reading(linked) as timeline, connected(square.served.url) as later:
        alice.say(linked, "after the cut")
        ghost = later.until_note("after the cut").pubkey
        if "note 5" not in alice.texts(linked):
            timeline.until_text("note 5")
        stored = [note.content for note in later.stored(authors=[ghost], kinds=[1])]

    mirrored = sorted(text for text in stored if text.startswith("before the cut"))
    assert mirrored == [f"before the cut {number}" for number in range(6)]
    assert alice.texts(linked, ghost_of(bob)) == [f"note {number}" for number in range(6)]


async def test_a_message_sent_again_after_the_homeservers_restart_is_the_same_message(
    square: Square, alice: Person, bob: Account, linked: str
) -> None:
    ghost = f"@nostr_in_doubt:{SERVER_NAME}"
    payload = {
        "do": "send",
        "as": ghost,
        "room": linked,
        "content": {"msgtype": "m.text", "body": "once"},
        "ts": 1_700_000_000_000,
    }
    task = Task("post in doubt", json.dumps(payload).encode(), None)
    secrets = tokens(load_seed(square.served.data / "bridge.seed"), square.matrix)

    async with PictureFetcher(allow_private=False) as pictures:
        async with MatrixNetwork(square.matrix, secrets, pictures) as network:
            first = await network.deliver(task)
        square.homeserver.restart()
        async with MatrixNetwork(square.matrix, secrets, pictures) as network:
            second = await network.deliver(task)

    assert first == second
    assert alice.texts(linked, ghost) == ["once"]
    path = f"/rooms/{quote(linked)}/event/{quote(str(first))}"
    assert alice.call("GET", path)["origin_server_ts"] == 1_700_000_000_000


async def test_a_room_that_the_bot_cannot_see_is_no_room(square: Square, alice: Person) -> None:
    public, private = alice.create_room(), alice.create_room(visibility="joined")
    secrets = tokens(load_seed(square.served.data / "bridge.seed"), square.matrix)

    async with (
        PictureFetcher(allow_private=False) as pictures,
        MatrixNetwork(square.matrix, secrets, pictures) as network,
    ):
        seen = await network.room(Ref("matrix", public), Ref("matrix", alice.id))
        unseen = await network.room(Ref("matrix", private), Ref("matrix", alice.id))
        missing = await network.room(Ref("matrix", "!nowhere:square.test"), Ref("matrix", alice.id))

    assert seen == Room(world_readable=True, encrypted=False, may_administer=True, may_redact=True)
    assert unseen is None
    assert missing is None
