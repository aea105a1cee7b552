"""`torv doctor`: asks a running relay, over the wire, for proof of every NIP that it advertises.

A client like any other: it sees nothing but what the relay answers, so it examines anybody's relay. A
probe publishes events of keys made for it, which expire and are deleted at its end.
"""
