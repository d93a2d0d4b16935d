"""What a trial takes of the machines: processor cores, a share of a GPU, memory.

``gpu: auto`` packs several trials on a GPU by measured memory. The first trial of each method has a GPU to itself; the most
that its trials took of the device's memory, half as much again for larger configurations, and what a process takes for
itself, decide how many of its trials share a GPU from then on. No process may take more than its share: the allocator
refuses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

import quantizers
from quantizers.errors import InputError
from sweeps.spec.config import Resources
from trainables.trial import TrialSpec

MARGIN = 1.5
CONTEXT_BYTES = 600 * 10**6  # CUDA's context and libraries, which no allocator counts
_MOST_ON_A_GPU = 16


@dataclasses.dataclass(frozen=True)
class Share:
    """What one trial has.

    Attributes:
        cpu: cores, and so many threads.
        gpu: part of a GPU.
        memory_bytes: main memory that it may take on top of what its process had; None: as much as there is.
        gpu_bytes: memory of the device that its process may take; None: all of it.
    """

    cpu: float
    gpu: float
    memory_bytes: int | None
    gpu_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dataclasses.asdict(self)

    @property
    def threads(self) -> int:
        """Threads of the trial."""
        return max(1, int(self.cpu))


class Policy:
    """Decides each trial's share.

    Args:
        resources: as the sweep says.
        gpus: how many GPUs Ray has.
        gpu_bytes: memory of one of them; None where that is not known.
        tasks_use_gpu: whether a task of the sweep does, so that methods that need none still take one.
    """

    def __init__(self, resources: Resources, *, gpus: float, gpu_bytes: int | None, tasks_use_gpu: bool = False) -> None:
        self._resources = resources
        self._tasks_use_gpu = tasks_use_gpu
        self._gpus = gpus
        self._gpu_bytes = resources.gpu_memory or gpu_bytes
        self._peaks: dict[str, int] = {}

    @property
    def _packs(self) -> bool:
        return self._resources.gpu == "auto" and self._gpus > 0

    def set_gpus(self, gpus: float) -> None:
        """Take note of how many GPUs Ray has now."""
        self._gpus = gpus

    def learn(self, method: str, device_memory_bytes: int | None) -> None:
        """Take note of what a trial of ``method`` took of its device."""
        if device_memory_bytes is not None:
            self._peaks[method] = max(self._peaks.get(method, 0), device_memory_bytes)

    def may_start(self, spec: TrialSpec, running: Sequence[str]) -> bool:
        """Whether ``spec`` may start beside trials of the methods ``running``; not while its method is being measured."""
        measured = spec.method in self._peaks or not self._packs or not self._uses_gpu(spec)
        return measured or spec.method not in running

    def share(self, spec: TrialSpec, *, alone: bool = False) -> Share:
        """What a trial gets; one that runs alone, because it was lost, has a GPU to itself."""
        gpu = self._gpu(spec, alone)
        cap = None if not gpu or self._gpu_bytes is None else int(gpu * self._gpu_bytes)
        return Share(self._resources.cpu, gpu, self._resources.memory, cap)

    def _gpu(self, spec: TrialSpec, alone: bool) -> float:
        if not self._uses_gpu(spec):
            return 0.0
        if self._resources.gpu != "auto":
            return self._resources.gpu
        if not self._gpus:
            return 0.0
        peak = self._peaks.get(spec.method)
        if alone or peak is None or self._gpu_bytes is None:
            return 1.0
        fits = int(self._gpu_bytes // (MARGIN * peak + CONTEXT_BYTES))
        # Ray counts in ten-thousandths; cut off, so that the shares of a GPU never add up to more than it.
        return int(10_000 / min(max(1, fits), _MOST_ON_A_GPU)) / 10_000

    def _uses_gpu(self, spec: TrialSpec) -> bool:
        return self._tasks_use_gpu or quantizers.get(spec.method).uses_gpu

    def slots(self, cpus: float) -> int:
        """About how many trials run at the same time on ``cpus`` cores."""
        slots = cpus / self._resources.cpu
        if self._resources.gpu != "auto" and self._resources.gpu:
            slots = min(slots, self._gpus / self._resources.gpu)
        return max(1, int(slots))


def gpu_bytes() -> int | None:
    """Memory of the GPU that this process has; None where it has none that torch can use."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def check_fits(resources: Resources, nodes: Sequence[dict[str, float]]) -> None:
    """Refuse a request that no machine can ever meet: Ray would wait for one without an end.

    Raises:
        InputError: no node has as much.
    """
    gpu = 0.0 if resources.gpu == "auto" else resources.gpu
    wanted = {"cpu": ("CPU", resources.cpu), "gpu": ("GPU", gpu), "memory": ("memory", float(resources.memory or 0))}
    for key, (name, amount) in wanted.items():
        most = max((node.get(name, 0.0) for node in nodes), default=0.0)
        if amount > most:
            raise InputError(f"resources.{key}: a trial asks for {amount:,g}, but no machine has more than {most:,g}.")
