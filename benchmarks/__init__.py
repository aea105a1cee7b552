"""The project's own benchmark: `python -m benchmarks`.

Measures a real `torv serve` from outside, with signed events, and puts what it finds beside what the
machine's cores can verify. Imports `relay.nostr` for events, filters and keys, and nothing else of Torv.
"""
