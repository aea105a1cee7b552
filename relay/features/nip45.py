"""NIP-45: COUNT. Parsing and counting are core; the veil and the gates hold for it as for REQ.

The number is exact. The common queries of the NIP get the HyperLogLog of their authors with it
(`relay.engine.authors`), so that clients can merge several relays' counts.
"""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(title="Counting results", nip=45)
