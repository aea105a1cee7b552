"""The file by which a homeserver comes to know the bridge (Application Service API, registration)."""

import json
import re
from dataclasses import dataclass

from bridge.identities import token
from bridge.networks.matrix.settings import MatrixConfig

APPSERVICE_ID = "torv"


@dataclass(frozen=True, slots=True)
class Tokens:
    """The two secrets shared with the homeserver. Not shown by repr."""

    as_token: str
    """What the bridge proves itself with."""
    hs_token: str
    """What the homeserver proves itself with."""

    def __repr__(self) -> str:
        return "Tokens(…)"


def tokens(seed: bytes, config: MatrixConfig) -> Tokens:
    """Return the tokens: they follow from the seed, so no second secret must be kept."""
    generation = config.token_generation
    return Tokens(token(seed, "matrix as", generation), token(seed, "matrix hs", generation))


def registration(secrets: Tokens, config: MatrixConfig) -> str:
    """Return the registration as YAML. It holds both tokens."""
    server = re.escape(config.server_name)
    ghosts = f"@{re.escape(config.ghost_prefix)}.*:{server}"
    bot = f"@{re.escape(config.bot)}:{server}"
    # Every JSON string is a YAML string.
    return f"""\
# Torv's bridge. Keep this file secret: it holds the tokens of both sides.
id: {json.dumps(APPSERVICE_ID)}
url: {json.dumps(config.listening_url)}
as_token: {json.dumps(secrets.as_token)}
hs_token: {json.dumps(secrets.hs_token)}
sender_localpart: {json.dumps(config.bot)}
rate_limited: false
receive_ephemeral: false
# Devices for ghosts: with one, the homeserver recognises a message that is sent again after a restart.
io.element.msc4190: true
protocols: ["nostr"]
namespaces:
  users:
    - exclusive: true
      regex: {json.dumps(ghosts)}
    - exclusive: true
      regex: {json.dumps(bot)}
  aliases: []
  rooms: []
"""
