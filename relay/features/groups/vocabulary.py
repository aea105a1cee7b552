"""The kinds of NIP-29, and the roles that groups have here."""

from collections.abc import Sequence
from enum import IntEnum

PUT_USER = 9000
REMOVE_USER = 9001
EDIT_METADATA = 9002
DELETE_EVENT = 9005
CREATE_GROUP = 9007
DELETE_GROUP = 9008
CREATE_INVITE = 9009
UPDATE_PINS = 9010
JOIN = 9021
LEAVE = 9022

MODERATION = frozenset(range(9000, 9021))
MANAGEMENT = MODERATION | {JOIN, LEAVE}
"""All that concerns a group itself, not what is said in it."""

METADATA = 39000
ADMINS = 39001
MEMBERS = 39002
ROLES = 39003
LIVEKIT_PARTICIPANTS = 39004
PINS = 39005

NOTICES = frozenset(range(METADATA, PINS + 1))
"""What only the relay itself says of its groups."""


class Rank(IntEnum):
    """What somebody may do in a group. Nobody gives a rank as high as their own, but owners do."""

    NONE = 0
    MODERATOR = 1
    """Deletes events, removes members without rank, pins."""
    ADMIN = 2
    """Also edits the metadata, adds members, makes invites, names moderators."""
    OWNER = 3
    """Also names admins and owners, and deletes the group. Who creates a group is its owner."""
    RELAY = 4
    """The relay's own key and its administrators."""


ROLE_RANKS = {"owner": Rank.OWNER, "admin": Rank.ADMIN, "moderator": Rank.MODERATOR}
ROLE_TEXTS = {
    "owner": "may do everything, also name admins and delete the group",
    "admin": "edits the metadata, adds and removes members, makes invites, names moderators",
    "moderator": "deletes events, removes members, pins",
}


def rank_of(roles: Sequence[str]) -> Rank:
    """Return the highest rank among these roles; other role names give none."""
    return max((ROLE_RANKS.get(role, Rank.NONE) for role in roles), default=Rank.NONE)
