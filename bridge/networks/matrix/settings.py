"""The settings of the Matrix side, and the ids that follow from them."""

from pydantic import Field

from bridge.model import Ref
from relay.nostr import nip19
from relay.nostr.event import PubKey
from relay.settings import Table

_LOCAL_PART = r"^[a-z0-9._=/+\-]+$"


class MatrixConfig(Table):
    """[bridge.matrix]: a Matrix homeserver that has registered this bridge as an appservice."""

    homeserver: str = Field(
        description="Where the homeserver's client API is reached, such as http://127.0.0.1:8008.",
        examples=["http://127.0.0.1:8008"],
        pattern=r"^https?://[^/\s]+/?$",
    )
    server_name: str = Field(
        description="What stands behind the colon in the homeserver's user ids, such as example.org.",
        examples=["example.org"],
        pattern=r"^[A-Za-z0-9.\-\[\]:]+$",
    )
    host: str = Field("127.0.0.1", description="The address on which the bridge listens for the homeserver.")
    port: int = Field(
        29377, ge=1, le=65535, description="The port on which the bridge listens for the homeserver."
    )
    url: str = Field(
        "",
        description="Where the homeserver reaches the bridge, written into the registration. "
        "Empty: made of host and port.",
        pattern=r"^(https?://\S+)?$",
    )
    bot: str = Field(
        "torv", description="The local part of the bot's user id.", pattern=_LOCAL_PART, max_length=64
    )
    ghost_prefix: str = Field(
        "nostr_",
        description="What the user ids of people from Nostr begin with. Do not change it later: "
        "everybody would appear a second time.",
        pattern=_LOCAL_PART,
        max_length=64,
    )
    token_generation: int = Field(
        1,
        ge=1,
        description="Raise it to get new tokens; then write the registration anew and restart both sides.",
    )

    @property
    def bot_id(self) -> str:
        """The bot's full user id."""
        return f"@{self.bot}:{self.server_name}"

    @property
    def listening_url(self) -> str:
        """The URL at which the homeserver finds the bridge."""
        return self.url or f"http://{self.host}:{self.port}"

    def ghost_id(self, person: Ref) -> str:
        """Return the user id under which somebody from Nostr appears."""
        return f"@{self.ghost_prefix}{nip19.encode(nip19.Npub(PubKey(person.id)))}:{self.server_name}"

    def is_ours(self, user_id: str) -> bool:
        """Say whether a user id is the bot's or in the ghosts' namespace."""
        is_ghost = user_id.startswith(f"@{self.ghost_prefix}") and user_id.endswith(f":{self.server_name}")
        return is_ghost or user_id == self.bot_id
