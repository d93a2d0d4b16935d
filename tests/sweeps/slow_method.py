"""A method for tests that end in the middle: its fits take time, and leave a note that they began."""

SLOW_METHOD = '''
"""float16 that takes its time, and leaves a note when it begins."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import torch

from quantizers import FitStep, Quantizer, QuantizerConfig, StorageCost


class SlowConfig(QuantizerConfig):
    """seconds: of the fit; columns: of the table that are kept; notes: a folder."""

    seconds: float = 0.3
    columns: int = 1
    notes: str = ""


class Slow(Quantizer):
    """The first columns in float16."""

    name = "slow_columns"
    Config = SlowConfig
    reference = "a test"
    state_roles: ClassVar[dict[str, Any]] = {"values": "code"}

    @classmethod
    def configs_for(cls, budget, stats):
        return [SlowConfig()]

    @classmethod
    def storage(cls, config, shape):
        return StorageCost(2 * shape[0] * config.columns, 0, 0)

    def _fit_steps(self, table, *, seed, weights, budget):
        with (Path(self.config.notes) / f"{self.config.columns}-{seed}").open("a") as note:
            note.write("x")
        for step in range(10):
            time.sleep(self.config.seconds / 10)
            yield FitStep("sleep", step / 10)
        self._set_state({"values": table.vectors[:, : self.config.columns].to(torch.float16)})
        yield FitStep("end", 1.0)

    def reconstruct(self, ids):
        values = self._state["values"][ids].to(torch.float32)
        return torch.nn.functional.pad(values, (0, self.embedding_dim - values.shape[1]))
'''
