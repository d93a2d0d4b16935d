"""Counts by code-book, against counting by hand."""

import torch

import quantizers
from quantizers import Table
from trainables.books import book_counts
from trainables.lexicon import lexicon


def test_counts_are_those_of_the_rows() -> None:
    opinion = list(lexicon())[:60]
    words = [*opinion, *(f"zz{number}" for number in range(140))]
    vectors = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    fit = quantizers.create("adacomp", code_lengths=(24, 12, 6), epochs=0, max_payload_bytes=1_900)
    books = fit.fit(Table(vectors, words)).books()
    assert books is not None and len(books.unique()) > 1
    counts = book_counts(fit)
    assert counts is not None
    for book, (rows, opinion_rows) in enumerate(zip(counts["rows"], counts["opinion_rows"], strict=True)):
        mine = [word for word, chosen in zip(words, books.tolist(), strict=True) if chosen == book]
        assert (rows, opinion_rows) == (len(mine), len(set(mine) & set(opinion)))
    assert (sum(counts["rows"]), sum(counts["opinion_rows"])) == (200, 60)


def test_methods_without_a_choice_have_none_and_words_are_optional() -> None:
    vectors = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    assert book_counts(quantizers.create("pq", num_codebooks=2, codebook_size=4).fit(Table(vectors))) is None
    counts = book_counts(quantizers.create("adacomp", code_lengths=(8, 4), epochs=0).fit(Table(vectors)))
    assert counts is not None and sum(counts["rows"]) == 40 and not any(counts["opinion_rows"])
