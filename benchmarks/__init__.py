"""The project's own benchmark: `python -m benchmarks`.

Measures a real `torv serve` from outside, with signed events, and puts what it finds beside goals and what
the machine can verify. Imports `relay.nostr` for events, filters and keys; `filling.py` also the store,
to make databases so large that signing their events would take longer than filling them.
"""
