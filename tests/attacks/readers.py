"""Files of tables, sweeps, runs, the ledger and corpora, of any bytes: a result or one line of refusal."""

from __future__ import annotations

import functools
import gzip
import importlib.util
import io
import json
import lzma
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from analysis import store
from quantizers import Table
from sweeps.cluster.submit import read_cluster
from sweeps.record.ledger import Ledger
from sweeps.record.status import read_status
from sweeps.spec.config import load_all, load_run
from sweeps.spec.limits import check_size
from sweeps.spec.prepare import read_weights
from tests.attacks.damage import damaged
from tests.attacks.guard import BrokenPromiseError, Outcome, attempt
from trainables.baselines import load_baseline
from trainables.corpora import CORPORA
from trainables.tables.formats import read_table
from trainables.tables.writing import write_table

TESTS = Path(__file__).parents[1]
CLUSTER = TESTS.parent / "cluster.yaml"
RUN = TESTS / "formats" / "schema-4"
TREE = "(3 (2 It) (4 (2 's) (4 Good)))\n(2 plain)\n\n(0 (0 Bad) (2 .))\n"
PAIR = {"gold_label": "entailment", "sentence1": "A man's dog runs.", "sentence2": "It isn't still."}
TEXTS = {
    "sst5": TREE,
    "sst2": TREE,
    "conll2000": "He PRP B-NP\nreckons VBZ B-VP\nthe DT B-NP\ndeficit NN I-NP\n. . O\n\n" * 9,
    "snli": f"{json.dumps(PAIR)}\n" * 3,
    "imdb": "review,sentiment\n" + '"Good, ""film"".<br />",positive\nBad,negative\n' * 6,
}
PLAIN = " no it was n't <unk> black monday \n = Title = \n a second line \n" * 3
SWEEP = """name: s
table: builtin:synthetic-50x8
quantizers: [{method: pq, num_codebooks: [2, 4], codebook_size: {low: 4, high: 16}}, rq]
budgets: {payload_bytes: [1KB]}
search: {kind: random, samples: 3}
seeds: [0, 1]
stop: {time: 10m}
"""


def _table_files() -> Any:
    spec = importlib.util.spec_from_file_location("table_files", TESTS / "trainables" / "table_files.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_table(path: Path) -> None:
    table = read_table(str(path))
    if min(table.shape) < 1 or not bool(torch.isfinite(table.vectors).all()):
        raise BrokenPromiseError("wrong", f"a table of shape {table.shape} with numbers that are none")


def _written(folder: Path, name: str) -> str:
    """A table in one of our own formats, packed as the ending says."""
    vectors = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    plain = name.removesuffix(".gz").removesuffix(".xz").removesuffix(".zip")
    path = folder / plain
    write_table(Table(vectors, [f"w{row}" for row in range(9)], torch.arange(9.0, 0, -1)), path)
    data = path.read_bytes()
    if name.endswith((".gz", ".xz")):
        (folder / name).write_bytes((gzip.compress if name.endswith(".gz") else lzma.compress)(data))
    elif name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(plain, data)
    return name


def _corpus(folder: Path, name: str) -> str:
    for pattern in min(CORPORA[name].layouts, key=len):
        path = folder / pattern.replace("*", "one")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = TEXTS.get(name, PLAIN).encode()
        path.write_bytes(gzip.compress(text) if pattern.endswith(".gz") else text)
    return ""


def _check_corpus(name: str, path: Path) -> None:
    splits = CORPORA[name].read(path)
    if not all(len(split) for split in (splits.train, splits.dev, splits.test)):
        raise BrokenPromiseError("wrong", "a split without examples")


def _file(folder: Path, name: str, content: bytes) -> str:
    (folder / name).write_bytes(content)
    return name


def _of_run(folder: Path, name: str) -> str:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(RUN / "sample" / name, target)
    return name


def _sweeps(path: Path) -> None:
    for config in load_all(str(path)):
        check_size(config)


def _entry(path: Path) -> None:
    """A ledger's entry that cannot be read is no entry; what can be is a row."""
    ledger = Ledger(path.parents[1])
    ledger.get(path.stem)
    for _ in ledger.results():
        pass


def _parquet(read: Callable[[Path], Any], path: Path) -> None:
    read(path.parent)


_MAKERS = ["npz", "state_dict", "tensor", "embedding", "parquet_columns", "parquet_lists", "feather", "arrow", "comma"]
_MAKERS += ["tabs", "kv", "kv_beside", "fasttext", "shards", "hugging_face", "hugging_face_shards"]
_MAKERS += ["hugging_face_checkpoint", "model2vec", "static_embedding", "word2vec", "zipped"]
_OWN = ["t.txt", "t.vec", "t.bin", "t.npy", "t.safetensors", "t.txt.gz", "t.vec.xz", "t.bin.gz", "t.txt.zip"]
_RUN_FILES = {
    "trials.parquet": store.read_trials,
    "scores.parquet": store.read_scores,
    "frontier.parquet": store.read_frontier,
}
_RUN_FILES |= {"run.json": store.read_run, "status.json": read_status, "sweep.yaml": load_run}  # type: ignore[dict-item]


@functools.cache
def targets() -> dict[str, tuple[Callable[[Path], str], Callable[[Path], Any]]]:
    """By name: what writes the files and says which of them is read, and what reads it."""
    files = _table_files()
    found: dict[str, tuple[Callable[[Path], str], Callable[[Path], Any]]] = {}
    found |= {f"table {name}": (functools.partial(_written, name=name), _check_table) for name in _OWN}
    found |= {f"table {name}": (getattr(files, name), _check_table) for name in _MAKERS}
    found |= {
        f"corpus {name}": (functools.partial(_corpus, name=name), functools.partial(_check_corpus, name)) for name in CORPORA
    }
    found |= {
        f"run {name}": (functools.partial(_of_run, name=name), functools.partial(_parquet, read))
        for name, read in _RUN_FILES.items()
    }
    for kind, read in (("results", _entry), ("baselines", load_baseline)):
        name = next((RUN / "sample" / "ledger" / kind).iterdir()).name
        found[f"ledger {kind}"] = (functools.partial(_of_run, name=f"ledger/{kind}/{name}"), read)
    found["cluster file"] = (
        lambda folder: _file(folder, "c.yaml", CLUSTER.read_bytes()),
        lambda path: read_cluster(str(path)),
    )
    found["sweep file"] = (lambda folder: _file(folder, "s.yaml", SWEEP.encode()), _sweeps)
    weights = io.BytesIO()
    np.save(weights, np.ones(3))
    table = Table(torch.ones(3, 2))
    for name, content in (("w.txt", b"1.5\n2\n0.25\n"), ("w.npy", weights.getvalue())):
        found[f"weights {name}"] = (
            functools.partial(_file, name=name, content=content),
            lambda path: read_weights(str(path), table, None),
        )
    return found


@functools.cache
def _originals(name: str) -> tuple[str, dict[str, bytes]]:
    """Which file is read, and all files as they are when whole."""
    with tempfile.TemporaryDirectory() as place:
        read = targets()[name][0](Path(place))
        files = {str(path.relative_to(place)): path.read_bytes() for path in Path(place).rglob("*") if path.is_file()}
    return read, files


def attack(seed: int, number: int, place: Path) -> tuple[str, Outcome]:
    """Attack ``number`` of the seed: one file of one target is damaged, or is something else, and read.

    Number -1 reads all files whole.
    """
    if number < 0:
        for name, (_, read) in targets().items():
            with tempfile.TemporaryDirectory(dir=place) as folder:
                read(_put(name, None, folder))
        return "all whole", Outcome("result")
    dice, names = Random(f"readers {seed} {number}"), sorted(targets())
    name = names[number % len(names)]
    with tempfile.TemporaryDirectory(dir=place) as folder:
        path = _put(name, dice, folder)
        return name, attempt(lambda: targets()[name][1](path), place)


def _put(name: str, dice: Random | None, folder: str) -> Path:
    """Write the files of a target, one of them damaged; returns which is read."""
    which, files = _originals(name)
    chosen = None if dice is None else dice.choice(sorted(files))
    for file, content in files.items():
        path = Path(folder, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if dice is None or file != chosen else _instead(file, content, dice))
    return Path(folder, which)


def _instead(file: str, content: bytes, dice: Random) -> bytes:
    kind = dice.randrange(40)
    if kind == 0:
        return b""
    if kind == 1:
        return dice.randbytes(dice.choice([1, 10, 300, 5000]))
    if kind == 2:  # of another format
        return dice.choice([data for name in sorted(targets()) for data in _originals(name)[1].values()])
    if kind == 3:  # the same over and over; packed, far more than the size lets one think
        piece = dice.choice([b"\n", b"a 1\n", b"\0", b" "])
        pack = {"gz": functools.partial(gzip.compress, compresslevel=1), "xz": functools.partial(lzma.compress, preset=0)}
        ending = file.rpartition(".")[2]
        return pack[ending](piece * (10**8 // len(piece))) if ending in pack else piece * (1 << 20)
    return damaged(content, dice)
