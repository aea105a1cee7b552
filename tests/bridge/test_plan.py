"""What follows from an operation."""

from dataclasses import replace

from bridge.model import (
    Capabilities,
    Closing,
    Command,
    Copy,
    Delete,
    Echo,
    Identity,
    Invitation,
    Link,
    Place,
    Post,
    Profile,
    ProfileChange,
    React,
    Ref,
    Room,
    RoomClosed,
    Sort,
)
from bridge.plan import (
    NOTHING,
    Accept,
    Confirmed,
    Facts,
    Known,
    LinkEnded,
    LinkMade,
    OptedIn,
    OptedOut,
    Plan,
    PutPicture,
    PutPost,
    PutProfile,
    PutReaction,
    Tell,
    Withdraw,
    Withdrawn,
    plan,
)
from bridge.text import Pointer, plain, rich

CAN = {"matrix": Capabilities(max_text_bytes=10), "nostr": Capabilities(max_text_bytes=100)}
ROOM = Ref("matrix", "!r:x")
ALICE = Ref("matrix", "@alice:x")
BOB = Ref("nostr", "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e")
BOB_NPUB = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"
LINK = Link(ROOM, BOB, 5_000, ALICE)
PUBLIC = Room(world_readable=True, encrypted=False, may_administer=True, may_redact=True)
KNOWN_ALICE = Identity(ALICE, Profile("Alice", None), 4)
KNOWN_BOB = Identity(BOB, Profile("Bob", "https://x/bob.png"), 4)
MESSAGE = Post(Ref("matrix", "$1"), ALICE, ROOM, 6_999, rich("hello"))
NOTE = Post(Ref("nostr", "ab" * 32), BOB, None, 6_000, rich("hello"))


def said(decided: Plan) -> str:
    """Return what the bot says; it must say one thing."""
    (text,) = [each.act.text for each in decided.deliveries if isinstance(each.act, Tell)]
    return text


def test_a_message_in_a_linked_room_becomes_a_note() -> None:
    decided = plan(MESSAGE, Facts(link=LINK, room=PUBLIC, author=KNOWN_ALICE), CAN)

    (delivery,) = decided.deliveries
    assert decided.changes == ()
    assert (delivery.network, delivery.lane, delivery.key) == ("nostr", "@alice:x", "post $1")
    assert delivery.act == PutPost(MESSAGE, KNOWN_ALICE, None)
    assert delivery.copy == Copy(MESSAGE.ref, ALICE, "nostr", "", None, room=ROOM.id)


def test_a_persons_first_message_brings_their_profile_before_it() -> None:
    decided = plan(MESSAGE, Facts(link=LINK, room=PUBLIC, looked_up=Profile("Alice", None)), CAN)

    alice = Identity(ALICE, Profile("Alice", None), 6)
    assert decided.changes == (Known(alice),)
    assert [each.act for each in decided.deliveries] == [PutProfile(alice), PutPost(MESSAGE, alice, None)]
    assert {each.lane for each in decided.deliveries} == {"@alice:x"}


def test_a_message_in_a_room_without_link_goes_nowhere() -> None:
    assert plan(MESSAGE, Facts(author=KNOWN_ALICE), CAN) == NOTHING


def test_a_room_found_private_is_unlinked_instead_of_mirrored() -> None:
    for room, why in [
        (replace(PUBLIC, world_readable=False), "it can no longer be read by everyone"),
        (replace(PUBLIC, encrypted=True), "it is encrypted now"),
        (None, "the bot is no longer in it"),
    ]:
        decided = plan(MESSAGE, Facts(link=LINK, room=room, author=KNOWN_ALICE), CAN)

        assert decided.changes == (LinkEnded(ROOM),)
        assert said(decided) == f"This room is no longer linked with Nostr: {why}."


def test_what_was_written_before_the_link_goes_nowhere() -> None:
    old = replace(MESSAGE, at_ms=4_999)

    assert plan(old, Facts(link=LINK, room=PUBLIC, author=KNOWN_ALICE), CAN) == NOTHING


def test_who_opted_out_is_not_mirrored() -> None:
    assert plan(MESSAGE, Facts(link=LINK, room=PUBLIC, author=KNOWN_ALICE, opted_out=True), CAN) == NOTHING


def test_a_note_goes_to_every_room_that_follows_its_author() -> None:
    other = Link(Ref("matrix", "!other:x"), BOB, 0, ALICE)

    decided = plan(NOTE, Facts(followers=(LINK, other), author=KNOWN_BOB), CAN)

    assert [each.key for each in decided.deliveries] == [
        f"post {NOTE.ref.id} !r:x",
        f"post {NOTE.ref.id} !other:x",
    ]
    assert {(each.network, each.lane) for each in decided.deliveries} == {("matrix", BOB.id)}


def test_a_note_is_not_mirrored_twice_into_a_room() -> None:
    copy = Copy(NOTE.ref, BOB, "matrix", ROOM.id, "$9")

    assert plan(NOTE, Facts(followers=(LINK,), author=KNOWN_BOB, copies=(copy,)), CAN) == NOTHING


def test_echoes_bridged_and_withdrawn_notes_are_dropped() -> None:
    facts = Facts(followers=(LINK,), author=KNOWN_BOB)

    assert plan(replace(NOTE, bridged=True), facts, CAN) == NOTHING
    assert plan(NOTE, replace(facts, is_ours=True), CAN) == NOTHING
    assert plan(NOTE, replace(facts, withdrawn=True), CAN) == NOTHING
    assert plan(replace(NOTE, body=()), facts, CAN) == NOTHING


def test_a_text_too_long_for_the_target_is_cut() -> None:
    decided = plan(replace(NOTE, body=rich("x" * 20)), Facts(followers=(LINK,), author=KNOWN_BOB), CAN)

    act = decided.deliveries[0].act
    assert isinstance(act, PutPost)
    assert plain(act.post.body) == "xxxxxxx…"


def test_our_own_copy_that_comes_back_is_confirmed() -> None:
    echo = Echo(NOTE.ref, Ref("matrix", "$9"), ROOM)

    assert plan(echo, Facts(), CAN) == Plan(changes=(Confirmed(NOTE.ref, ROOM, "$9"),))


def test_a_new_name_is_shown_once() -> None:
    change = ProfileChange(ALICE, ROOM, Profile("Alicia", None), 9_000)
    facts = Facts(link=LINK, author=KNOWN_ALICE)

    decided = plan(change, facts, CAN)

    alicia = Identity(ALICE, Profile("Alicia", None), 9)
    assert decided.changes == (Known(alicia),)
    assert [each.act for each in decided.deliveries] == [PutProfile(alicia)]
    assert plan(change, replace(facts, author=alicia), CAN) == NOTHING


def test_two_profiles_of_one_second_get_different_times() -> None:
    change = ProfileChange(ALICE, ROOM, Profile("Alicia", None), 4_500)

    decided = plan(change, Facts(link=LINK, author=KNOWN_ALICE), CAN)

    assert decided.changes == (Known(Identity(ALICE, Profile("Alicia", None), 5)),)


def test_names_of_strangers_and_in_other_rooms_are_not_shown() -> None:
    change = ProfileChange(ALICE, ROOM, Profile("Alicia", None), 9_000)

    assert plan(change, Facts(link=LINK), CAN) == NOTHING
    assert plan(change, Facts(author=KNOWN_ALICE), CAN) == NOTHING
    assert plan(change, Facts(link=LINK, author=KNOWN_ALICE, opted_out=True), CAN) == NOTHING


def test_a_new_picture_has_a_lane_of_its_own_and_is_not_tried_for_ever() -> None:
    change = ProfileChange(BOB, None, Profile("Bob", "https://x/new.png"), 9_000)

    decided = plan(change, Facts(followers=(LINK,), author=KNOWN_BOB), CAN)

    name, picture = decided.deliveries
    assert isinstance(name.act, PutProfile)
    assert picture.act == PutPicture(BOB, "https://x/new.png")
    assert picture.lane != name.lane
    assert picture.max_attempts == 8


def test_a_picture_that_stays_is_not_fetched_again() -> None:
    change = ProfileChange(BOB, None, Profile("Robert", "https://x/bob.png"), 9_000)

    decided = plan(change, Facts(followers=(LINK,), author=KNOWN_BOB), CAN)

    assert [type(each.act) for each in decided.deliveries] == [PutProfile]


def test_the_author_takes_back_the_copies() -> None:
    copy = Copy(MESSAGE.ref, ALICE, "nostr", "", "cd" * 32)
    delete = Delete((MESSAGE.ref,), ALICE, ROOM, 9_000)

    decided = plan(delete, Facts(link=LINK, author=KNOWN_ALICE, copies=(copy,)), CAN)

    (delivery,) = decided.deliveries
    assert decided.changes == (Withdrawn(MESSAGE.ref, ALICE),)
    assert delivery.act == Withdraw(KNOWN_ALICE, (copy,), 9_000, profile_too=False)
    assert delivery.lane == "@alice:x"


def test_a_moderator_takes_back_what_others_wrote_and_nobody_else_does() -> None:
    copy = Copy(MESSAGE.ref, ALICE, "nostr", "", "cd" * 32)
    delete = Delete((MESSAGE.ref,), Ref("matrix", "@mod:x"), ROOM, 9_000)
    facts = Facts(link=LINK, author=KNOWN_ALICE, copies=(copy,), room=PUBLIC)

    assert len(plan(delete, facts, CAN).deliveries) == 1
    assert plan(delete, replace(facts, room=replace(PUBLIC, may_redact=False)), CAN).deliveries == ()
    assert plan(delete, replace(facts, room=None), CAN).deliveries == ()


def test_a_deletion_that_comes_first_is_remembered() -> None:
    decided = plan(Delete((NOTE.ref,), BOB, None, 9_000), Facts(followers=(LINK,)), CAN)

    assert decided == Plan(changes=(Withdrawn(NOTE.ref, BOB),))


def test_the_bot_follows_an_invitation_and_says_hello() -> None:
    decided = plan(Invitation(Ref("matrix", "$1"), ROOM, ALICE), Facts(), CAN)

    assert decided.deliveries[0].act == Accept(ROOM)
    assert said(decided) == "Hello. Write !torv help."


def test_a_room_that_is_not_public_any_more_is_unlinked_and_told_why() -> None:
    decided = plan(RoomClosed(Ref("matrix", "$1"), ROOM, Closing.PRIVATE), Facts(link=LINK), CAN)

    assert decided.changes == (LinkEnded(ROOM),)
    assert said(decided) == "This room is no longer linked with Nostr: it can no longer be read by everyone."


def test_closing_a_room_without_link_says_nothing() -> None:
    assert plan(RoomClosed(Ref("matrix", "$1"), ROOM, Closing.ENCRYPTED), Facts(), CAN) == NOTHING


def command(text: str) -> Command:
    return Command(Ref("matrix", "$7"), ROOM, ALICE, text, 8_500)


def test_a_room_is_linked_with_a_notice_that_it_is_public_now() -> None:
    facts = Facts(room=PUBLIC, looked_up=Profile("Bob", None))

    decided = plan(command(f"link {BOB_NPUB}"), facts, CAN)

    assert decided.changes[0] == LinkMade(Link(ROOM, BOB, 8_000, ALICE))
    assert decided.changes[1] == Known(Identity(BOB, Profile("Bob", None), 0))
    assert f"linked with Bob on Nostr ({BOB_NPUB})" in said(decided)
    assert "public Nostr note" in said(decided)
    assert "!torv optout" in said(decided)


def test_linking_needs_power_and_an_unencrypted_room_that_all_can_read() -> None:
    for room, answer in [
        (None, "I cannot see this room's settings."),
        (replace(PUBLIC, may_administer=False), "Only someone with the power"),
        (replace(PUBLIC, encrypted=True), "An encrypted room cannot be linked"),
        (replace(PUBLIC, world_readable=False), "not everyone can read it"),
    ]:
        decided = plan(command(f"link {BOB_NPUB}"), Facts(room=room), CAN)

        assert decided.changes == ()
        assert answer in said(decided)


def test_a_room_has_one_link_and_never_one_with_a_ghost() -> None:
    twice = plan(command(f"link {BOB_NPUB}"), Facts(room=PUBLIC, link=LINK), CAN)
    ghost = plan(command(f"link {BOB_NPUB}"), Facts(room=PUBLIC, is_ours=True), CAN)

    assert twice.changes == ghost.changes == ()
    assert "already linked" in said(twice)
    assert "mirrors" in said(ghost)


def test_unlinking_needs_power_too() -> None:
    powerless = replace(PUBLIC, may_administer=False)

    assert plan(command("unlink"), Facts(link=LINK, room=PUBLIC), CAN).changes == (LinkEnded(ROOM),)
    assert plan(command("unlink"), Facts(link=LINK, room=powerless), CAN).changes == ()
    assert plan(command("unlink"), Facts(link=LINK), CAN).changes == ()
    assert said(plan(command("unlink"), Facts(room=PUBLIC), CAN)) == "This room is not linked."


def test_opting_out_deletes_all_that_was_mirrored() -> None:
    copies = tuple(Copy(Ref("matrix", f"${i}"), ALICE, "nostr", "", f"{i:064x}") for i in range(501))

    decided = plan(command("optout"), Facts(author=KNOWN_ALICE, copies=copies), CAN)

    assert decided.changes[0] == OptedOut(ALICE, "nostr", "@alice:x", 8_500)
    hidden = Identity(ALICE, Profile(None, None), 8, shown=False)
    assert decided.changes[1] == Known(hidden)
    acts = [each.act for each in decided.deliveries if isinstance(each.act, Withdraw)]
    assert [(len(act.copies), act.profile_too) for act in acts] == [(500, True), (1, False)]
    assert "not published on Nostr any more" in said(decided)


def test_a_stranger_who_opts_out_is_only_remembered() -> None:
    decided = plan(command("optout"), Facts(), CAN)

    assert decided.changes == (OptedOut(ALICE, "nostr", "@alice:x", 8_500),)
    assert len(decided.deliveries) == 1


def test_who_opts_in_again_is_shown_with_the_next_message() -> None:
    hidden = Identity(ALICE, Profile(None, None), 8, shown=False)

    opted_in = plan(command("optin"), Facts(), CAN)
    decided = plan(
        MESSAGE, Facts(link=LINK, room=PUBLIC, author=hidden, looked_up=Profile("Alice", None)), CAN
    )

    assert opted_in.changes == (OptedIn(ALICE),)
    # Later than the deletion of the profile, though the message has an earlier time.
    shown = Identity(ALICE, Profile("Alice", None), 9)
    assert decided.changes == (Known(shown),)
    assert [type(each.act) for each in decided.deliveries] == [PutProfile, PutPost]


ANSWERED = Ref("matrix", "$0")
BOBS_NOTE = Ref("nostr", "cd" * 32)
THERE = Place("nostr", BOBS_NOTE.id, BOB, BOBS_NOTE)
REACTION = React(Ref("matrix", "$2"), ALICE, ROOM, 6_999, ANSWERED, "👍")


def test_an_answer_names_what_it_answers_as_it_is_known_there() -> None:
    answer = replace(MESSAGE, reply_to=ANSWERED)
    facts = Facts(link=LINK, room=PUBLIC, author=KNOWN_ALICE, places={(ANSWERED, ""): THERE})

    (delivery,) = plan(answer, facts, CAN).deliveries

    assert delivery.act == PutPost(answer, KNOWN_ALICE, None, THERE)
    assert delivery.needs == ()
    assert delivery.copy is not None
    assert delivery.copy.thread == ANSWERED


def test_an_answer_to_what_is_not_there_becomes_a_post_with_a_link_to_it() -> None:
    answer = replace(MESSAGE, reply_to=ANSWERED)

    (delivery,) = plan(answer, Facts(link=LINK, room=PUBLIC, author=KNOWN_ALICE), CAN).deliveries

    assert isinstance(delivery.act, PutPost)
    assert delivery.act.reply_to is None
    assert plain(delivery.act.post.body) == "https://matrix.to/#/!r:x/$0\nhello"


def test_an_answer_waits_for_the_copy_that_it_answers() -> None:
    place = Place("matrix", None, None, BOBS_NOTE)
    answer = replace(NOTE, reply_to=BOBS_NOTE, thread=BOBS_NOTE)
    facts = Facts(followers=(LINK,), author=KNOWN_BOB, places={(BOBS_NOTE, ROOM.id): place})

    (delivery,) = plan(answer, facts, CAN).deliveries

    assert delivery.needs == (BOBS_NOTE,)


def test_a_reaction_goes_to_the_copy_of_its_target() -> None:
    facts = Facts(link=LINK, room=PUBLIC, author=KNOWN_ALICE, places={(ANSWERED, ""): THERE})

    (delivery,) = plan(REACTION, facts, CAN).deliveries

    assert delivery.key == "reaction $2"
    assert delivery.act == PutReaction(REACTION, KNOWN_ALICE, None, THERE)
    assert delivery.copy == Copy(REACTION.ref, ALICE, "nostr", "", None, Sort.REACTION, room=ROOM.id)


def test_a_reaction_to_what_is_not_there_goes_nowhere() -> None:
    assert plan(REACTION, Facts(link=LINK, room=PUBLIC, author=KNOWN_ALICE), CAN) == NOTHING


def test_posts_that_a_text_points_to_are_named_as_they_are_known_there() -> None:
    post = replace(MESSAGE, body=(Pointer(ANSWERED, "that"),))
    facts = Facts(link=LINK, room=PUBLIC, author=KNOWN_ALICE, places={(ANSWERED, ""): THERE})

    (delivery,) = plan(post, facts, CAN).deliveries

    assert isinstance(delivery.act, PutPost)
    assert delivery.act.post.body == (Pointer(BOBS_NOTE, "that"),)
