"""Faults that are known and not mended: the ledger, the built-in entries, and files of one's own."""
