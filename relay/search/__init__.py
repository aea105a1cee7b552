"""Search by words (NIP-50): an index in a database file of its own, off the write path.

`words` is pure: text to words, and a question to words. `table` holds the statements of the index file,
`indexer` fills it by following the log, `searcher` answers from it. The index only proposes: whatever is
sent goes through the store, its filter and the reader's veil again.
"""
