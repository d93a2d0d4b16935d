"""Text corpora for the downstream tasks, read from the publishers' own files under the data folder.

A reader is imported when its corpus is asked for, by name: what a task reads is then part of that task's code, and no other
corpus is (see :meth:`trainables.task.DownstreamTask.code_modules`).
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping

from trainables.corpora.base import Corpus, Examples, Splits

_READERS = {
    "sst5": "sst",
    "sst2": "sst",
    "imdb": "imdb",
    "conll2000": "conll",
    "snli": "snli",
    "multi30k": "parallel",
    "iwslt14": "parallel",
    "ptb": "running_text",
    "wikitext2": "running_text",
}


def reader_module(name: str) -> str:
    """The module that reads the corpus ``name``; a KeyError if there is none."""
    return f"{__name__}.{_READERS[name]}"


class _Corpora(Mapping[str, Corpus]):
    """Every corpus by name."""

    def __getitem__(self, name: str) -> Corpus:
        module = importlib.import_module(reader_module(name))
        return next(value for value in vars(module).values() if isinstance(value, Corpus) and value.name == name)

    def __iter__(self) -> Iterator[str]:
        return iter(_READERS)

    def __len__(self) -> int:
        return len(_READERS)


CORPORA: Mapping[str, Corpus] = _Corpora()

__all__ = ["CORPORA", "Corpus", "Examples", "Splits", "reader_module"]
