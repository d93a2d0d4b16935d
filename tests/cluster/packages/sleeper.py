"""A method that takes as long as ``SLEEP_SECONDS`` says, for tests on several hosts: signs, and one magnitude a row."""

import os
import time
from typing import ClassVar

import torch
from pydantic import Field

from quantizers import FitStep, Quantizer, QuantizerConfig, StorageCost
from quantizers.coding.bits import pack, unpack


class SleeperConfig(QuantizerConfig):
    """``number`` tells configurations apart."""

    number: int = Field(default=0, ge=0)


class Sleeper(Quantizer):
    """The time is not part of the configuration: a quick run elsewhere has the same trials."""

    name = "sleeper"
    Config = SleeperConfig
    reference = "a test"
    state_roles: ClassVar = {"signs": "code", "scale": "side"}

    @classmethod
    def configs_for(cls, budget, stats):
        return [SleeperConfig()]

    @classmethod
    def storage(cls, config, shape):
        return StorageCost(shape[0] * ((shape[1] + 7) // 8), 0, 4 * shape[0])

    def _fit_steps(self, table, *, seed, weights, budget, **_):
        seconds = float(os.environ.get("SLEEP_SECONDS", "0"))
        begin = time.monotonic()
        while time.monotonic() - begin < seconds:
            time.sleep(min(0.5, seconds))
            yield FitStep("sleep", 0.9)
        noise = torch.rand(table.vectors.shape, generator=torch.Generator().manual_seed(seed + 1000 * self.config.number))
        x = table.vectors + 0.1 * (noise - 0.5)
        self._set_state({"signs": pack((x >= 0).to(torch.int64), 1), "scale": x.abs().mean(dim=1)})
        yield FitStep("signs", 1.0)

    def reconstruct(self, ids):
        signs = unpack(self._state["signs"][ids], self.embedding_dim, 1)
        return (2.0 * signs - 1.0) * self._state["scale"][ids, None]
