"""What the relay's people decide while it runs: members, roles, bans, blocks, reports, its name.

One table, so that each decision sees all others. `book` keeps its records, `methods` changes them inside
the write transaction, `memory` is what each process knows of them, `invites` are made without records.
"""
