"""How many words have each of a method's code-books, and how many of them are opinion words.

Reference: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), figures 2 and 4; the lexicon is that of
Hu & Liu 2004, without the three words that are in both of its lists. The counts are what those figures rest on, so that a
compressed file need not be kept for them.
"""

from __future__ import annotations

from typing import Any

import torch

from quantizers import Quantizer
from trainables.lexicon import lexicon


def book_counts(quantizer: Quantizer) -> dict[str, Any] | None:
    """Counts by code-book, in the order of the configuration: ``{"rows": [...], "opinion_rows": [...]}``.

    Code-books behind the last one that has rows are left out. None where the method gives a row no choice of code-books.
    A table without words has no opinion words.
    """
    books = quantizer.books()
    if books is None:
        return None
    books = books.cpu()
    known = lexicon()
    opinion = torch.tensor([word in known for word in quantizer.words or ()], dtype=torch.bool)
    inside = books[opinion] if len(opinion) else books[:0]
    rows = torch.bincount(books)
    return {"rows": rows.tolist(), "opinion_rows": torch.bincount(inside, minlength=len(rows)).tolist()}
