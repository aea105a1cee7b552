"""This relay and others: what goes out to them, what comes in from them, once (sync) or all the time.

A partner is another relay, met as any Nostr client meets one. It is not trusted: what it sends passes
this relay's own rules, and it is sent only what any anonymous reader could fetch here, and less.
"""
