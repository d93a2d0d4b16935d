"""Running text for language models: PTB and WikiText-2, a line at a time, every line closed by ``<eos>``.

Reference: Mikolov et al. 2010 (the cut of the Penn Treebank with 10,000 different words), Merity et al. 2017 (WikiText-2).

Tokens are what stands between spaces; an empty line is one ``<eos>``. PTB has 929,589 / 73,760 / 82,430 tokens. Of
WikiText-2 the published ``.tokens`` files are read, or plain copies of them, also with the raw text as train: words that
train has fewer than three times become ``<unk>``, which gives the published vocabulary of 33,278 and leaves the published
files as they are.
"""

from __future__ import annotations

import collections
import sys
from collections.abc import Sequence
from pathlib import Path

from quantizers.errors import InputError
from trainables.corpora.base import Corpus, Examples, Splits, read_lines

EOS = "<eos>"
UNKNOWN = "<unk>"
_SPLITS = ("train", "valid", "test")
_SEEN_AT_LEAST = 3


def _ptb(paths: Sequence[Path]) -> Splits:
    train, dev, test = map(_read, paths)
    return Splits(train, dev, test, ())


def _wikitext2(paths: Sequence[Path]) -> Splits:
    train, dev, test = map(_read, paths)
    counts = collections.Counter(token for line in train.tokens for token in line)
    known = {token for token, count in counts.items() if count >= _SEEN_AT_LEAST} | {EOS}
    train, dev, test = (_without_rare(examples, known) for examples in (train, dev, test))
    return Splits(train, dev, test, ())


PTB = Corpus(
    name="ptb",
    source="Mikolov's simple-examples.tgz (get it with: frontier data fetch ptb)",
    licence="none stated by the publisher; Penn Treebank text (LDC)",
    layouts=tuple(tuple(f"{folder}ptb.{split}.txt" for split in _SPLITS) for folder in ("ptb/", "simple-examples/data/")),
    parse=_ptb,
)
WIKITEXT2 = Corpus(
    name="wikitext2",
    source="wikitext-2-v1.zip of Merity et al. (get it with: frontier data fetch wikitext2)",
    licence="CC BY-SA 3.0",
    layouts=(
        *(tuple(f"{folder}/wiki.{split}.tokens" for split in _SPLITS) for folder in ("wikitext2", "wikitext-2")),
        tuple(f"wikitext2/{split}.txt" for split in _SPLITS),
    ),
    parse=_wikitext2,
)


def _read(path: Path) -> Examples:
    lines = read_lines(path)
    if not any(line.strip() for line in lines):
        raise InputError(f"{path}: holds no words, only blank lines.")
    if not lines[-1].strip():  # behind the last line's end
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if EOS in line.split():
            raise InputError(
                f"{path}:{number}: holds the token {EOS}, which closes every line here; expected text without it."
            )
    return Examples(tuple((*map(sys.intern, line.split()), EOS) for line in lines))


def _without_rare(examples: Examples, known: set[str]) -> Examples:
    return Examples(tuple(tuple(token if token in known else UNKNOWN for token in line) for line in examples.tokens))
