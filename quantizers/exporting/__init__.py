"""Compressed tables in the formats of other programs; formats of uncompressed tables are in ``trainables/tables``."""
