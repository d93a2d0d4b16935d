"""What a training goes on from when its process was lost: all that its next step depends on, saved now and then.

Reference: none of its own; used by every loop that steps along a gradient.

A loop hands over what its steps change, before the first of them, and offers to save at the end of each:

    saved = Checkpoint("bin", optimizer=optimizer, batches=batches, decoder=decoder)
    for ids in batches:
        ...
        saved.save()

What comes out is the same to the bit as without the loss. Who saves where is said around it (:func:`saved_by`); where
nobody says so, as when a person fits a quantizer alone, nothing is saved and nothing is looked for.
"""

from __future__ import annotations

import contextlib
import json
import time
import types
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

_LARGEST_SHARE = 0.05  # of the time, for saving: a large state on a slow storage is saved less often


class Saver(ABC):
    """Keeps the checkpoints of one trial.

    Args:
        seconds: between two checkpoints at the least; 0 saves after every step.

    Attributes:
        carried_seconds: of work that was not done again, since checkpoints held what came of it.
        told: what the trial has reported so far, JSON-able; a checkpoint brings back what had been by the time it was saved.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.carried_seconds = 0.0
        self.told: list[dict[str, Any]] = []
        self._next = time.monotonic() + seconds
        self._uses: Counter[str] = Counter()

    @abstractmethod
    def load(self, name: str) -> dict[str, Any] | None:
        """What was saved last under ``name``, its tensors on the CPU; None where there is nothing that can be read."""

    @abstractmethod
    def save(self, name: str, state: dict[str, Any]) -> None:
        """Keep ``state``: tensors, numbers, strings and None, in lists, tuples and dicts. The last one stays."""

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    def saved(self, took_seconds: float) -> None:
        """A save is over: count the time to the next from now."""
        wait = max(self.seconds, took_seconds / _LARGEST_SHARE) if self.seconds else 0.0
        self._next = time.monotonic() + wait

    def numbered(self, name: str) -> str:
        """``name``, with a number from the second use on: trainings of one name come in the same order every time."""
        self._uses[name] += 1
        return name if self._uses[name] == 1 else f"{name}.{self._uses[name]}"


_SAVER: ContextVar[Saver | None] = ContextVar("saver", default=None)
_PLACE: ContextVar[str] = ContextVar("place", default="")


@contextlib.contextmanager
def saved_by(saver: Saver) -> Iterator[None]:
    """Trainings inside are saved by ``saver``, and go on from what it has."""
    token = _SAVER.set(saver)
    try:
        yield
    finally:
        _SAVER.reset(token)


@contextlib.contextmanager
def within(place: str) -> Iterator[None]:
    """Names of trainings inside begin with ``place``: for what a trial does in one run and finds done in the next."""
    token = _PLACE.set(f"{_PLACE.get()}{place}.")
    try:
        yield
    finally:
        _PLACE.reset(token)


def told() -> list[dict[str, Any]]:
    """Where a trial keeps its reports: the saver's list, or a new one."""
    saver = _SAVER.get()
    return [] if saver is None else saver.told


class Stopwatch:
    """Seconds of work since it was made, with those that a checkpoint saved from being spent again."""

    def __init__(self) -> None:
        self._begin, self._carried = time.perf_counter(), self._carried_now()

    def seconds(self) -> float:
        """As of now."""
        return time.perf_counter() - self._begin + self._carried_now() - self._carried

    @staticmethod
    def _carried_now() -> float:
        saver = _SAVER.get()
        return 0.0 if saver is None else saver.carried_seconds


@runtime_checkable
class Stateful(Protocol):
    """What a checkpoint can hold beside tensors: networks, optimizers, minibatches."""

    def state_dict(self) -> Mapping[str, Any]:
        """All of it."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Undo :meth:`state_dict`."""


class Notes(types.SimpleNamespace):
    """A loop's own variables, where a checkpoint finds them. Their tensors come back on the CPU."""

    def state_dict(self) -> dict[str, Any]:
        """The variables by name."""
        return dict(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`."""
        vars(self).update(state_dict)


class Checkpoint:
    """A training's place in its saver. Where that has something, ``parts`` are as they were then once this is made.

    Args:
        name: of the training.
        parts: all that a step changes: tensors and lists of tensors (changed in place), and whatever is stateful.
    """

    def __init__(self, name: str, **parts: Stateful | Tensor | Sequence[Tensor]) -> None:
        self._saver, self._parts = _SAVER.get(), parts
        self._carried = 0.0
        self._begin = time.perf_counter()
        if self._saver is None:
            return
        self._name = self._saver.numbered(_PLACE.get() + name)
        found = self._saver.load(self._name)
        if found is None or found["parts"].keys() != parts.keys():
            return
        for key, part in parts.items():
            _restore(part, found["parts"][key])
        self._carried = found["seconds"]
        self._saver.carried_seconds += self._carried
        self._saver.told[:] = json.loads(found["told"])

    def save(self) -> None:
        """Save if it is time to: at the end of a step, when nothing of it is left to be done."""
        if self._saver is None or not self._saver.due():
            return
        begin = time.perf_counter()
        parts = {key: part.state_dict() if isinstance(part, Stateful) else part for key, part in self._parts.items()}
        seconds = begin - self._begin + self._carried
        self._saver.save(self._name, {"parts": parts, "seconds": seconds, "told": json.dumps(self._saver.told)})
        self._saver.saved(time.perf_counter() - begin)


@torch.no_grad()
def _restore(part: Stateful | Tensor | Sequence[Tensor], saved: Any) -> None:
    if isinstance(part, Stateful):
        part.load_state_dict(saved)
    elif isinstance(part, Tensor):
        part.copy_(saved)
    else:
        for own, value in zip(part, saved, strict=True):
            own.copy_(value)
