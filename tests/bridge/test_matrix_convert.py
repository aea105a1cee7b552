"""From Matrix events to operations, and from acts to requests."""

import json
from typing import Any

import pytest

from bridge.model import (
    Closing,
    Command,
    Delete,
    Echo,
    Identity,
    Invitation,
    Op,
    Place,
    Post,
    Profile,
    ProfileChange,
    React,
    Ref,
    RoomClosed,
)
from bridge.network import Unreadable
from bridge.networks.matrix.convert import (
    answer_relation,
    power_level,
    reaction_relation,
    to_op,
    to_request,
    to_room,
)
from bridge.networks.matrix.settings import MatrixConfig
from bridge.plan import PutPost, PutProfile, PutReaction, Tell
from bridge.text import Hashtag, Link, Mention, RichText, Style, Styled, Text, rich

CONFIG = MatrixConfig(homeserver="http://127.0.0.1:8008", server_name="example.org")
ROOM = Ref("matrix", "!room:example.org")
ALICE = Ref("matrix", "@alice:example.org")
NOTE = Ref("nostr", "ab" * 32)
BOB = Ref("nostr", "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e")
BOB_GHOST = "@nostr_npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg:example.org"


def read(type_: str, content: dict[str, Any], **more: Any) -> Op | None:
    event = {
        "type": type_,
        "room_id": ROOM.id,
        "sender": ALICE.id,
        "event_id": "$1",
        "origin_server_ts": 1_700_000_000_123,
        "content": content,
        **more,
    }
    return to_op(json.dumps(event).encode(), CONFIG)


def text(body: object, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body, **more}


def test_a_text_message_is_a_post() -> None:
    assert read("m.room.message", text("hello\nthere ")) == Post(
        Ref("matrix", "$1"), ALICE, ROOM, 1_700_000_000_123, rich("hello\nthere")
    )


def test_what_follows_the_bots_name_is_a_command() -> None:
    assert read("m.room.message", text("!torv  link npub1x")) == Command(
        Ref("matrix", "$1"), ROOM, ALICE, "link npub1x", 1_700_000_000_123
    )
    assert isinstance(read("m.room.message", text("!torvald said so")), Post)


@pytest.mark.parametrize(
    "content",
    [
        {"msgtype": "m.notice", "body": "a bot speaks"},
        {"msgtype": "m.image", "body": "cat.png", "url": "mxc://x/y"},
        {"msgtype": "m.text"},
        {"msgtype": "m.text", "body": 7},
        {},
        text("* edited", **{"m.relates_to": {"rel_type": "m.replace", "event_id": "$0"}}),
    ],
)
def test_messages_without_a_text_of_their_own_are_passed_over(content: dict[str, Any]) -> None:
    assert read("m.room.message", content) is None


def test_the_quotation_before_a_reply_is_dropped() -> None:
    body = "> <@bob:example.org> question\n> more\n\nanswer"

    post = read("m.room.message", text(body, **{"m.relates_to": {"m.in_reply_to": {"event_id": "$0"}}}))

    assert isinstance(post, Post)
    assert post.body == rich("answer")


def test_our_ghosts_message_is_an_echo_and_never_a_post() -> None:
    marked = text("hi", **{"dev.torv.source": {"network": "nostr", "id": NOTE.id}})

    assert read("m.room.message", marked, sender=BOB_GHOST) == Echo(NOTE, Ref("matrix", "$1"), ROOM)
    assert read("m.room.message", text("hi"), sender=BOB_GHOST) is None
    assert read("m.room.message", text("hi"), sender="@torv:example.org") is None


def test_another_users_marker_means_nothing() -> None:
    marked = text("hi", **{"dev.torv.source": {"network": "nostr", "id": NOTE.id}})

    assert isinstance(read("m.room.message", marked), Post)


def test_a_namesake_on_another_server_is_not_ours() -> None:
    assert isinstance(read("m.room.message", text("hi"), sender="@nostr_x:example.com"), Post)


@pytest.mark.parametrize("where", ["event", "content"])
def test_a_redaction_takes_back_in_old_and_new_rooms(where: str) -> None:
    names = {"redacts": "$0"}

    op = read("m.room.redaction", names if where == "content" else {}, **names if where == "event" else {})

    assert op == Delete((Ref("matrix", "$0"),), ALICE, ROOM, 1_700_000_000_123)


def test_membership_tells_names_invitations_and_goodbyes() -> None:
    renamed = read("m.room.member", {"membership": "join", "displayname": "Al\u202eice"}, state_key=ALICE.id)
    invited = read("m.room.member", {"membership": "invite"}, state_key="@torv:example.org")
    kicked = read("m.room.member", {"membership": "leave"}, state_key="@torv:example.org")

    assert renamed == ProfileChange(ALICE, ROOM, Profile("Alice", None), 1_700_000_000_123)
    assert invited == Invitation(Ref("matrix", "$1"), ROOM, ALICE)
    assert kicked == RoomClosed(Ref("matrix", "$1"), ROOM, Closing.LEFT)


@pytest.mark.parametrize(
    ("type_", "content", "why"),
    [
        ("m.room.history_visibility", {"history_visibility": "shared"}, Closing.PRIVATE),
        ("m.room.history_visibility", {}, Closing.PRIVATE),
        ("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, Closing.ENCRYPTED),
    ],
)
def test_a_room_that_stops_being_public_closes(type_: str, content: dict[str, Any], why: Closing) -> None:
    assert read(type_, content, state_key="") == RoomClosed(Ref("matrix", "$1"), ROOM, why)
    # Only the empty state key is the room's.
    assert read(type_, content, state_key="x") is None


def test_a_room_that_stays_public_does_not_close() -> None:
    assert read("m.room.history_visibility", {"history_visibility": "world_readable"}, state_key="") is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"7", b"{", b'{"type":"m.room.message"}'])
def test_what_is_no_event_is_unreadable(raw: bytes) -> None:
    with pytest.raises(Unreadable):
        to_op(raw, CONFIG)


@pytest.mark.parametrize("at_ms", [-1, 1e3, "1", 2**32 * 1000])
def test_a_time_that_nostr_cannot_hold_is_unreadable(at_ms: object) -> None:
    with pytest.raises(Unreadable):
        read("m.room.message", text("hello"), origin_server_ts=at_ms)


def test_power_is_the_users_level_or_the_default() -> None:
    create = {"sender": ALICE.id, "content": {"room_version": "11"}}
    levels = {"users": {"@mod:example.org": 50, "@old:example.org": "75"}, "users_default": 5}

    assert power_level(create, levels, "@mod:example.org") == 50
    assert power_level(create, levels, "@old:example.org") == 75
    assert power_level(create, levels, ALICE.id) == 5
    assert power_level(create, {"users": {"@x:y": True}}, "@x:y") == 0


def test_without_power_levels_only_the_creator_has_power() -> None:
    create = {"sender": ALICE.id, "content": {}}

    assert power_level(create, None, ALICE.id) == 100
    assert power_level(create, None, "@bob:example.org") == 0


def test_creators_have_all_power_from_room_version_12_on() -> None:
    create = {
        "sender": ALICE.id,
        "content": {"room_version": "12", "additional_creators": ["@carol:example.org"]},
    }

    assert power_level(create, {"users": {}}, ALICE.id) == float("inf")
    assert power_level(create, {"users": {}}, "@carol:example.org") == float("inf")
    assert power_level(create, {"users": {}}, "@bob:example.org") == 0


def test_a_room_is_read_from_its_state() -> None:
    create = {"sender": ALICE.id, "content": {"room_version": "11"}}
    levels = {"users": {ALICE.id: 60}, "state_default": 70, "redact": 40}

    room = to_room(create, levels, {"history_visibility": "world_readable"}, None, ALICE.id)

    assert (room.world_readable, room.encrypted) == (True, False)
    assert (room.may_administer, room.may_redact) == (False, True)


def test_a_room_without_visibility_is_not_public() -> None:
    create = {"sender": ALICE.id, "content": {}}

    assert not to_room(create, None, None, None, ALICE.id).world_readable
    assert to_room(create, None, None, {"algorithm": "x"}, ALICE.id).encrypted


def test_a_note_becomes_a_message_of_its_authors_ghost() -> None:
    bob = Identity(BOB, Profile("Bob", None), 0)
    post = Post(NOTE, BOB, None, 1_700_000_000_000, rich("hello"))

    assert to_request(PutPost(post, bob, ROOM), CONFIG) == {
        "do": "send",
        "as": BOB_GHOST,
        "room": "!room:example.org",
        "content": {
            "msgtype": "m.text",
            "body": "hello",
            "m.mentions": {},
            "dev.torv.source": {"network": "nostr", "id": NOTE.id},
        },
        "ts": 1_700_000_000_000,
    }


def test_a_ghost_shows_its_name_with_its_network() -> None:
    act = PutProfile(Identity(BOB, Profile("Bob", None), 0))

    assert to_request(act, CONFIG) == {"do": "name", "as": BOB_GHOST, "name": "Bob (Nostr)"}


def test_the_bot_speaks_in_notices() -> None:
    request = to_request(Tell(ROOM, "hello"), CONFIG)

    assert request["as"] == "@torv:example.org"
    assert request["content"] == {"msgtype": "m.notice", "body": "hello", "m.mentions": {}}


def test_formatted_text_is_read_as_its_sender_formatted_it() -> None:
    html = 'hi <a href="https://matrix.to/#/@bob:example.org">Bob</a>, <strong>look</strong>'
    content = text("hi Bob, look", format="org.matrix.custom.html", formatted_body=html)

    post = read("m.room.message", content)

    assert isinstance(post, Post)
    assert post.body == (
        Text("hi "),
        Mention(Ref("matrix", "@bob:example.org"), "Bob"),
        Text(", "),
        Styled(Style.STRONG, (Text("look"),)),
    )


def test_html_that_is_too_much_gives_way_to_the_plain_text() -> None:
    content = text("short", format="org.matrix.custom.html", formatted_body="<br>" * 30_000)

    post = read("m.room.message", content)

    assert isinstance(post, Post)
    assert post.body == rich("short")


def test_formatted_text_and_mentions_are_written_as_clients_show_them() -> None:
    alice = Mention(ALICE, "Alice")
    body: RichText = (alice, Text(", see "), Styled(Style.STRONG, (Text("this"),)))
    post = Post(NOTE, BOB, None, 1_700_000_000_000, body)

    request = to_request(PutPost(post, Identity(BOB, Profile("Bob", None), 0), ROOM), CONFIG)

    assert request["content"] == {
        "msgtype": "m.text",
        "body": "@Alice, see **this**",
        "format": "org.matrix.custom.html",
        "formatted_body": f'<a href="https://matrix.to/#/{ALICE.id}">Alice</a>, see <strong>this</strong>',
        "m.mentions": {"user_ids": [ALICE.id]},
        "dev.torv.source": {"network": "nostr", "id": NOTE.id},
    }


def test_links_and_hashtags_alone_need_no_html() -> None:
    body: RichText = (Hashtag("nostr"), Text(" "), Link("https://x.org/", (Text("https://x.org/"),)))
    post = Post(NOTE, BOB, None, 1_700_000_000_000, body)

    request = to_request(PutPost(post, Identity(BOB, Profile("Bob", None), 0), ROOM), CONFIG)

    content = request["content"]
    assert isinstance(content, dict)
    assert content["body"] == "#nostr https://x.org/"
    assert "formatted_body" not in content


@pytest.mark.parametrize(
    ("relation", "reply_to", "thread"),
    [
        ({"m.in_reply_to": {"event_id": "$p"}}, "$p", None),
        ({"rel_type": "m.thread", "event_id": "$r", "m.in_reply_to": {"event_id": "$p"}}, "$p", "$r"),
        (
            {
                "rel_type": "m.thread",
                "event_id": "$r",
                "is_falling_back": True,
                "m.in_reply_to": {"event_id": "$p"},
            },
            "$r",
            "$r",
        ),
        ({"rel_type": "m.thread", "event_id": "$r"}, "$r", "$r"),
        ({"m.in_reply_to": "junk"}, None, None),
        ({"rel_type": "m.thread", "event_id": 7}, None, None),
    ],
)
def test_what_a_message_answers_is_read(
    relation: dict[str, Any], reply_to: str | None, thread: str | None
) -> None:
    post = read("m.room.message", text("hi", **{"m.relates_to": relation}))

    assert isinstance(post, Post)
    assert post.reply_to == (Ref("matrix", reply_to) if reply_to else None)
    assert post.thread == (Ref("matrix", thread) if thread else None)


def test_a_reaction_is_read_and_our_own_is_an_echo() -> None:
    relation = {"rel_type": "m.annotation", "event_id": "$0", "key": "🔥"}
    content = {"m.relates_to": relation}

    assert read("m.reaction", content) == React(
        Ref("matrix", "$1"), ALICE, ROOM, 1_700_000_000_123, Ref("matrix", "$0"), "🔥"
    )
    assert read("m.reaction", {"m.relates_to": relation | {"key": " "}}) is None
    assert read("m.reaction", {}) is None
    marked = content | {"dev.torv.source": {"network": "nostr", "id": NOTE.id}}
    assert read("m.reaction", marked, sender=BOB_GHOST) == Echo(NOTE, Ref("matrix", "$1"), ROOM)


def test_an_answer_names_ids_that_are_known_only_when_it_is_sent() -> None:
    parent, root = Ref("nostr", "cd" * 32), Ref("nostr", "ef" * 32)
    place = Place("matrix", None, None, parent, Place("matrix", None, None, root))
    post = Post(NOTE, BOB, None, 1_700_000_000_000, rich("hello"))
    request = to_request(PutPost(post, Identity(BOB, Profile("Bob", None), 0), ROOM, place), CONFIG)
    ids = request["answers"]
    assert isinstance(ids, dict)

    assert answer_relation(ids, {parent: "$p", root: "$r"}) == {
        "m.relates_to": {
            "rel_type": "m.thread",
            "event_id": "$r",
            "is_falling_back": False,
            "m.in_reply_to": {"event_id": "$p"},
        }
    }
    assert answer_relation(ids, {parent: "$p"}) == {"m.relates_to": {"m.in_reply_to": {"event_id": "$p"}}}
    assert answer_relation(ids, {}) == {}


def test_a_reaction_to_what_was_never_sent_has_no_target() -> None:
    reaction = React(NOTE, BOB, None, 1_700_000_000_000, Ref("nostr", "cd" * 32), "🔥")
    place = Place("matrix", None, None, reaction.target)
    request = to_request(PutReaction(reaction, Identity(BOB, Profile("Bob", None), 0), ROOM, place), CONFIG)
    ids = request["to"]
    assert isinstance(ids, dict)

    assert request["do"] == "react"
    assert reaction_relation(ids, request["key"], {}) is None
    assert reaction_relation(ids, request["key"], {reaction.target: "$p"}) == {
        "m.relates_to": {"rel_type": "m.annotation", "event_id": "$p", "key": "🔥"}
    }


def test_a_text_too_long_to_be_sent_in_both_forms_is_sent_as_text() -> None:
    body: RichText = (Styled(Style.STRONG, (Text("x" * 29_000),)),)
    post = Post(NOTE, BOB, None, 1_700_000_000_000, body)

    request = to_request(PutPost(post, Identity(BOB, Profile("Bob", None), 0), ROOM), CONFIG)

    content = request["content"]
    assert isinstance(content, dict)
    assert content["body"] == f"**{'x' * 29_000}**"
    assert "formatted_body" not in content
