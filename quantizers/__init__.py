"""Compressed embedding tables: methods, byte-exact storage, files, and a drop-in module.

>>> import torch, quantizers
>>> table = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
>>> q = quantizers.create("pq", num_codebooks=4, codebook_size=16).fit(table)
>>> q.payload_bytes  # 1000 rows x 4 codes of 4 bits, and 16 x 16 floats of codebook
3024
>>> q.module()(torch.tensor([[1, 2], [3, 4]])).shape
torch.Size([2, 2, 16])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantizers.artifact import Artifact, load, read, save
    from quantizers.base import Budget, FitStep, Quantizer, QuantizerConfig, Skip, StorageCost
    from quantizers.codes import CodeQuantizer
    from quantizers.embedding import CompressedEmbedding
    from quantizers.errors import ArtifactError, InputError, NotFittedError
    from quantizers.output.layer import CompressedOutput
    from quantizers.registry import create, get, list_methods, make_config
    from quantizers.table import Table, TableStats

__all__ = [
    "Artifact",
    "ArtifactError",
    "Budget",
    "CodeQuantizer",
    "CompressedEmbedding",
    "CompressedOutput",
    "FitStep",
    "InputError",
    "NotFittedError",
    "Quantizer",
    "QuantizerConfig",
    "Skip",
    "StorageCost",
    "Table",
    "TableStats",
    "create",
    "get",
    "list_methods",
    "load",
    "make_config",
    "read",
    "save",
]

_MODULES = ("artifact", "registry", "embedding", "output.layer", "base", "codes", "table", "errors")


def __getattr__(name: str) -> Any:
    """Public names are imported when first used: torch takes seconds, and ``frontier --help`` needs none of it."""
    if name in __all__:
        for module in _MODULES:
            found = vars(importlib.import_module(f"quantizers.{module}"))
            if name in found:
                globals()[name] = found[name]
                return found[name]
    raise AttributeError(f"module 'quantizers' has no attribute {name!r}")
