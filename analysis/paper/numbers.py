"""What the AdaComp paper reports, and which of our trials stands beside which of its numbers.

Paper: Kim, Kim & Lee, "Adaptive Compression of Word Embeddings" (ACL 2020), Tables 1 and 2. Its memory sizes are those of
float32 vectors of 300 columns; the bytes of a row of Table 2 follow from its ratio: vocabulary * 300 * 4 / ratio.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

DIM = 300


@dataclasses.dataclass(frozen=True)
class Column:
    """A task of Table 2.

    Attributes:
        name: as the paper has it.
        task: the task's label here.
        metric: its metric here.
        unit: what the paper's numbers are in.
        scale: what a value of ours is multiplied by to be in that unit.
        vocabulary: words, by Table 1.
        baseline: the metric with uncompressed vectors.
        lower_is_better: whether that is the better direction.
    """

    name: str
    task: str
    metric: str
    unit: str
    scale: float
    vocabulary: int
    baseline: float
    lower_is_better: bool = False

    @property
    def dense_bytes(self) -> int:
        """Of the uncompressed vectors."""
        return self.vocabulary * DIM * 4


COLUMNS = (
    Column("SST-5", "sentiment", "accuracy", "accuracy, %", 100, 17_080, 42.1),
    Column("CoNLL-2000", "chunking", "f1", "F1, %", 100, 19_072, 93.1),
    Column("SNLI", "entailment", "accuracy", "accuracy, %", 100, 34_045, 79.0),
    Column("PTB", "language_model", "perplexity", "perplexity", 1, 9_809, 100.3, lower_is_better=True),
)


REGIMES = ("finetuned", "end_to_end")


@dataclasses.dataclass(frozen=True)
class Row:
    """A method of Table 2.

    Attributes:
        name: as the paper has it.
        method: the quantizer's name here.
        regime: how the paper trains it with the task.
        parameters: of the configuration, those that tell the rows apart.
        as_in_paper: other parameters as the paper, or the authors of the method, have them; None is the recipe's own value.
            How long a fit goes on is no part of it.
        reported: (metric, ratio) for each of COLUMNS.
    """

    name: str
    method: str
    regime: str
    parameters: Mapping[str, Any]
    as_in_paper: Mapping[str, Any]
    reported: Sequence[tuple[float, float]]

    def fits(self, trial: Mapping[str, Any]) -> bool:
        """Whether a row of ``trials.parquet`` is this method at this size, as in the paper or not."""
        if trial["quantizer"] != self.method or trial["budget_bytes"] is not None or trial["regime"] not in REGIMES:
            return False
        config = json.loads(trial["config_json"] or "{}")
        return config.get("epochs") != 0 and all(config.get(name) == value for name, value in self.parameters.items())

    def changed(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters of a configuration that are not as in the paper, with their values."""
        found = {name: config.get(name, value) for name, value in self.as_in_paper.items()}
        return {name: value for name, value in found.items() if value != self.as_in_paper[name]}


_AS_IN_PAPER: Mapping[str, Mapping[str, Any]] = {
    "identity": {},
    "scalar": {"levels": "uniform"},
    "pruned": {"value_dtype": "float32"},
    "dccl": {
        "recipe": "authors",
        "codebook_dtype": "float32",
        "tau": 1.0,
        "tau_end": None,
        "hidden": None,
        "optimizer": "adam",
        "learning_rate": None,
        "batch_size": None,
        "clip_norm": None,
        "refine_rounds": None,
    },
    "bin": {
        "recipe": "paper",
        "codebook_dtype": "float32",
        "batch_size": None,
        "learning_rate": None,
        "orthogonality": None,
    },
    "adacomp": {
        "batch_size": 64,
        "codebook_dtype": "float32",
        "learning_rate": 1e-3,
        "orthogonality": 0.01,
        "code_values": "01",
        "finish": False,
        "max_payload_bytes": None,
    },
}


def _compared(name: str, method: str, parameters: Mapping[str, Any], *reported: tuple[float, float]) -> Row:
    return Row(name, method, "finetuned", parameters, _AS_IN_PAPER[method], reported)


def _adacomp(longest: int, *reported: tuple[float, float]) -> Row:
    parameters = {"code_lengths": [longest, longest // 2, longest // 4, longest // 8]}
    return Row(f"AdaComp ({longest})", "adacomp", "end_to_end", parameters, _AS_IN_PAPER["adacomp"], reported)


ROWS = (
    _compared("GloVe, uncompressed", "identity", {}, *((column.baseline, 1) for column in COLUMNS)),
    _compared("QWE (4 bit)", "scalar", {"bits": 4}, (41.8, 8), (93.1, 8), (77.9, 8), (113.8, 8)),
    _compared("QWE (8 bit)", "scalar", {"bits": 8}, (41.9, 4), (93.3, 4), (78.6, 4), (109.1, 4)),
    _compared("Pruning 90 %", "pruned", {"sparsity": 0.9}, (35.4, 10), (90.4, 10), (78.0, 10), (113.2, 10)),
    _compared("Pruning 80 %", "pruned", {"sparsity": 0.8}, (41.6, 5), (91.7, 5), (78.2, 5), (124.7, 5)),
    _compared(
        "NC (16x16)",
        "dccl",
        {"num_codebooks": 16, "codebook_size": 16},
        *((37.2, 46), (91.8, 50), (77.8, 71), (119.2, 30)),
    ),
    _compared(
        "NC (32x16)",
        "dccl",
        {"num_codebooks": 32, "codebook_size": 16},
        *((40.9, 23), (92.4, 25), (78.5, 35), (112.4, 15)),
    ),
    _compared("Bin (64)", "bin", {"num_bits": 64}, (36.8, 95), (91.5, 100), (77.3, 116), (116.0, 74)),
    _compared("Bin (128)", "bin", {"num_bits": 128}, (39.1, 48), (92.7, 49), (77.6, 59), (110.1, 37)),
    _adacomp(32, (42.0, 171), (92.1, 173), (77.6, 232), (110.8, 105)),
    _adacomp(64, (43.2, 84), (93.0, 89), (78.4, 119), (106.0, 52)),
    _adacomp(128, (42.9, 45), (93.1, 44), (78.7, 60), (108.9, 26)),
)
