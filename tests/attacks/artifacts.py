"""Compressed files of every method, damaged: refused by both readers, or read by both with the same rows.

Half are damaged as they lie on a disk; the others get a digest that fits, as from somebody who means harm.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from random import Random
from typing import Any

import embedding_frontier_reader
import numpy as np
import safetensors.torch
import torch
from typer.testing import CliRunner

import quantizers
from quantizers import artifact
from sweeps.commands import application
from tests.attacks.damage import VALUES, raw
from tests.attacks.guard import BrokenPromiseError, Outcome, attempt, one_line

FILES = Path(__file__).parents[2] / "reader" / "python" / "tests" / "data"
_KEY = "embedding_frontier"


@functools.cache
def originals() -> dict[str, bytes]:
    """A file of every method, by the name of the stored one."""
    return {path.stem: path.read_bytes() for path in sorted(FILES.glob("*.safetensors"))}


def attack(seed: int, number: int, place: Path) -> tuple[str, Outcome]:
    """Attack ``number`` of the seed; -1 reads all files whole, by all three ways."""
    path = place / "t.safetensors"
    if number < 0:
        for name, data in originals().items():
            path.write_bytes(data)
            _check(path, name, altered=False)
            _inspect(path)
        return "all whole", Outcome("result")
    dice, names = Random(f"artifacts {seed} {number}"), list(originals())
    name = names[number % len(names)]
    signed = dice.random() < 0.5
    data = originals()[name]
    if signed:
        try:
            data = _signed(data, dice)
        except Exception:  # what cannot be put into a file cannot be read from one
            data = raw(data, dice)
            signed = False
    else:
        data = raw(data, dice)
    path.write_bytes(data)
    inspect = dice.random() < 0.2

    def work() -> None:
        if inspect:
            _inspect(path)
        _check(path, name, altered=not signed and data != originals()[name])

    return f"{name} {'signed' if signed else 'raw'}", attempt(work, place)


def _signed(data: bytes, dice: Random) -> bytes:
    """The file with header or tensors changed, and a digest that fits."""
    tensors = safetensors.torch.load(data)
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8:end])["__metadata__"][_KEY])
    for _ in range(dice.choice([1, 1, 2])):
        kind, name = dice.randrange(7), dice.choice(sorted(tensors))
        tensor = tensors[name]
        if kind == 0:
            header[dice.choice(["num_embeddings", "embedding_dim", "format_version", "method"])] = dice.choice(
                [*VALUES, "pq", "tt"]
            )
        elif kind == 1 and header["config"]:
            header["config"][dice.choice(sorted(header["config"]))] = dice.choice([*VALUES, 2, 3, 5, 300, "mse", "float16"])
        elif kind == 2:
            tensors[name] = tensor.reshape(-1)[: dice.randrange(tensor.numel() + 1)].clone()
        elif kind == 3:
            tensors[name] = tensor.to(dice.choice([torch.int64, torch.float64, torch.bool, torch.float16, torch.int32]))
        elif kind == 4:
            tensors[dice.choice(["x", "codes", "words", "vectors", "scale"])] = (
                tensors.pop(name) if dice.random() < 0.5 else tensor.clone()
            )
        else:  # some bytes of a tensor
            bytes_of = tensor.clone().reshape(-1).view(torch.uint8)
            for _ in range(dice.choice([1, 3, 30])):
                if len(bytes_of):
                    bytes_of[dice.randrange(len(bytes_of))] = dice.choice([0, 255, dice.randrange(256)])
            tensors[name] = bytes_of.view(tensor.dtype).reshape(tensor.shape)
    header["digest"] = artifact._digest(header, tensors)
    return safetensors.torch.save(tensors, {_KEY: json.dumps(header, sort_keys=True)})


def _check(path: Path, name: str, *, altered: bool) -> None:
    """Read by the program and by the NumPy reader."""
    rows: dict[str, Any] = {}
    refused: list[ValueError] = []
    for reader, read in (("program", _by_program), ("reader", _by_reader)):
        try:
            rows[reader] = read(path)
        except (quantizers.InputError, embedding_frontier_reader.ReadError) as error:
            one_line(str(error))
            refused.append(error)
    if len(refused) == 2:
        raise refused[0]
    if altered and rows:
        raise BrokenPromiseError("wrong", f"{name} is altered, and the {' and '.join(rows)} read it")
    if len(rows) == 2 and not same_rows(*rows.values()):
        raise BrokenPromiseError("wrong", f"{name}: the two readers read other rows")


def same_rows(a: Any, b: Any) -> bool:
    """Whether they differ by no more than sums in another order do, of whose size a row's largest value is a measure.

    Where values cancel out, what is left of them may differ much from itself. Values that are not finite must be where the
    other's are.
    """
    if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return False
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True):
        return False
    a, b = (np.where(finite, one, 0).astype(np.float64) for one in (a, b))
    most: np.ndarray[Any, Any] = np.abs(a).max(axis=1, keepdims=True)
    return bool((np.abs(a - b) <= 1e-5 + 1e-5 * most).all())


def _by_program(path: Path) -> Any:
    quantizer = quantizers.read(path).quantizer
    return quantizer.reconstruct(torch.from_numpy(_ids(quantizer.shape))).numpy()


def _by_reader(path: Path) -> Any:
    table = embedding_frontier_reader.load(path)
    return table.rows(_ids(table.shape))


def _ids(shape: tuple[int, int]) -> Any:
    """All rows; the two ends of a table that would take more than a file of its size has a right to."""
    return np.arange(shape[0]) if shape[0] * shape[1] < 10**7 else np.array([0, shape[0] - 1])


def _inspect(path: Path) -> None:
    done = CliRunner().invoke(application(), ["inspect", str(path)], catch_exceptions=False)
    if done.exit_code not in (0, 2):
        raise BrokenPromiseError("wrong", f"exit code {done.exit_code}: {done.output[-300:]}")
    if done.exit_code == 2:
        lines(done.stderr)


def lines(stderr: str) -> None:
    """What a command that refuses prints: a line, or one for each mistake of a sweep file."""
    if not stderr or not all(line.startswith("error: ") for line in stderr.strip().splitlines()):
        raise BrokenPromiseError("lines", f"stderr: {stderr[:400]!r}")
