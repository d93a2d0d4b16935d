"""The opinion lexicon that comes with the package: 2,006 positive and 4,783 negative words.

Reference: Hu & Liu 2004.
"""

from __future__ import annotations

import importlib.resources


def lexicon() -> dict[str, bool]:
    """Every word of one polarity, and whether that is positive. The three words that are in both lists are left out."""
    lists = []
    for name in ("positive", "negative"):
        text = importlib.resources.files("trainables").joinpath(f"data/{name}-words.txt").read_text(encoding="utf-8")
        lists.append({word for word in text.splitlines() if word and not word.startswith(";")})
    positive, negative = lists
    return {word: word in positive for word in sorted(positive ^ negative)}
