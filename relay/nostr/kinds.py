"""Event kinds: the ones the relay names, and how long each kind is kept (NIP-01)."""

from enum import Enum, auto

PROFILE = 0
NOTE = 1
FOLLOWS = 3
DIRECT_MESSAGE = 4
DELETION = 5
REPOST = 6
REACTION = 7
SEAL = 13
CHAT_MESSAGE = 14
FILE_MESSAGE = 15
GENERIC_REPOST = 16
VANISH = 62
VOTE = 1018
GIFT_WRAP = 1059
POLL = 1068
COMMENT = 1111
REPORT = 1984
EPHEMERAL_GIFT_WRAP = 21059
RUNNING_TALLY = 21068
"""How a poll stands, by the relay that counts it; Torv's own kind."""
RELAY_LIST = 10002
INBOX_RELAYS = 10050
CLIENT_AUTH = 22242
BLOSSOM_AUTH = 24242
HTTP_AUTH = 27235
FOLLOW_SET = 30000
JOIN_REQUEST = 28934
LEAVE_REQUEST = 28936
RELAY_DISCOVERY = 30166
TALLY = 31068
"""How a poll ended, by the relay that counted it; Torv's own kind."""

MAX_KIND = 65535


class Retention(Enum):
    """What a relay keeps of a kind."""

    REGULAR = auto()
    """Every event."""
    REPLACEABLE = auto()
    """The latest event of each author."""
    EPHEMERAL = auto()
    """Nothing: passed on to live subscribers only."""
    ADDRESSABLE = auto()
    """The latest event of each author and `d` tag."""


def retention(kind: int) -> Retention:
    """Say how long a kind is kept.

    Total over 0…65535: kinds that NIP-01 leaves unassigned (45-999, 40000 and up) count as regular.
    """
    if kind < 10_000:
        # NIP-01: kinds 0 and 3 are replaceable for historical reasons.
        return Retention.REPLACEABLE if kind in (PROFILE, FOLLOWS) else Retention.REGULAR
    if kind < 20_000:
        return Retention.REPLACEABLE
    if kind < 30_000:
        return Retention.EPHEMERAL
    if kind < 40_000:
        return Retention.ADDRESSABLE
    return Retention.REGULAR


def is_replaceable(kind: int) -> bool:
    """Say whether events of a kind compete for an address, with or without a `d` tag."""
    return retention(kind) in (Retention.REPLACEABLE, Retention.ADDRESSABLE)
