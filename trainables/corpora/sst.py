"""Stanford Sentiment Treebank: sentences of film reviews with five classes (sst5) or two (sst2).

Reference: Socher et al. 2013. One tree in brackets a line, every node with a label from 0 (very negative) to 4 (very
positive); a sentence's label is its root's. sst2 leaves out the neutral sentences (2) and joins 0 with 1 and 3 with 4.
Complete: 8,544 / 1,101 / 2,210 sentences (sst5), 6,920 / 872 / 1,821 (sst2).

Tokens are the leaves, in lower case; -LRB- and -RRB- become brackets, and the backslash before ``/`` and ``*`` goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from quantizers.errors import InputError
from trainables.corpora.base import Corpus, Examples, Splits, read_lines

_SOURCE = "the Stanford NLP group's sentiment page (trainDevTestTrees_PTB.zip; get it with: frontier data fetch sst)"
_LICENCE = "none stated by the publisher"
_LAYOUTS = tuple(
    tuple(f"{folder}/{split}.txt" for split in ("train", "dev", "test")) for folder in ("sst/trees", "trees", "sst")
)
_PIECE = re.compile(r"[()]|[^ \t()]+")
_BRACKETS = {"-lrb-": "(", "-rrb-": ")"}


def _five(paths: Sequence[Path]) -> Splits:
    train, dev, test = (_read(path, (0, 1, 2, 3, 4)) for path in paths)
    return Splits(train, dev, test, ("very negative", "negative", "neutral", "positive", "very positive"))


def _two(paths: Sequence[Path]) -> Splits:
    train, dev, test = (_read(path, (0, 0, None, 1, 1)) for path in paths)
    return Splits(train, dev, test, ("negative", "positive"))


SST5 = Corpus("sst5", _SOURCE, _LICENCE, _LAYOUTS, _five)
SST2 = Corpus("sst2", _SOURCE, _LICENCE, _LAYOUTS, _two)


def _read(path: Path, classes: Sequence[int | None]) -> Examples:
    """Sentences of one file; ``classes`` has the class of every root label, None where the sentence is left out."""
    tokens, labels = [], []
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            root, words = _tree(line)
        except _TreeError as error:
            raise InputError(f"{path}:{number}: {error}.") from None
        label = classes[root]
        if label is not None:
            tokens.append(words)
            labels.append(label)
    if not tokens:
        raise InputError(f"{path}: every sentence is neutral (2); expected some with another label.")
    return Examples(tuple(tokens), tuple(labels))


class _TreeError(Exception):
    pass


def _tree(line: str) -> tuple[int, tuple[str, ...]]:
    """The root's label and the leaves of ``(label word)`` or ``(label tree tree ...)``."""
    pieces = _PIECE.findall(line)
    if pieces[0] != "(":
        raise _TreeError(f"expected a tree in brackets, found {line[:60]!r}")
    leaves: list[str] = []
    depth = 0
    before = ""  # what came last in this place: "label", "word", "tree" or nothing
    for piece in pieces:
        if piece == "(":
            if before == "word" or (before == "tree" and depth == 0):
                place = repr(leaves[-1]) if depth else "the tree's end"
                raise _TreeError(f"unbalanced brackets: another node begins after {place}")
            if before == "bracket":
                raise _TreeError("unbalanced brackets: a node begins where a label is expected")
            depth, before = depth + 1, "bracket"
        elif piece == ")":
            if depth == 0:
                raise _TreeError("unbalanced brackets: one more is closed than opened")
            if before in ("bracket", "label"):
                raise _TreeError("a node without a word or a tree in it")
            depth, before = depth - 1, "tree"
        elif before == "bracket":
            if piece not in ("0", "1", "2", "3", "4"):
                raise _TreeError(f"expected a label from 0 to 4 after '(', found {piece!r}")
            before = "label"
        elif before == "label":
            leaves.append(piece)
            before = "word"
        else:
            raise _TreeError(f"expected a bracket, found {piece!r}")
    if depth:
        raise _TreeError(f"unbalanced brackets: {depth} not closed at the end of the line")
    return int(pieces[1]), tuple(map(_word, leaves))


def _word(leaf: str) -> str:
    word = leaf.lower()
    return _BRACKETS.get(word, word).replace("\\/", "/").replace("\\*", "*")
