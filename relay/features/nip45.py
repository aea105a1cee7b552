"""NIP-45: COUNT. Parsing and counting are core; the veil and the gates hold for it as for REQ.

The number is exact. With `relay.hyperloglog`, counts carry registers of the authors, so that clients can
merge several relays' counts. Those of the NIP's common queries are kept once somebody has asked (see
`relay.engine.crowds`); for others, and where it is few, the events are read (`relay.engine.authors`).
"""

from relay.config import RelayConfig
from relay.engine import crowds
from relay.engine.feature import Context, Feature


def feature(config: RelayConfig, context: Context) -> Feature:
    # Also where registers are not sent: those that are kept stay right until they are.
    return Feature(title="Counting results", nip=45, tables=(crowds.table(),))
