"""NIP-45: COUNT. Parsing and counting are core; the veil and the gates hold for it as for REQ."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(title="Counting results", nip=45)
