"""A relay with every feature on, for the doctor to examine."""

import pytest

from relay.nostr.keys import SecretKey
from tests.events import author
from tests.serving import Served, TorvServe

ADMIN: SecretKey = author("administrator")
NAMED: SecretKey = author("named")

CONFIG = f"""
[relay]
hyperloglog = true
admins = ["{ADMIN.public}"]
names = ["alice={NAMED.public}"]

[relay.limits]
events_per_minute = 0
requests_per_minute = 0
others_per_minute = 0
http_connections_per_address = 0
connections_per_address = 0

[relay.members]
enabled = true

[relay.groups]
created_per_minute = 0
"""


@pytest.fixture(scope="session")
def examined(_serving: TorvServe) -> Served:
    """A relay that all tests of a run share: never stop it."""
    return _serving(CONFIG)
