"""The neutral vocabulary: what happened on a network, in words that belong to none.

A network's `parse` turns native events into operations; `bridge.plan` decides what follows from
them; a network's `render` turns the result into native ones. All values are frozen.
"""

from dataclasses import dataclass
from enum import StrEnum

from bridge.reference import Ref as Ref
from bridge.text import RichText


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a network can express."""

    max_text_bytes: int
    """The longest text of one post, in bytes of UTF-8."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How a person shows themselves."""

    name: str | None
    picture: str | None
    """A URL that anybody can load; None when there is none."""


@dataclass(frozen=True, slots=True)
class Post:
    """Somebody wrote a text."""

    ref: Ref
    author: Ref
    room: Ref | None
    """Where it was written; None for a public note that belongs to no room."""
    at_ms: int
    """When, by the source's clock: unix milliseconds."""
    body: RichText
    bridged: bool = False
    """Whether it says itself that another bridge brought it here (NIP-48)."""
    reply_to: Ref | None = None
    """The post that it answers."""
    thread: Ref | None = None
    """The post that began the conversation it belongs to; None where the network does not say."""


@dataclass(frozen=True, slots=True)
class React:
    """Somebody put a mark on a post."""

    ref: Ref
    author: Ref
    room: Ref | None
    at_ms: int
    target: Ref
    key: str
    """What is shown: an emoji of Unicode, or the `:name:` of a custom one."""
    emoji_url: str | None = None
    """The picture of a custom emoji."""
    bridged: bool = False


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """Somebody shows themselves anew."""

    author: Ref
    room: Ref | None
    """Where they do; None when everywhere."""
    profile: Profile
    at_ms: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Somebody took back what they had written."""

    targets: tuple[Ref, ...]
    by: Ref
    room: Ref | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class Command:
    """Somebody spoke to the bot; `text` is what follows its name."""

    ref: Ref
    room: Ref
    by: Ref
    text: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class Invitation:
    """Somebody invited the bot."""

    ref: Ref
    room: Ref
    by: Ref


class Closing(StrEnum):
    """Why a room can no longer be linked."""

    PRIVATE = "it can no longer be read by everyone"
    ENCRYPTED = "it is encrypted now"
    LEFT = "the bot is no longer in it"


@dataclass(frozen=True, slots=True)
class RoomClosed:
    """A room ceased to be public."""

    ref: Ref
    room: Ref
    why: Closing


@dataclass(frozen=True, slots=True)
class Echo:
    """One of our own copies came back to us."""

    origin: Ref
    """What it is a copy of."""
    copy: Ref
    room: Ref


Op = Post | React | ProfileChange | Delete | Command | Invitation | RoomClosed | Echo


@dataclass(frozen=True, slots=True)
class Room:
    """What a network says of a room, for somebody who asks for something in it."""

    world_readable: bool
    encrypted: bool
    may_administer: bool
    """Whether the person who asked has the power to change the room's settings."""
    may_redact: bool
    """Whether that person may take back what others wrote."""


@dataclass(frozen=True, slots=True)
class Link:
    """A room whose posts are public notes, and the account whose notes it shows."""

    room: Ref
    follows: Ref
    since_ms: int
    """Older posts and notes are not mirrored. Unix milliseconds."""
    by: Ref


@dataclass(frozen=True, slots=True)
class Identity:
    """What is remembered of a person who is mirrored."""

    person: Ref
    profile: Profile
    profile_at: int
    """The unix second of the profile that was last mirrored; later ones must be greater."""
    generation: int = 1
    """Which of the person's derived keys is in use."""
    shown: bool = True
    """False once the ghost's profile was taken back: it is shown again with the next post."""


class Sort(StrEnum):
    """What a copy is of."""

    POST = "post"
    REACTION = "reaction"


@dataclass(frozen=True, slots=True)
class Copy:
    """Something mirrored: where the original is, and where the copy."""

    origin: Ref
    author: Ref
    network: str
    target: str
    """The room it went to; empty where the network has no rooms."""
    native_id: str | None
    """None until the network has said how it calls the copy."""
    sort: Sort = Sort.POST
    thread: Ref | None = None
    """The original's conversation, by the post that began it; None if it began one itself."""
    room: str = ""
    """The room of the original; empty where its network has no rooms."""


@dataclass(frozen=True, slots=True)
class Place:
    """A post as a network knows it: the original there, or the copy that we made or are making there."""

    network: str
    id: str | None
    """None as long as the network has not said how it calls our copy of `origin`."""
    author: Ref | None
    """Its author there: the person, or their ghost; None if that is not known."""
    origin: Ref
    """The original: itself, or what it is a copy of."""
    thread: "Place | None" = None
    """The post there that began its conversation; None if it began one itself, or that post is not there."""
