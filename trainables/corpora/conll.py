"""CoNLL-2000: phrases (chunks) of newspaper sentences, a tag a token.

Reference: Tjong Kim Sang & Buchholz 2000. A token a line in three columns (word, part of speech, chunk tag), an empty line
between sentences. Chunk tags are IOB2: ``B-NP`` begins a noun phrase, ``I-NP`` goes on with it, ``O`` is outside.
Complete: 8,936 / 2,012 sentences (train, test). No dev split is published: the last 1,000 sentences of train are dev here,
and 7,936 stay in train (of a train file with fewer than 8,000 sentences, the last eighth).

Tokens keep their case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from quantizers.errors import InputError
from trainables.corpora.base import Corpus, Examples, Splits, read_lines

_DEV_SENTENCES = 1_000
_TAG = re.compile(r"O|[BI]-\S+")
_GAP = re.compile(r"[ \t]+")


def _parse(paths: Sequence[Path]) -> Splits:
    train, test = map(_read, paths)
    cut = len(train) - min(_DEV_SENTENCES, len(train) // 8)
    if cut == len(train):
        raise InputError(f"{paths[0]}: expected at least eight sentences, found {len(train)}.")
    assert train.tags is not None and test.tags is not None
    classes = sorted({tag for tags in (*train.tags, *test.tags) for tag in tags})
    return Splits(
        train=Examples(train.tokens[:cut], tags=train.tags[:cut]),
        dev=Examples(train.tokens[cut:], tags=train.tags[cut:]),
        test=test,
        classes=tuple(classes),
    )


CONLL2000 = Corpus(
    name="conll2000",
    source="the shared task's page at CLiPS, Antwerp ({train,test}.txt.gz; get it with: frontier data fetch conll2000)",
    licence="none stated; the text is from the Wall Street Journal part of the Penn Treebank (LDC)",
    layouts=tuple(tuple(f"conll2000/{split}.txt{end}" for split in ("train", "test")) for end in ("", ".gz")),
    parse=_parse,
)


def _read(path: Path) -> Examples:
    sentences: list[tuple[str, ...]] = []
    tags: list[tuple[str, ...]] = []
    words: list[str] = []
    chunk: list[str] = []
    for number, line in enumerate([*read_lines(path), ""], start=1):
        text = line.strip(" \t")
        if text:
            fields = _GAP.split(text)
            if len(fields) != 3:
                raise InputError(
                    f"{path}:{number}: expected three columns (word, part of speech, chunk tag), found {text!r}."
                )
            word, _, tag = fields
            _check(tag, chunk[-1] if chunk else "the sentence's beginning", f"{path}:{number}")
            words.append(word)
            chunk.append(tag)
        elif words:
            sentences.append(tuple(words))
            tags.append(tuple(chunk))
            words, chunk = [], []
    return Examples(tuple(sentences), tags=tuple(tags))


def _check(tag: str, before: str, where: str) -> None:
    if not _TAG.fullmatch(tag):
        raise InputError(f"{where}: expected the tag O, B-NAME or I-NAME, found {tag!r}.")
    if tag.startswith("I-") and before[1:] != tag[1:]:
        raise InputError(f"{where}: {tag} must follow B-{tag[2:]} or {tag} within the sentence, found it after {before}.")
