"""From Nostr events to operations, and from acts to events."""

import json

import pytest

from bridge.model import Copy, Delete, Identity, Place, Post, Profile, ProfileChange, React, Ref
from bridge.networks.nostr.convert import (
    to_deletion,
    to_note,
    to_op,
    to_profile,
    to_profile_event,
    to_reaction,
)
from bridge.plan import PutPost, PutProfile, PutReaction, Withdraw
from bridge.text import rich
from relay.nostr.event import check_event, encode, sign
from relay.nostr.keys import SecretKey

SEED = bytes(range(32))
SECRET = SecretKey(bytes(31) + b"\x01")
BOB = Ref("nostr", SECRET.public)
ALICE = Identity(Ref("matrix", "@alice:example.org"), Profile("Alice", None), 1_700_000_000)
MESSAGE = Post(
    Ref("matrix", "$1"), ALICE.person, Ref("matrix", "!r:example.org"), 1_700_000_000_999, rich("hello")
)


def test_a_note_is_a_post() -> None:
    event = sign(SECRET, created_at=1_700_000_000, kind=1, content="hello")

    assert to_op(event) == Post(Ref("nostr", event.id), BOB, None, 1_700_000_000_000, rich("hello"))


def test_a_note_with_a_proxy_tag_is_a_bridged_one() -> None:
    event = sign(SECRET, created_at=1, kind=1, tags=[("proxy", "https://x/1", "activitypub")], content="hi")

    post = to_op(event)

    assert isinstance(post, Post)
    assert post.bridged


def test_a_deletion_names_its_events() -> None:
    tags = [("e", "ab" * 32), ("e", "junk"), ("e",), ("a", f"0:{SECRET.public}:"), ("e", "cd" * 32)]

    op = to_op(sign(SECRET, created_at=5, kind=5, tags=tags))

    assert op == Delete((Ref("nostr", "ab" * 32), Ref("nostr", "cd" * 32)), BOB, None, 5000)


def test_a_deletion_of_no_event_means_nothing() -> None:
    assert to_op(sign(SECRET, created_at=5, kind=5, tags=[("e", "junk")])) is None


def test_other_kinds_mean_nothing() -> None:
    assert to_op(sign(SECRET, created_at=5, kind=7, content="+")) is None


@pytest.mark.parametrize(
    ("content", "profile"),
    [
        (
            '{"name":"bob","display_name":"Bob B.","picture":"https://x/p.png"}',
            Profile("Bob B.", "https://x/p.png"),
        ),
        ('{"name":"bob","display_name":""}', Profile("bob", None)),
        ('{"name":"bo\\u202eb"}', Profile("bob", None)),
        ('{"name":7,"picture":[]}', Profile(None, None)),
        ("{}", Profile(None, None)),
        ("[]", Profile(None, None)),
        ("not json", Profile(None, None)),
        ('{"name":"' + "x" * 70_000 + '"}', Profile(None, None)),
    ],
)
def test_profiles_are_read_however_they_are_written(content: str, profile: Profile) -> None:
    event = sign(SECRET, created_at=5, kind=0, content=content)

    assert to_profile(event) == profile
    assert to_op(event) == ProfileChange(BOB, None, profile, 5000)


def test_a_message_becomes_the_same_note_always() -> None:
    event = to_note(SEED, PutPost(MESSAGE, ALICE, None))

    check_event(event)
    assert encode(to_note(SEED, PutPost(MESSAGE, ALICE, None))) == encode(event)
    assert (event.kind, event.created_at, event.content) == (1, 1_700_000_000, "hello")
    assert event.tags == (("proxy", "$1", "matrix"),)


def test_a_ghost_shows_where_its_person_is() -> None:
    event = to_profile_event(SEED, PutProfile(ALICE))

    check_event(event)
    assert (event.kind, event.created_at) == (0, 1_700_000_000)
    assert event.tags == (("proxy", "@alice:example.org", "matrix"),)
    fields = json.loads(event.content)
    assert fields["name"] == "Alice (Matrix)"
    assert "@alice:example.org" in fields["about"]
    assert "picture" not in fields


def test_a_ghost_takes_back_its_notes_and_its_profile() -> None:
    copy = Copy(MESSAGE.ref, ALICE.person, "nostr", "", "ab" * 32)

    event = to_deletion(SEED, Withdraw(ALICE, (copy,), 1_700_000_005_500, profile_too=True))

    check_event(event)
    assert (event.kind, event.created_at) == (5, 1_700_000_005)
    assert event.tags == (
        ("e", "ab" * 32),
        ("k", "1"),
        ("a", f"0:{event.pubkey}:"),
        ("k", "0"),
    )


ROOT, PARENT = "aa" * 32, "bb" * 32


@pytest.mark.parametrize(
    ("tags", "thread", "reply_to"),
    [
        ([("e", ROOT, "", "root")], ROOT, ROOT),
        ([("e", ROOT, "", "root"), ("e", PARENT, "", "reply")], ROOT, PARENT),
        ([("e", PARENT, "", "reply")], PARENT, PARENT),
        ([("e", ROOT), ("e", "cc" * 32), ("e", PARENT)], ROOT, PARENT),
        ([("e", ROOT, "", "mention")], None, None),
        ([("e", "junk", "", "root")], None, None),
        ([("q", ROOT)], None, None),
    ],
)
def test_what_a_note_answers_is_read_from_its_tags(
    tags: list[tuple[str, ...]], thread: str | None, reply_to: str | None
) -> None:
    post = to_op(sign(SECRET, created_at=1, kind=1, tags=tags, content="hi"))

    assert isinstance(post, Post)
    assert post.thread == (Ref("nostr", thread) if thread else None)
    assert post.reply_to == (Ref("nostr", reply_to) if reply_to else None)


@pytest.mark.parametrize(
    ("content", "tags", "key", "url"),
    [
        ("+", [], "👍", None),
        ("", [], "👍", None),
        ("-", [], "👎", None),
        ("🔥", [], "🔥", None),
        (":cat:", [("emoji", "cat", "https://x.org/cat.png")], ":cat:", "https://x.org/cat.png"),
    ],
)
def test_reactions_are_read(content: str, tags: list[tuple[str, ...]], key: str, url: str | None) -> None:
    event = sign(SECRET, created_at=1, kind=7, tags=[("e", ROOT), ("e", PARENT), *tags], content=content)

    target = Ref("nostr", PARENT)
    assert to_op(event) == React(Ref("nostr", event.id), BOB, None, 1000, target, key, url)


def test_a_text_is_no_reaction_and_neither_is_one_to_nothing() -> None:
    assert to_op(sign(SECRET, created_at=1, kind=7, tags=[("e", ROOT)], content="x" * 33)) is None
    assert to_op(sign(SECRET, created_at=1, kind=7, tags=[("e", "junk")], content="+")) is None


def test_an_answer_is_tagged_with_its_conversation() -> None:
    began = Place("nostr", ROOT, None, Ref("nostr", ROOT))
    within = Place("nostr", PARENT, BOB, Ref("nostr", PARENT), began)

    assert to_note(SEED, PutPost(MESSAGE, ALICE, None, within)).tags == (
        ("e", ROOT, "", "root"),
        ("e", PARENT, "", "reply"),
        ("p", BOB.id),
        ("proxy", "$1", "matrix"),
    )
    assert to_note(SEED, PutPost(MESSAGE, ALICE, None, began)).tags == (
        ("e", ROOT, "", "root"),
        ("proxy", "$1", "matrix"),
    )


def test_a_reaction_becomes_the_same_event_always() -> None:
    target = Place("nostr", PARENT, BOB, Ref("nostr", PARENT))
    reaction = React(Ref("matrix", "$2"), ALICE.person, None, 1_700_000_000_999, Ref("matrix", "$1"), "👍")

    event = to_reaction(SEED, PutReaction(reaction, ALICE, None, target))

    assert (event.kind, event.content, event.created_at) == (7, "+", 1_700_000_000)
    assert event.tags == (("e", PARENT), ("p", BOB.id), ("k", "1"), ("proxy", "$2", "matrix"))
    assert to_reaction(SEED, PutReaction(reaction, ALICE, None, target)) == event
