"""Tables that need no file: a piece of GloVe that the package carries, and generated ones."""

from __future__ import annotations

import importlib.resources
import lzma

import numpy as np
import torch

from quantizers.errors import unknown_name
from quantizers.table import Table

_GLOVE = "glove-10k-50d"


def read(name: str, *, rows: int | None = None) -> Table:
    """The built-in table ``name``: ``glove-10k-50d`` or ``synthetic-NxD``.

    Raises:
        InputError: there is none; the message suggests the nearest name.
    """
    if name == _GLOVE:
        data = importlib.resources.files("trainables").joinpath(f"data/{_GLOVE}.txt.xz").read_bytes()
        lines = lzma.decompress(data).decode().split("\n")[:-1][:rows]
        values = np.array([line.split(" ")[1:] for line in lines], dtype=np.float32)
        return Table(torch.from_numpy(values), [line.split(" ")[0] for line in lines], name=name)
    raise unknown_name("built-in table", name, [_GLOVE, "synthetic-NxD"])
