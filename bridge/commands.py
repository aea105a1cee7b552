"""What people can say to the bot."""

from dataclasses import dataclass

from relay.nostr import nip19

PREFIX = "!torv"

HELP = f"""\
This bot links public rooms with Nostr.
{PREFIX} link npub1…  show that account's notes here, and publish what is written here as Nostr notes
{PREFIX} unlink  end the link of this room
{PREFIX} optout  never publish what you write, and delete what was published
{PREFIX} optin  take that back
Linking needs the power to change the room's settings, and a room that anyone can read."""


@dataclass(frozen=True, slots=True)
class LinkRoom:
    """Link this room with a Nostr account."""

    pubkey: str


@dataclass(frozen=True, slots=True)
class UnlinkRoom:
    """End the link of this room."""


@dataclass(frozen=True, slots=True)
class OptOut:
    """Never mirror the speaker, and delete what was mirrored."""


@dataclass(frozen=True, slots=True)
class OptIn:
    """Mirror the speaker again."""


@dataclass(frozen=True, slots=True)
class Explain:
    """Answer with this text."""

    text: str


Order = LinkRoom | UnlinkRoom | OptOut | OptIn | Explain


def parse_order(text: str) -> Order:
    """Read what follows the bot's name. Total: what cannot be read becomes an explanation."""
    match text.split():
        case ["link", account]:
            try:
                return LinkRoom(nip19.public_key(account.removeprefix("nostr:")))
            except ValueError as error:
                return Explain(f"That is not a Nostr account: {error}.")
        case ["link", *_]:
            return Explain(f"Write {PREFIX} link npub1…")
        case ["unlink"]:
            return UnlinkRoom()
        case ["optout"]:
            return OptOut()
        case ["optin"]:
            return OptIn()
    return Explain(HELP)
