"""Torv's bridge: mirrors accounts, rooms and posts between Nostr and other networks."""
