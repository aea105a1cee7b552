"""What follows from an operation: decided here, once, without looking at any clock, file or socket.

Equal operations and equal facts give an equal plan. The plan becomes durable in one transaction with
the mark that its arrival is done; only then is anything of it sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from bridge.commands import PREFIX, Explain, LinkRoom, OptIn, OptOut, UnlinkRoom, parse_order
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
    Op,
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
from bridge.text import Mention, Node, Pointer, RichText, Text, mapped, shorten
from relay.nostr import nip19
from relay.nostr.event import EventId, PubKey

NOSTR = "nostr"

MAX_WITHDRAWN = 500
"""Copies taken back by one act: keeps a Nostr deletion far below what relays accept."""

PICTURE_ATTEMPTS = 8
"""A picture's host is anybody's: it is not tried for ever."""


@dataclass(frozen=True, slots=True)
class PutPost:
    """Let a post appear, written by its author's ghost."""

    post: Post
    author: Identity
    room: Ref | None
    """The room it goes to; None where the target has no rooms."""
    reply_to: Place | None = None
    """What it answers there."""


@dataclass(frozen=True, slots=True)
class PutReaction:
    """Let a mark appear on a post, put there by its author's ghost."""

    reaction: React
    author: Identity
    room: Ref | None
    target: Place


@dataclass(frozen=True, slots=True)
class PutProfile:
    """Show a ghost's name."""

    identity: Identity


@dataclass(frozen=True, slots=True)
class PutPicture:
    """Show a ghost's picture; None takes it away."""

    person: Ref
    url: str | None


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take copies back."""

    author: Identity
    copies: tuple[Copy, ...]
    at_ms: int
    profile_too: bool
    """Whether the ghost's profile goes as well."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Let the bot say something in a room."""

    room: Ref
    text: str


@dataclass(frozen=True, slots=True)
class Accept:
    """Let the bot follow an invitation."""

    room: Ref


Act = PutPost | PutReaction | PutProfile | PutPicture | Withdraw | Tell | Accept


@dataclass(frozen=True, slots=True)
class Delivery:
    """An act for one network, in the order of its lane."""

    network: str
    lane: str
    key: str
    """Names the delivery for ever: planned again, it is the same delivery."""
    act: Act
    copy: Copy | None = None
    """The copy that this makes or takes back."""
    max_attempts: int | None = None
    """None: until it succeeds or is rejected."""
    needs: tuple[Ref, ...] = ()
    """Originals whose copies have to be there before, for this names them by the ids they get."""


@dataclass(frozen=True, slots=True)
class LinkMade:
    link: Link


@dataclass(frozen=True, slots=True)
class LinkEnded:
    room: Ref


@dataclass(frozen=True, slots=True)
class OptedOut:
    """`person` is not mirrored any more; their lane on `network` is emptied."""

    person: Ref
    network: str
    lane: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class OptedIn:
    person: Ref


@dataclass(frozen=True, slots=True)
class Known:
    identity: Identity


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """`by` took `target` back; should it still arrive, it is dropped."""

    target: Ref
    by: Ref


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A copy was seen where it was sent to; sending it again is needless."""

    origin: Ref
    room: Ref
    native_id: str


Change = LinkMade | LinkEnded | OptedOut | OptedIn | Known | Withdrawn | Confirmed


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about an operation's people, rooms and references when it is planned."""

    link: Link | None = None
    """Of the room it happened in."""
    followers: tuple[Link, ...] = ()
    """The links that follow the acting person."""
    author: Identity | None = None
    """The acting person, if mirrored before; for a link, the account to follow."""
    looked_up: Profile | None = None
    """Their profile, looked up if they were not known."""
    opted_out: bool = False
    is_ours: bool = False
    """Whether the person is one of our ghosts, or the post one of our copies."""
    withdrawn: bool = False
    """Whether its author took it back before it arrived."""
    copies: tuple[Copy, ...] = ()
    """Of the post, of a deletion's targets, or for an opt-out of all that the person wrote."""
    room: Room | None = None
    """The room it happened in, as it is now, for the acting person."""
    thread: Ref | None = None
    """The post that began the conversation of what it answers, on its own network."""
    places: Mapping[tuple[Ref, str], Place] = field(default_factory=dict)
    """The posts that it refers to, as they are known where it goes: (post, room there or "")."""
    people: Mapping[Ref, Mention] = field(default_factory=dict)
    """Who is mentioned in it, as the other network knows them; who is not known there is left out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to remember and what to send, in order."""

    changes: tuple[Change, ...] = ()
    deliveries: tuple[Delivery, ...] = ()


NOTHING = Plan()


def plan(op: Op, facts: Facts, can: Mapping[str, Capabilities]) -> Plan:
    """Decide what follows from an operation. Pure and total."""
    match op:
        case Post():
            return _post(op, facts, can)
        case React():
            return _react(op, facts)
        case ProfileChange():
            return _profile_change(op, facts)
        case Delete():
            return _delete(op, facts)
        case Command():
            return _command(op, facts)
        case Invitation():
            return _invitation(op)
        case RoomClosed():
            return _room_closed(op, facts)
        case Echo():
            return Plan(changes=(Confirmed(op.origin, op.room, op.copy.id),))
        case _:
            assert_never(op)


def _post(post: Post, facts: Facts, can: Mapping[str, Capabilities]) -> Plan:
    if not post.body:
        return NOTHING
    if closed := _found_closed(post, facts):
        return closed
    links = _open_links(post, facts)
    if not links:
        return NOTHING
    author, shown = _shown_author(post, facts, links[0])
    deliveries = list(shown.deliveries)
    for link in links:
        target, room, there = _destination(post, link)
        parent = facts.places.get((post.reply_to, there)) if post.reply_to else None
        body = _known_there(post.body, facts, there)
        if post.reply_to is not None and parent is None:
            # What it answers is not there: with a link to it, it is no answer to nothing.
            body = (Pointer(post.reply_to, _shown_link(post.reply_to, post.room)), Text("\n"), *body)
        fitting = replace(post, body=shorten(body, can[target].max_text_bytes))
        thread = post.thread or facts.thread or post.reply_to
        copy = Copy(post.ref, post.author, target, there, None, thread=thread, room=_room_id(post))
        act = PutPost(fitting, author, room, parent)
        key = f"post {post.ref.id} {there}".rstrip()
        deliveries.append(Delivery(target, post.author.id, key, act, copy, needs=_needs(parent)))
    return Plan(shown.changes, tuple(deliveries))


def _react(reaction: React, facts: Facts) -> Plan:
    if closed := _found_closed(reaction, facts):
        return closed
    links = tuple(
        link
        for link in _open_links(reaction, facts)
        if (reaction.target, _destination(reaction, link)[2]) in facts.places
    )
    if not links:
        return NOTHING
    author, shown = _shown_author(reaction, facts, links[0])
    deliveries = list(shown.deliveries)
    for link in links:
        target, room, there = _destination(reaction, link)
        place = facts.places[reaction.target, there]
        copy = Copy(
            reaction.ref, reaction.author, target, there, None, Sort.REACTION, room=_room_id(reaction)
        )
        act = PutReaction(reaction, author, room, place)
        key = f"reaction {reaction.ref.id} {there}".rstrip()
        deliveries.append(Delivery(target, reaction.author.id, key, act, copy, needs=_needs(place)))
    return Plan(shown.changes, tuple(deliveries))


def _found_closed(op: Post | React, facts: Facts) -> Plan | None:
    """Return the end of the room's link, if the room turns out not to be public any more."""
    if op.room is None or facts.link is None or _is_dropped(op, facts):
        return None
    # Its closing should have come before; should that be lost, nothing private may become public.
    why = _why_closed(facts.room)
    return _room_closed(RoomClosed(op.ref, op.room, why), facts) if why else None


def _is_dropped(op: Post | React, facts: Facts) -> bool:
    # What is bridged came from another network; sent on, it could come round again.
    return facts.is_ours or op.bridged or facts.opted_out or facts.withdrawn


def _open_links(op: Post | React, facts: Facts) -> tuple[Link, ...]:
    """Return the links that carry this, and have not carried it yet."""
    if _is_dropped(op, facts):
        return ()
    links = facts.followers if op.room is None else (facts.link,) if facts.link else ()
    mirrored = {copy.target for copy in facts.copies}
    return tuple(
        link for link in links if op.at_ms >= link.since_ms and _destination(op, link)[2] not in mirrored
    )


def _destination(op: Post | React, link: Link) -> tuple[str, Ref | None, str]:
    """Return the network that a link carries this to, the room there, and its id: "" where there is none."""
    room = link.room if op.room is None else None
    return _target(op.author, link), room, room.id if room else ""


def _shown_author(op: Post | React, facts: Facts, link: Link) -> tuple[Identity, Plan]:
    """Return the author, and what lets their ghost be seen if it is not yet."""
    author = facts.author
    if author is not None and author.shown:
        return author, NOTHING
    profile, at = facts.looked_up or Profile(None, None), op.at_ms // 1000
    if author is None:
        author = Identity(op.author, profile, at)
    else:
        # Newer than its deletion, which holds up to its own second.
        author = replace(author, profile=profile, profile_at=max(at, author.profile_at + 1), shown=True)
    return author, Plan((Known(author),), tuple(_show(author, _target(op.author, link))))


def _room_id(op: Post | React) -> str:
    return op.room.id if op.room else ""


def _needs(place: Place | None) -> tuple[Ref, ...]:
    """Return the originals whose copies must have been made before this can be sent."""
    places = (place, place.thread) if place else ()
    return tuple(one.origin for one in places if one is not None and one.id is None)


def _shown_link(post: Ref, room: Ref | None) -> str:
    """Return what leads to a post that is not known where the answer goes."""
    if post.network == NOSTR:
        return f"nostr:{nip19.encode(nip19.Nevent(EventId(post.id)))}"
    return f"https://matrix.to/#/{room.id}/{post.id}" if room else post.id


def _known_there(body: RichText, facts: Facts, there: str) -> RichText:
    """Name people and posts as they are known where the body goes."""

    def of(node: Node) -> Node:
        match node:
            case Mention(who):
                return facts.people.get(who, node)
            case Pointer(to, shown):
                place = facts.places.get((to, there))
                return Pointer(Ref(place.network, place.id), shown) if place and place.id else node
        return node

    return mapped(body, of)


def _why_closed(room: Room | None) -> Closing | None:
    if room is None:
        return Closing.LEFT
    if room.encrypted:
        return Closing.ENCRYPTED
    return None if room.world_readable else Closing.PRIVATE


def _target(author: Ref, link: Link) -> str:
    """Return the network to which the link carries this author's posts."""
    return link.room.network if author.network == NOSTR else NOSTR


def _show(identity: Identity, target: str, before: Profile | None = None) -> list[Delivery]:
    """Return the deliveries that show a profile, in the lane of the person's posts, before them."""
    person, picture = identity.person, identity.profile.picture
    stamp = f"{person.id} {identity.profile_at}"
    shown = [Delivery(target, person.id, f"profile {stamp}", PutProfile(identity))]
    if picture != (before.picture if before else None):
        # A lane of its own: a slow picture must not hold up the notes.
        shown.append(
            Delivery(
                target,
                f"picture {person.id}",
                f"picture {stamp}",
                PutPicture(person, picture),
                max_attempts=PICTURE_ATTEMPTS,
            )
        )
    return shown


def _profile_change(change: ProfileChange, facts: Facts) -> Plan:
    known = facts.author
    if known is None or not known.shown or facts.is_ours or facts.opted_out:
        return NOTHING
    if change.profile == known.profile:
        return NOTHING
    links = facts.followers if change.room is None else (facts.link,) if facts.link else ()
    # Of two profiles within a second the later to arrive wins, as replaceable events need: by time.
    at = max(change.at_ms // 1000, known.profile_at + 1)
    if not links:
        return NOTHING
    identity = replace(known, profile=change.profile, profile_at=at)
    target = _target(change.author, links[0])
    return Plan((Known(identity),), tuple(_show(identity, target, known.profile)))


def _delete(delete: Delete, facts: Facts) -> Plan:
    links = facts.followers if delete.room is None else (facts.link,) if facts.link else ()
    changes = tuple(Withdrawn(target, delete.by) for target in delete.targets) if links else ()
    deliveries = []
    for copy in facts.copies:
        moderated = facts.room is not None and facts.room.may_redact
        if copy.author != delete.by and not moderated:
            continue
        author = facts.author
        if author is None or author.person != copy.author:
            continue
        act = Withdraw(author, (copy,), delete.at_ms, profile_too=False)
        key = f"withdraw {copy.origin.id} {copy.target}".rstrip()
        deliveries.append(Delivery(copy.network, copy.author.id, key, act, copy))
    return Plan(changes, tuple(deliveries))


def _invitation(invitation: Invitation) -> Plan:
    room = invitation.room
    accept = Delivery(room.network, room.id, f"accept {invitation.ref.id}", Accept(room))
    return Plan(deliveries=(accept, _tell(invitation.ref, room, f"Hello. Write {PREFIX} help.")))


def _room_closed(closed: RoomClosed, facts: Facts) -> Plan:
    if facts.link is None:
        return NOTHING
    text = f"This room is no longer linked with Nostr: {closed.why}."
    return Plan((LinkEnded(closed.room),), (_tell(closed.ref, closed.room, text),))


def _tell(answers: Ref, room: Ref, text: str) -> Delivery:
    return Delivery(room.network, room.id, f"tell {answers.id}", Tell(room, text))


def _command(command: Command, facts: Facts) -> Plan:
    order = parse_order(command.text)
    match order:
        case Explain(text):
            return _answer(command, text)
        case LinkRoom(pubkey):
            return _link(command, Ref(NOSTR, pubkey), facts)
        case UnlinkRoom():
            return _unlink(command, facts)
        case OptOut():
            return _opt_out(command, facts)
        case OptIn():
            answer = "What you write in linked rooms is published on Nostr again, from now on."
            return Plan((OptedIn(command.by),), (_tell(command.ref, command.room, answer),))
        case _:
            assert_never(order)


def _answer(command: Command, text: str) -> Plan:
    return Plan(deliveries=(_tell(command.ref, command.room, text),))


_POWERLESS = "Only someone with the power to change this room's settings can do that."


def _link(command: Command, follows: Ref, facts: Facts) -> Plan:
    room = facts.room
    if room is None:
        return _answer(command, "I cannot see this room's settings.")
    if not room.may_administer:
        return _answer(command, _POWERLESS)
    if room.encrypted:
        return _answer(command, "An encrypted room cannot be linked to public notes.")
    if not room.world_readable:
        return _answer(
            command,
            "This room cannot be linked to public notes, for not everyone can read it. "
            "Let anyone read its history first.",
        )
    if facts.link is not None:
        return _answer(command, f"This room is already linked. Write {PREFIX} unlink first.")
    if facts.is_ours:
        return _answer(command, "That account belongs to someone whom this bridge mirrors.")
    # Notes are dated in whole seconds: one from the very second of the command is not older than it.
    since_ms = command.at_ms // 1000 * 1000
    changes: list[Change] = [LinkMade(Link(command.room, follows, since_ms, command.by))]
    deliveries: list[Delivery] = []
    profile = facts.looked_up or Profile(None, None)
    if facts.author is None or facts.author.profile != profile:
        before = facts.author.profile if facts.author else None
        identity = Identity(follows, profile, facts.author.profile_at + 1 if facts.author else 0)
        changes.append(Known(identity))
        deliveries += _show(identity, command.room.network, before)
    npub = nip19.encode(nip19.Npub(PubKey(follows.id)))
    text = (
        f"This room is now linked with {profile.name or 'an account'} on Nostr ({npub}). From now on, what "
        "anyone writes here also becomes a public Nostr note: everybody can read and copy it, and taking it "
        f"back may fail. If you do not want that for what you write, say {PREFIX} optout."
    )
    return Plan(tuple(changes), (*deliveries, _tell(command.ref, command.room, text)))


def _unlink(command: Command, facts: Facts) -> Plan:
    if facts.link is None:
        return _answer(command, "This room is not linked.")
    if facts.room is None or not facts.room.may_administer:
        return _answer(command, _POWERLESS)
    told = _tell(command.ref, command.room, "This room is no longer linked with Nostr.")
    return Plan((LinkEnded(command.room),), (told,))


def _opt_out(command: Command, facts: Facts) -> Plan:
    author = facts.author
    changes: list[Change] = [OptedOut(command.by, NOSTR, command.by.id, command.at_ms)]
    deliveries: list[Delivery] = []
    if author is not None:
        at = max(command.at_ms // 1000, author.profile_at)
        # The profile that follows an opt-in must be newer than the deletion of this one.
        changes.append(Known(replace(author, profile=Profile(None, None), profile_at=at, shown=False)))
        for start in range(0, max(len(facts.copies), 1), MAX_WITHDRAWN):
            copies = facts.copies[start : start + MAX_WITHDRAWN]
            act = Withdraw(author, copies, at * 1000, profile_too=start == 0)
            key = f"withdraw all {command.ref.id} {start}"
            deliveries.append(Delivery(NOSTR, command.by.id, key, act))
    text = "What you write is not published on Nostr any more, and relays are asked to delete what was."
    return Plan(tuple(changes), (*deliveries, _tell(command.ref, command.room, text)))
