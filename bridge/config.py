"""The bridge's settings: one frozen model per table of the configuration file."""

from pydantic import Field

from bridge.networks.matrix.settings import MatrixConfig
from relay.settings import Table


class BridgeConfig(Table):
    """[bridge]: mirrors rooms and people between Nostr and other networks."""

    relay_url: str = Field(
        "ws://127.0.0.1:7777",
        description="The relay that the bridge reads from and publishes to.",
        pattern=r"^wss?://[^/\s]+(/\S*)?$",
    )
    allow_private_addresses: bool = Field(
        False,
        description="Whether pictures may be fetched from private and loopback addresses; only for tests.",
    )
    matrix: MatrixConfig | None = Field(None, description="The Matrix side.")
