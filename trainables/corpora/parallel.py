"""Parallel corpora: German sentences and their English translations, a sentence a line in two files.

- Multi30k (Elliott et al. 2016), task 1 of the WMT multimodal shared tasks: captions of photographs, as they were written.
  Complete: 29,000 / 1,014 / 1,000 pairs (train, val, the Flickr test set of 2016).
- IWSLT 2014 (Cettolo et al. 2014): talks, in the files that fairseq's ``prepare-iwslt14.sh`` makes, tokenized and in lower
  case. Complete: 160,239 / 7,283 / 6,750 pairs. The name of the training files may go on (``train_4600.de``).

Tokens are lower case. Text as it was written falls into words, numbers and single marks; clitics are split off as GloVe's
tokenizer does (``do n't``, ``it 's``), and a hyphen within a word is the token ``@-@``, as Moses has it. ``detokenize``
undoes that: the BLEU of a reference that went there and back is above 99.9. Tokenized text falls at its spaces.
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quantizers.errors import InputError
from trainables.corpora.base import Corpus, Examples, Splits, read_lines

_CLITIC = r"['\u2019](?:s|re|ve|ll|d|m)\b"
_TOKEN = re.compile(
    rf"""
    {_CLITIC} | n['\u2019]t\b
    | (?P<hyphen>(?<=\w)-(?=\w))
    | [^\W\d_]+(?=n['\u2019]t\b)
    | [^\W_]+(?:(?<=\d)[.,:]\d+)*
    | \S
    """,
    re.VERBOSE,
)
_JOINED = re.compile(rf"{_CLITIC}|n['\u2019]t|[.,;:!?%)\]}}\u2026]")
_HYPHEN = "@-@"
_QUOTES = ('"', "'")


@dataclass(frozen=True, kw_only=True)
class ParallelCorpus(Corpus):
    """A corpus of sentences and their translations.

    Attributes:
        detokenize: the text of some tokens, as the references are written.
        bleu_tokenizer: how sacrebleu tokenizes such text.
    """

    detokenize: Callable[[Sequence[str]], str]
    bleu_tokenizer: str


def tokenize(sentence: str) -> tuple[str, ...]:
    """Words and marks of a sentence, in lower case. Equal tokens are one string, whatever the sentence."""
    found = _TOKEN.finditer(html.unescape(sentence).lower())
    return tuple(sys.intern(_HYPHEN if one.lastgroup == "hyphen" else one[0]) for one in found)


def detokenize(tokens: Sequence[str]) -> str:
    """Tokens as a sentence is written, in lower case; see :func:`tokenize`."""
    text = ""
    joined = True  # whether the next token follows without a space
    opened: set[str] = set()
    for token in tokens:
        closes = token in opened or (token == "'" and text.endswith("s"))
        if joined or token == _HYPHEN or closes or _JOINED.fullmatch(token):
            text += "-" if token == _HYPHEN else token
        else:
            text += f" {token}"
        joined = token in ("(", "[", "{", _HYPHEN) or (token in _QUOTES and not closes)
        if token in _QUOTES:
            (opened.discard if closes else opened.add)(token)
    return text


def _split(sentence: str) -> tuple[str, ...]:
    return tuple(map(sys.intern, sentence.lower().split()))


def _parse(tokens_of: Callable[[str], tuple[str, ...]]) -> Callable[[Sequence[Path]], Splits]:
    def parse(paths: Sequence[Path]) -> Splits:
        if len(paths) != 6:
            names = ", ".join(path.name for path in paths)
            raise InputError(f"{paths[0].parent}: expected two files for each of train, dev and test, found {names}.")
        train, dev, test = (_read(paths[place], paths[place + 1], tokens_of) for place in (0, 2, 4))
        return Splits(train, dev, test, ())

    return parse


def _read(source: Path, target: Path, tokens_of: Callable[[str], tuple[str, ...]]) -> Examples:
    sentences, translations = _sentences(source), _sentences(target)
    if len(sentences) != len(translations):
        raise InputError(
            f"{target}: expected {len(sentences):,} lines, as {source.name} has, found {len(translations):,}: line n is the "
            "translation of line n."
        )
    return Examples(
        tuple(map(tokens_of, sentences)),
        translations=tuple(map(tokens_of, translations)),
        references=tuple(translations),
    )


def _sentences(path: Path) -> list[str]:
    """The lines of a file, of which none is empty."""
    lines = [line.strip() for line in read_lines(path)]
    while not lines[-1]:
        lines.pop()
    if "" in lines:
        raise InputError(f"{path}:{lines.index('') + 1}: expected a sentence, found an empty line.")
    return lines


def _layout(folder: str, names: Sequence[str], end: str = "") -> tuple[str, ...]:
    return tuple(f"{folder}/{name}.{language}{end}" for name in names for language in ("de", "en"))


_MULTI30K = ("train", "val", "test_2016_flickr")

MULTI30K = ParallelCorpus(
    name="multi30k",
    source="the Multi30k repository, data/task1/raw (get it with: frontier data fetch multi30k)",
    licence="CC BY-NC-SA 4.0; the photographs that are described have licences of their own",
    layouts=(_layout("multi30k", _MULTI30K), _layout("multi30k", _MULTI30K, ".gz")),
    parse=_parse(tokenize),
    detokenize=detokenize,
    bleu_tokenizer="13a",
)
IWSLT14 = ParallelCorpus(
    name="iwslt14",
    source="fairseq's examples/translation/prepare-iwslt14.sh, which downloads the talks and tokenizes them",
    licence="CC BY-NC-ND 4.0 (TED talks)",
    layouts=tuple(_layout(folder, ("train*", "valid", "test")) for folder in ("iwslt14", "iwslt14.tokenized.de-en")),
    parse=_parse(_split),
    detokenize=" ".join,
    bleu_tokenizer="none",
)
