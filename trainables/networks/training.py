"""Training a task's network, with the embeddings that it reads or beside them.

Reference: Adam (Kingma & Ba 2015); averaged weights (Polyak & Juditsky 1992), here as an exponential moving average.

After every epoch the averaged weights are scored on the development set, the embeddings on hard codes. Those of the best
epoch are kept; training ends when ``patience`` epochs brought nothing better, and the test set is never looked at here.
Epochs in which an embedding still anneals do not count.
A training that was lost goes on from its last checkpoint, in the middle of an epoch too.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantizers.base import FitStep, generator
from quantizers.embedding import CompressedEmbedding
from quantizers.fitting.checkpoint import Checkpoint, Notes
from quantizers.learned import LearnedEmbedding


@dataclasses.dataclass(frozen=True)
class Trained:
    """The end of a training; embedding and network hold the weights of the best epoch.

    Attributes:
        dev: what the development set gave for them.
        epochs: how many were run.
        stopped: whether somebody ended it early.
    """

    dev: float
    epochs: int
    stopped: bool


class TrainedNetwork(nn.Module):
    """A network that reads tables: it says what its loss is on a batch."""

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.parameters()).device

    def loss(self, embeddings: Mapping[str, nn.Module], batch: Any, lower: contextlib.AbstractContextManager[Any]) -> Tensor:
        """The mean loss of a batch that is on the network's device.

        Args:
            embeddings: by role, what gives the rows of a table.
            batch: one of those that it is trained on.
            lower: products inside it may be of lower precision; the loss itself stands outside.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Epoch:
    """The training data: the batches of an epoch.

    Attributes:
        batches: all batches once, in an order drawn from the generator; each has ``to(device)``.
        num_batches: how many they are.
    """

    batches: Callable[[torch.Generator], Iterable[Any]]
    num_batches: int


Groups = list[dict[str, Any]]  # of parameters, as torch's optimizers take them


def _adam(groups: Groups, learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=learning_rate)


def train(
    embeddings: Mapping[str, nn.Module],
    network: TrainedNetwork,
    data: Epoch,
    measure_dev: Callable[[], float],
    settings: Any,
    *,
    seed: int,
    report: Callable[[FitStep], None],
    phase: str,
    epochs: int | None = None,
    learning_rate: float | None = None,
    patience: int | None = None,
    train_network: bool = True,
    keep_start: bool = False,
    warm_up: int = 0,
    make_optimizer: Callable[[Groups, float], torch.optim.Optimizer] = _adam,
    plateau: float = 1.0,
    log_interval: int = 0,
) -> Trained:
    """Train until the development set says enough.

    Args:
        embeddings: by role, what gives rows for ids, on the network's device; their parameters are trained too (a frozen one
            has none that want a gradient).
        network: what reads them.
        data: the training texts in batches.
        measure_dev: scores embeddings and network on the development set, higher is better.
        settings: epochs, patience, batch_size, learning_rate, decay, average, clip_norm, precision.
        seed: of order and dropout.
        report: called after every epoch; a KeyboardInterrupt, from it or from a person, ends the training and
            keeps what is best so far.
        phase: name of the reports' phase.
        epochs: in place of the settings'.
        learning_rate: in place of the settings'.
        patience: in place of the settings'.
        train_network: False trains the embeddings alone.
        keep_start: whether the weights at the start are an answer too (where a training goes on from trained ones): they are
            kept unless an epoch is better.
        warm_up: steps in which the learning rate rises from 0.
        make_optimizer: of groups of parameters and a learning rate.
        plateau: factor on the learning rate after every epoch that was not the best so far.
        log_interval: batches after which the epoch's loss so far is reported too; 0 reports whole epochs only.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(train_network)
    modules = nn.ModuleList([*embeddings.values(), network])
    parameters = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    compressed = {role: module for role, module in embeddings.items() if isinstance(module, CompressedEmbedding)}
    rate = learning_rate or settings.learning_rate
    total = epochs or settings.epochs
    optimizer = make_optimizer(_groups(parameters, compressed.values()), rate)
    order = generator(seed, 1)
    averaged = [parameter.detach().clone() for parameter in parameters]
    modules.eval()
    moving, devices = _Moving(modules), _cuda_of(parameters)
    # Where it stands: the epoch, how many batches of it are done, what its order was drawn from, and its loss so far.
    at = Notes(epoch=1, batches=0, order=order.get_state(), loss_sum=0.0, steps=0, since=0, slower=1.0)
    at.best, at.best_dev = copy.deepcopy(moving.state_dict()), float(measure_dev()) if keep_start else None
    epoch, stopped = 0, False
    per_epoch = data.num_batches
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        random = _Random(devices)
        saved = Checkpoint(phase, modules=moving, averaged=averaged, optimizer=optimizer, random=random, at=at)
        order.set_state(at.order)
        for epoch in range(at.epoch, total + 1):
            modules.train()
            of_epoch = rate * at.slower * settings.decay ** (epoch - 1)
            _set_rate(optimizer, of_epoch)
            try:
                for batch in itertools.islice(data.batches(order), at.batches, None):
                    for module in compressed.values():
                        module.set_progress(at.steps / (per_epoch * total))
                    if at.steps <= warm_up:
                        _set_rate(optimizer, of_epoch * min(1.0, (at.steps + 1) / max(warm_up, 1)))
                    at.loss_sum += _step(embeddings, network, batch.to(network.device), optimizer, settings)
                    at.steps += 1
                    at.batches += 1
                    # Short at first: the start is soon forgotten.
                    keep = min(settings.average, (1 + at.steps) / (10 + at.steps))
                    torch._foreach_lerp_(averaged, [parameter.detach() for parameter in parameters], 1 - keep)
                    saved.save()
                    if log_interval and at.batches % log_interval == 0 and at.batches < per_epoch:
                        so_far = (epoch - 1 + at.batches / per_epoch) / total
                        report(FitStep(phase, so_far, None, {"train_loss": at.loss_sum / at.batches}))
                with _swapped(parameters, averaged):
                    modules.eval()
                    dev = float(measure_dev())  # NumPy's floats are no plain numbers, which is all that a checkpoint holds
                    waits = any(module.annealing for module in compressed.values())
                    if not waits and at.best_dev is not None and dev <= at.best_dev:
                        at.since += 1
                        at.slower *= plateau
                    elif not (waits and keep_start):  # while it waits the last epoch stands, until the first that counts
                        at.best, at.best_dev, at.since = copy.deepcopy(moving.state_dict()), None if waits else dev, 0
                    own = {
                        name if len(embeddings) == 1 else f"{role}.{name}": value
                        for role, module in compressed.items()
                        for name, value in module.curves().items()
                    }
                metrics = {"dev": dev, "train_loss": at.loss_sum / per_epoch, **own}
                report(FitStep(phase, epoch / total, 1.0 - dev, metrics))
            except KeyboardInterrupt:
                stopped = True
            if stopped or at.since >= (patience or settings.patience):
                break
            at.epoch, at.batches, at.order, at.loss_sum = epoch + 1, 0, order.get_state(), 0.0
    moving.load_state_dict(at.best)
    modules.eval()
    if at.best_dev is None:  # stopped before the first epoch was over
        at.best_dev = measure_dev()
    return Trained(at.best_dev, epoch, stopped)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def _groups(parameters: Sequence[nn.Parameter], modules: Iterable[CompressedEmbedding]) -> Groups:
    """The parameters by what the learning rate is multiplied by for them, ``scale``."""
    own = {parameter: scale for module in modules for parameter, scale in module.rate_scales().items()}
    scales = [own.get(parameter, 1.0) for parameter in parameters]
    return [
        {"params": [parameter for parameter, its in zip(parameters, scales, strict=True) if its == scale], "scale": scale}
        for scale in sorted(set(scales))
    ]


class _Moving:
    """What a training changes of its modules: all but the parameters that are held, and how often noise was drawn."""

    def __init__(self, modules: nn.Module) -> None:
        self._modules = modules
        self._held = {name for name, parameter in modules.named_parameters() if not parameter.requires_grad}
        self._learned = [module for module in modules.modules() if isinstance(module, LearnedEmbedding)]

    def state_dict(self) -> dict[str, Any]:
        state = {name: value for name, value in self._modules.state_dict().items() if name not in self._held}
        return {"state": state, "draws": [module.draws for module in self._learned]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self._modules.load_state_dict(state_dict["state"], strict=False)
        for module, draws in zip(self._learned, state_dict["draws"], strict=True):
            module.draws = draws


class _Random:
    """The global generators, which dropout draws from."""

    def __init__(self, devices: list[int]) -> None:
        self._devices = devices

    def state_dict(self) -> dict[str, Any]:
        return {"cpu": torch.get_rng_state(), "cuda": [torch.cuda.get_rng_state(device) for device in self._devices]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        torch.set_rng_state(state_dict["cpu"])
        for device, state in zip(self._devices, state_dict["cuda"], strict=True):
            torch.cuda.set_rng_state(state, device)


def _step(
    embeddings: Mapping[str, nn.Module],
    network: TrainedNetwork,
    batch: Any,
    optimizer: torch.optim.Optimizer,
    settings: Any,
) -> float:
    lower = torch.autocast(network.device.type, dtype=torch.bfloat16, enabled=settings.precision == "bfloat16")
    loss = network.loss(embeddings, batch, lower)
    total = loss
    for module in embeddings.values():
        if isinstance(module, CompressedEmbedding):
            total = total + module.regularizer()
    optimizer.zero_grad()
    torch.autograd.backward(total)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    optimizer.step()
    return float(loss.detach())


class _swapped:
    """The parameters hold the averaged values inside, their own again after."""

    def __init__(self, parameters: list[nn.Parameter], averaged: list[Tensor]) -> None:
        self._parameters, self._averaged = parameters, averaged

    def _swap(self) -> None:
        with torch.no_grad():
            for parameter, average in zip(self._parameters, self._averaged, strict=True):
                own = parameter.detach().clone()
                parameter.copy_(average)
                average.copy_(own)

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()


def _cuda_of(parameters: list[nn.Parameter]) -> list[int]:
    return sorted({parameter.device.index or 0 for parameter in parameters if parameter.device.type == "cuda"})
