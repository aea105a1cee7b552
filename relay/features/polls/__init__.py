"""Counting polls (NIP-88): the table in the write transaction, and the page that shows it."""
