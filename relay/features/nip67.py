"""NIP-67: EOSE says whether everything was sent, and no answer ends inside of a second.

Both are core (`relay.engine.boundary`). Who asks with one filter and pages back from the second
before the oldest that came, until `finish`, gets every event once.
"""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(title="EOSE completeness hint", nip=67)
