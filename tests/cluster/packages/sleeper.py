"""A method that takes as long as ``SLEEP_SECONDS`` says, for tests on several hosts: signs, and one magnitude a row.

Where the file ``count`` is in the folder ``MEET_IN``, trials go on once they have begun on so many hosts.
"""

import os
import socket
import time
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from quantizers import FitStep, Quantizer, QuantizerConfig, StorageCost
from quantizers.coding.bits import pack, unpack

_LONGEST_WAIT = 300.0  # seconds that a trial waits for other hosts


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
        meeting = Path(os.environ.get("MEET_IN") or "nowhere")
        if (meeting / "count").is_file():
            (meeting / f"host-{socket.gethostname()}").touch()
            count = int((meeting / "count").read_text())
            while len(list(meeting.glob("host-*"))) < count:
                if time.monotonic() - begin > _LONGEST_WAIT:
                    raise TimeoutError(f"no trial began on {count} hosts within {_LONGEST_WAIT:.0f} s")
                time.sleep(0.2)
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
