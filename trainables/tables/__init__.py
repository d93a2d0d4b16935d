"""Readers and writers of embedding tables, by format."""
