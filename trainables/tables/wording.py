"""Words of messages: here, and through ``analysis.text`` in every message above the tables."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """A number and its noun: ``1 trial``, ``2,000 trials``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
