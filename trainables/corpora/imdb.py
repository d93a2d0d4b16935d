"""IMDB: long film reviews, positive or negative.

Reference: Maas et al. 2011. Read from the published folder ``aclImdb`` (a review a file, 25,000 / 25,000 in train and test),
or from one csv file with the columns ``review`` and ``sentiment`` (the copy that is passed around, without the official
split): its first half is train and the rest is test, 25,000 and 25,000 of the complete 50,000. dev is a tenth of train,
2,500 reviews, drawn with a fixed seed; 22,500 stay in train.

Tokens: ``<br />`` becomes a space, the text lower case, and the expression ``_TOKEN`` finds words and single punctuation
marks; clitics are split off as GloVe's tokenizer does (``do n't``, ``it 's``).
"""

from __future__ import annotations

import csv
import io
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from quantizers.errors import InputError
from trainables.corpora.base import Corpus, Examples, Splits, read_text

_CLASSES = ("negative", "positive")
_FOLDERS = tuple(f"aclImdb/{split}/{kind}/*.txt" for split in ("train", "test") for kind in ("pos", "neg"))
_DEV_SEED = 0
_BALANCED = (0.4, 0.6)  # the share of positive reviews in half of a shuffled csv; a sorted one has 0 or 1
_BREAK = re.compile(r"<br\s*/?>")
_TOKEN = re.compile(r"'(?:s|re|ve|ll|d|m)\b|n't\b|\w+(?=n't\b)|\w+|[^\w\s]")


def _parse(paths: Sequence[Path]) -> Splits:
    train, test = _read_csv(paths) if paths[0].suffix == ".csv" else _read_folder(paths)
    assert train.labels is not None
    chosen = set(random.Random(_DEV_SEED).sample(range(len(train)), max(1, len(train) // 10)))
    inside = [i for i in range(len(train)) if i not in chosen]
    return Splits(train=_part(train, inside), dev=_part(train, sorted(chosen)), test=test, classes=_CLASSES)


IMDB = Corpus(
    name="imdb",
    source="the Large Movie Review Dataset page at Stanford (aclImdb_v1.tar.gz; get it with: frontier data fetch imdb)",
    licence="none stated by the publisher",
    layouts=(_FOLDERS, ("imdb/*.csv",)),
    parse=_parse,
)


def tokenize(review: str) -> tuple[str, ...]:
    """Words and punctuation marks of a review, in lower case. Equal tokens are one string, whatever the review."""
    return tuple(map(sys.intern, _TOKEN.findall(_BREAK.sub(" ", review).lower())))


def _tokens(review: str, where: str) -> tuple[str, ...]:
    tokens = tokenize(review)
    if not tokens:
        raise InputError(f"{where}: expected a review, found no word in it.")
    return tokens


def _part(examples: Examples, places: Sequence[int]) -> Examples:
    assert examples.labels is not None
    return Examples(tuple(examples.tokens[i] for i in places), tuple(examples.labels[i] for i in places))


def _read_folder(paths: Sequence[Path]) -> tuple[Examples, Examples]:
    tokens: dict[str, list[tuple[str, ...]]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for path in paths:
        split, kind = path.parts[-3:-1]
        tokens[split].append(_tokens(read_text(path), str(path)))
        labels[split].append(int(kind == "pos"))
    train, test = (Examples(tuple(tokens[split]), tuple(labels[split])) for split in ("train", "test"))
    return train, test


def _read_csv(paths: Sequence[Path]) -> tuple[Examples, Examples]:
    if len(paths) > 1:
        raise InputError(f"{paths[0].parent}: expected one csv file, found {', '.join(path.name for path in paths)}.")
    path = paths[0]
    tokens: list[tuple[str, ...]] = []
    labels: list[int] = []
    rows = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    number = 1  # of the line on which a row begins: reviews may go over several
    try:
        header = next(rows)
        if sorted(header) != ["review", "sentiment"]:
            raise InputError(f"{path}:1: expected the columns review and sentiment, found {', '.join(header)}.")
        review, sentiment = header.index("review"), header.index("sentiment")
        number = rows.line_num + 1
        for row in rows:
            if len(row) != 2:
                raise InputError(f"{path}:{number}: expected two columns (review, sentiment), found {len(row)}.")
            if row[sentiment] not in _CLASSES:
                raise InputError(f"{path}:{number}: expected the sentiment positive or negative, found {row[sentiment]!r}.")
            tokens.append(_tokens(row[review], f"{path}:{number}"))
            labels.append(_CLASSES.index(row[sentiment]))
            number = rows.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}:{number}: the row that begins here is not whole ({error}).") from None
    half = len(tokens) // 2
    if half < 2:
        raise InputError(f"{path}: expected at least four reviews, found {len(tokens)}.")
    for part, name in ((labels[:half], "first"), (labels[half:], "second")):
        share = sum(part) / len(part)
        if not _BALANCED[0] <= share <= _BALANCED[1]:
            raise InputError(
                f"{path}: {share:.0%} of the {name} half's reviews are positive; the halves are train and test, so "
                f"expected {_BALANCED[0]:.0%} to {_BALANCED[1]:.0%}: shuffle the rows."
            )
    return Examples(tuple(tokens[:half]), tuple(labels[:half])), Examples(tuple(tokens[half:]), tuple(labels[half:]))
