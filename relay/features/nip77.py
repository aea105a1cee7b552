"""NIP-77: Negentropy. The reconciliation is core; gates, veils and limits hold for it as for REQ."""

from relay.config import RelayConfig
from relay.engine.feature import Context, Feature


def feature(config: RelayConfig, context: Context) -> Feature:
    return Feature(title="Negentropy syncing", nip=77)
