"""Text corpora for the downstream tasks, read from the publishers' own files under the data folder."""

from __future__ import annotations

from collections.abc import Mapping

from trainables.corpora.base import Corpus, Examples, Splits
from trainables.corpora.conll import CONLL2000
from trainables.corpora.imdb import IMDB
from trainables.corpora.sst import SST2, SST5

CORPORA: Mapping[str, Corpus] = {corpus.name: corpus for corpus in (SST5, SST2, IMDB, CONLL2000)}

__all__ = ["CORPORA", "Corpus", "Examples", "Splits"]
