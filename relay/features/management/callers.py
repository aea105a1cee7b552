"""Who may manage the relay: administrators everything, moderators what is said and by whom."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto

from relay.config import RelayConfig

EVERYBODY = "*"
"""Among the roles whose holders invite: all members."""


class Standing(Enum):
    """What somebody may do."""

    ADMINISTRATOR = auto()
    MODERATOR = auto()
    NOBODY = auto()


@dataclass(frozen=True, slots=True)
class Staff:
    """The people of the settings. No call changes them: nobody makes himself one of them."""

    relay: str
    """The relay's own key."""
    admins: frozenset[str]
    moderators: frozenset[str]
    moderating_roles: frozenset[str]
    inviting_roles: frozenset[str]
    everyone_invites: bool
    """Whether every member may, with or without a role."""

    @classmethod
    def of(cls, config: RelayConfig, relay: str) -> "Staff":
        """Return the people that the settings name; `relay` is its own key."""
        inviting = frozenset(config.members.inviting_roles)
        return cls(
            relay=relay,
            admins=frozenset(config.admins),
            moderators=frozenset(config.moderation.keys),
            moderating_roles=frozenset(config.moderation.roles),
            inviting_roles=inviting - {EVERYBODY},
            everyone_invites=EVERYBODY in inviting,
        )

    def standing(self, key: str, roles: Collection[str]) -> Standing:
        """Say what a key may do that has these roles."""
        if key in self.admins:
            return Standing.ADMINISTRATOR
        if key in self.moderators or not self.moderating_roles.isdisjoint(roles):
            return Standing.MODERATOR
        return Standing.NOBODY

    def may_invite(self, key: str, roles_of: Callable[[str], Collection[str] | None]) -> bool:
        """Say whether a key may ask for invites; `roles_of` gives None for who is no member."""
        if key in self.admins:
            return True
        roles = roles_of(key)
        return roles is not None and (self.everyone_invites or not self.inviting_roles.isdisjoint(roles))
