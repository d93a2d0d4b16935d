"""Published data sets that can be fetched: where from, under which licence, with which checksum, and where the files go.

The publishers give no checksums. These are of their archives, as others who pin them have recorded them: NumPy's tutorials
(glove.6B), Flux's model zoo (sst), Homebrew and Julia's CorpusLoaders (conll2000, imdb), ParlAI (snli), and PaddlePaddle for
ptb, of which only an MD5 is on record. That of wikitext2 stands in CorpusLoaders, too. Those of multi30k are of the files in
its repository, where they stand since 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainables.corpora.conll import CONLL2000
from trainables.corpora.imdb import IMDB
from trainables.corpora.parallel import MULTI30K
from trainables.corpora.running_text import WIKITEXT2
from trainables.corpora.sst import SST5


@dataclass(frozen=True)
class Archive:
    """One file at a publisher's.

    Attributes:
        url: its address.
        checksum: ``sha256:...``, or ``md5:...`` where no other is on record.
        members: which of its members are taken, and the folder under the data folder that they go to, by pattern. A ``.gz``
            has one member: its name without the ending.
    """

    url: str
    checksum: str
    members: Mapping[str, str]


@dataclass(frozen=True)
class PublishedData:
    """A data set that can be fetched.

    Attributes:
        name: what people type.
        about: what it is, in one phrase.
        licence: as the publisher states it.
        page: where the publisher describes it.
        download_bytes: of its archives, about.
        disk_bytes: taken while it is being fetched, about: the archives and what is in them.
        archives: what is downloaded.
        files: how many files there are when it is complete, by pattern under the data folder.
    """

    name: str
    about: str
    licence: str
    page: str
    download_bytes: int
    disk_bytes: int
    archives: tuple[Archive, ...]
    files: Mapping[str, int]

    def is_complete(self, data_dir: Path) -> bool:
        """Whether every file is under ``data_dir``."""
        return all(sum(1 for _ in data_dir.glob(pattern)) >= number for pattern, number in self.files.items())


_MULTI30K = {
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
}

_ALL = (
    PublishedData(
        name="glove.6B",
        about="GloVe vectors of 400,000 words in 50, 100, 200 and 300 dimensions (Wikipedia 2014, Gigaword 5)",
        licence="PDDL 1.0",
        page="https://nlp.stanford.edu/projects/glove/",
        download_bytes=862_182_613,
        disk_bytes=3_200_000_000,
        archives=(
            Archive(
                "https://nlp.stanford.edu/data/glove.6B.zip",
                "sha256:617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb",
                {"glove.6B.*d.txt": "."},
            ),
        ),
        files={f"glove.6B.{dim}d.txt": 1 for dim in (50, 100, 200, 300)},
    ),
    PublishedData(
        name="sst",
        about="Stanford Sentiment Treebank (sst5, sst2)",
        licence=SST5.licence,
        page="https://nlp.stanford.edu/sentiment/",
        download_bytes=789_539,
        disk_bytes=4_000_000,
        archives=(
            Archive(
                "https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip",
                "sha256:5c613a4f673fc74097d523a2c83f38e0cc462984d847b82c7aaf36b01cbbbfcc",
                {"trees/*.txt": "sst/trees"},
            ),
        ),
        files={f"sst/trees/{split}.txt": 1 for split in ("train", "dev", "test")},
    ),
    PublishedData(
        name="conll2000",
        about="Phrases of newspaper sentences (the CoNLL-2000 shared task)",
        licence=CONLL2000.licence,
        page="https://www.clips.uantwerpen.be/conll2000/chunking/",
        download_bytes=750_000,
        disk_bytes=4_300_000,
        archives=(
            Archive(
                "https://www.clips.uantwerpen.be/conll2000/chunking/train.txt.gz",
                "sha256:bcbbe17c487d0939d48c2d694622303edb3637ca9c4944776628cd1815c5cb34",
                {"train.txt": "conll2000"},
            ),
            Archive(
                "https://www.clips.uantwerpen.be/conll2000/chunking/test.txt.gz",
                "sha256:2695b931a505b65b1d3fe2a5aa0d749edcd53d786278da6d7726714e1426fbe8",
                {"test.txt": "conll2000"},
            ),
        ),
        files={f"conll2000/{split}.txt": 1 for split in ("train", "test")},
    ),
    PublishedData(
        name="imdb",
        about="50,000 film reviews (the Large Movie Review Dataset, without its unlabelled part)",
        licence=IMDB.licence,
        page="https://ai.stanford.edu/~amaas/data/sentiment/",
        download_bytes=84_125_825,
        disk_bytes=330_000_000,
        archives=(
            Archive(
                "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
                "sha256:c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",
                {f"aclImdb/{part}/*.txt": f"aclImdb/{part}" for part in ("train/pos", "train/neg", "test/pos", "test/neg")},
            ),
        ),
        files={f"aclImdb/{part}/*.txt": 12_500 for part in ("train/pos", "train/neg", "test/pos", "test/neg")},
    ),
    PublishedData(
        name="snli",
        about="570,000 pairs of sentences, one of which may follow from the other (SNLI 1.0)",
        licence="CC BY-SA 4.0",
        page="https://nlp.stanford.edu/projects/snli/",
        download_bytes=94_550_081,
        disk_bytes=620_000_000,
        archives=(
            Archive(
                "https://nlp.stanford.edu/projects/snli/snli_1.0.zip",
                "sha256:afb3d70a5af5d8de0d9d81e2637e0fb8c22d1235c2749d83125ca43dab0dbd3e",
                {"snli_1.0/snli_1.0_*.jsonl": "snli"},
            ),
        ),
        files={f"snli/snli_1.0_{split}.jsonl": 1 for split in ("train", "dev", "test")},
    ),
    PublishedData(
        name="multi30k",
        about="Captions of photographs in German and English (Multi30k, task 1, with the Flickr test set of 2016)",
        licence=MULTI30K.licence,
        page="https://github.com/multi30k/dataset",
        download_bytes=1_296_271,
        disk_bytes=5_500_000,
        archives=tuple(
            Archive(
                f"https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/{name}.gz",
                f"sha256:{checksum}",
                {name: "multi30k"},
            )
            for name, checksum in _MULTI30K.items()
        ),
        files={f"multi30k/{name}": 1 for name in _MULTI30K},
    ),
    PublishedData(
        name="ptb",
        about="Newspaper text of 10,000 different words (Mikolov's cut of the Penn Treebank)",
        licence=CONLL2000.licence,
        page="http://www.fit.vutbr.cz/~imikolov/rnnlm/",
        download_bytes=34_900_000,
        disk_bytes=41_000_000,
        archives=(
            Archive(
                "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",
                "md5:30177ea32e27c525793142b6bf2c8e2d",
                {f"simple-examples/data/ptb.{split}.txt": "ptb" for split in ("train", "valid", "test")},
            ),
        ),
        files={f"ptb/ptb.{split}.txt": 1 for split in ("train", "valid", "test")},
    ),
    PublishedData(
        name="wikitext2",
        about="Articles of Wikipedia, 2 million words, 33,278 different ones (WikiText-2)",
        licence=WIKITEXT2.licence,
        page="https://huggingface.co/datasets/Salesforce/wikitext",
        download_bytes=4_475_746,
        disk_bytes=18_000_000,
        archives=(
            Archive(
                "https://s3.amazonaws.com/research.metamind.io/wikitext/wikitext-2-v1.zip",
                "sha256:92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
                {"wikitext-2/wiki.*.tokens": "wikitext2"},
            ),
        ),
        files={f"wikitext2/wiki.{split}.tokens": 1 for split in ("train", "valid", "test")},
    ),
)
PUBLISHED: Mapping[str, PublishedData] = {one.name: one for one in _ALL}
