"""From Nostr events to operations, and from acts to events."""

import json

import pytest

from bridge.model import Copy, Delete, Identity, Post, Profile, ProfileChange, Ref
from bridge.networks.nostr.convert import to_deletion, to_note, to_op, to_profile, to_profile_event
from bridge.plan import PutPost, PutProfile, Withdraw
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
