"""NIP-45: COUNT. Parsing and counting are core; the veil and the gates hold for it as for REQ.

The number is exact. Where `relay.hyperloglog` is set, the NIP's common queries get their authors with it
(`relay.engine.authors`), so that clients can merge several relays' counts.
"""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(title="Counting results", nip=45)
