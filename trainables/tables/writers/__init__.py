"""Formats of other programs, written."""
