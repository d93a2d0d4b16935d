"""SNLI: pairs of sentences, of which the second follows from the first, may be true beside it, or contradicts it.

Reference: Bowman et al. 2015. A JSON object a line, of which the keys ``gold_label``, ``sentence1`` (the premise) and
``sentence2`` (the hypothesis) are read; pairs on whose label the annotators did not agree (``-``) are left out.
Complete: 549,367 / 9,842 / 9,824 pairs with a label.

The splits that are passed around are raw in one place and tokenized in another, so all three are brought to one form:
lower case, clitics split off as GloVe's tokenizer does (``do n't``, ``it 's``, ``can not``), hyphenated words and
abbreviations whole, and no token without a letter or a digit. Text that has this form keeps it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from quantizers.errors import InputError
from trainables.corpora.base import Corpus, Examples, Splits, read_lines

_CLASSES = ("entailment", "neutral", "contradiction")
_NO_LABEL = "-"
_KEYS = ("gold_label", "sentence1", "sentence2")
_TOKEN = re.compile(
    r"""
    n't\b | '(?:s|re|ve|ll|d|m)\b            # clitics
    | \b(?:[a-z]\.){2,}(?:[a-z]\b)?          # u.s., e.s.e
    | \b(?:mr|mrs|ms|dr|st|mt|ft|jr|sr)\.(?!\w)
    | [^\W_]+(?=n't\b) | \bcan(?=not\b)
    | [^\W_]+(?:[-.,:/&][^\W_]+)*(?:'(?!(?:s|re|ve|ll|d|m)\b)[^\W_]+)?  # t-shirt, 9:30, o'clock
    """,
    re.VERBOSE,
)


def _parse(paths: Sequence[Path]) -> Splits:
    train, dev, test = map(_read, paths)
    return Splits(train, dev, test, _CLASSES)


SNLI = Corpus(
    name="snli",
    source="the Stanford NLP group's SNLI page (snli_1.0.zip; get it with: frontier data fetch snli)",
    licence="CC BY-SA 4.0",
    layouts=tuple(
        tuple(f"{folder}/snli_1.0_{split}.jsonl" for split in ("train", "dev", "test")) for folder in ("snli", "snli_1.0")
    ),
    parse=_parse,
)


def tokenize(sentence: str) -> tuple[str, ...]:
    """Words of a sentence, in lower case; none may be left. Equal tokens are one string, whatever the sentence."""
    return tuple(map(sys.intern, _TOKEN.findall(sentence.lower().replace("\u2019", "'"))))


def _read(path: Path) -> Examples:
    premises, hypotheses, labels = [], [], []
    before: tuple[str, tuple[str, ...]] = ("", ())  # a premise stands in three pairs, one after the other
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        label, first, second = _pair(line, f"{path}:{number}")
        if label == _NO_LABEL:
            continue
        if first != before[0]:
            before = (first, tokenize(first))
        premises.append(before[1])
        hypotheses.append(tokenize(second))
        labels.append(_CLASSES.index(label))
    if not labels:
        raise InputError(f"{path}: no pair has a label; expected some with another gold_label than {_NO_LABEL!r}.")
    return Examples(tuple(premises), tuple(labels), hypotheses=tuple(hypotheses))


def _pair(line: str, where: str) -> tuple[str, str, str]:
    """Label, premise and hypothesis of one line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: expected a JSON object, found {line[:60]!r} ({error}).") from None
    if not isinstance(found, dict):
        raise InputError(f"{where}: expected a JSON object, found {line[:60]!r}.")
    for key in _KEYS:
        if key not in found:
            raise InputError(f"{where}: expected the keys {', '.join(_KEYS)}, found no {key}.")
        if not isinstance(found[key], str):
            raise InputError(f"{where}: expected text as {key}, found {json.dumps(found[key])[:60]}.")
    label, first, second = (found[key] for key in _KEYS)
    if label not in (*_CLASSES, _NO_LABEL):
        raise InputError(f"{where}: expected the gold_label {', '.join(_CLASSES)} or {_NO_LABEL}, found {label!r}.")
    return label, first, second
