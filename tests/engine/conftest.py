"""The relay in this process, for these tests."""

from tests.net.house import client, house

__all__ = ["client", "house"]
