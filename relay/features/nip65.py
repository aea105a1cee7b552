"""NIP-65: relay lists (kind 10002) are accepted from anybody; they are plain replaceable events.

A policy that restricts writing has to leave this kind open: without it an author cannot be found.
"""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(title="Relay list metadata", nip=65)
