"""The command ``frontier train``: one task's network on one table or compressed file, without a sweep."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer

from quantizers.errors import InputError, unknown_name
from sweeps.commands.app import DataOption, SetOption, UnpackedOption, app, check_data, checked, out, size

_NETWORK, _TASK, _SCORES = "network.safetensors", "task.json", "scores.json"
_LINE_SECONDS = 15.0  # without a line about the training, one says that it goes on
_SIGNALS = {signal.SIGINT: ("Ctrl-C", 130), signal.SIGTERM: ("SIGTERM", 143)}


@app.command(
    epilog="Examples:  frontier train sentiment --embedding glove.6B.100d.txt --data DIR -o runs/sst5   |   "
    "frontier train sentiment --evaluate runs/sst5 --embedding small.safetensors -o runs/small   |   "
    "frontier train chunking --embedding T.npy --set epochs=5 --finetune -o runs/chunks   |   "
    "frontier train language_model --config lm.yaml --set dropout=0.4 --data DIR -o runs/ptb"
)
@checked
def train(
    task: Annotated[
        str, typer.Argument(help="A task that trains a network, such as sentiment or language_model (see: frontier tasks).")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the network, its settings and its scores.")],
    embedding: Annotated[
        str | None,
        typer.Option("--embedding", help="A table, or a compressed file. Default: random vectors."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML file of settings; --set overrides it.")] = None,
    changes: SetOption = None,
    evaluate: Annotated[Path | None, typer.Option("--evaluate", help="Folder of a trained network to score.")] = None,
    finetune: Annotated[bool, typer.Option("--finetune", help="Train the table with the network.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the network's weights, the order of texts, and dropout.")] = 0,
    max_unpacked: UnpackedOption = None,
    data: DataOption = None,
) -> None:
    """Train a task's network and score the test set.

    Ctrl-C or SIGTERM ends the training and scores the best network so far. The files say so; the exit code is 130 or 143.
    """
    import torch

    from analysis.text import counted
    from quantizers import Table
    from quantizers.files import replacing, write_bytes
    from sweeps.record.display import duration
    from trainables.baselines import load_baseline, save_baseline
    from trainables.leading import LeadingTask
    from trainables.registry import make_task, tasks

    check_data(data)
    names = [name for name, cls in tasks().items() if issubclass(cls, LeadingTask)]
    if task not in names:
        raise unknown_name("task that trains a network", task, names)
    settings = _settings(task, config, changes or [], evaluate)
    made = make_task({"task": task, **settings}, data)
    assert isinstance(made, LeadingTask)
    table, compressed = (made.own_table(), False) if embedding is None else _table(embedding, data, max_unpacked)
    nothing = made.check(table)
    if nothing is not None:
        raise InputError(f"{embedding}: {task} cannot use it: {nothing.reason}.")
    if compressed and finetune:
        raise InputError("--finetune trains a table; codebooks are trained by a sweep with 'retrain'.")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file; a folder was expected.")

    own, exit_code, cut_short = made.task_table(table), 0, None
    if evaluate is None:
        most = int(made.settings.epochs)
        with _signals() as came, _Progress(most, made.measured()[0].direction == "min") as progress:
            try:
                trained = made.baseline(own, seed=seed, finetune=finetune or embedding is None, report=progress.report)
            except KeyboardInterrupt:  # before the first epoch, or while the test set was being scored
                out.print("Stopped: nothing was written.")
                raise typer.Exit(_SIGNALS[came[-1]][1] if came else 130) from None
        epochs, seconds = (trained.arrays.get(name) for name in ("epochs", "seconds"))
        if came:
            name, exit_code = _SIGNALS[came[-1]]
            cut_short = f"{name} in epoch {most if epochs is None else int(epochs)} of {most}"
        output.mkdir(parents=True, exist_ok=True)
        with replacing(output / _NETWORK) as part:
            save_baseline(trained, part)
        about_network = {"task": task, "settings": settings, "cut_short": cut_short}
        write_bytes(output / _TASK, json.dumps(about_network, indent=1).encode())
        scores = trained.scores
        if epochs is not None and seconds is not None:
            out.print(f"{counted(int(epochs), 'epoch')} in {duration(float(seconds))}")
    else:
        cut_short = json.loads((evaluate / _TASK).read_text(encoding="utf-8")).get("cut_short")
        kept = load_baseline(evaluate / _NETWORK)
        if embedding is None:  # the vectors that the network was trained with
            own = Table(torch.tensor(kept.arrays["table"]), own.words, own.counts)
        elif table.embedding_dim != (expected := kept.arrays["table"].shape[1]):
            has = counted(table.embedding_dim, "column")
            raise InputError(f"{embedding}: has {has}; the network of {evaluate} reads {expected}.")
        scores = made.evaluate(own, kept)
        output.mkdir(parents=True, exist_ok=True)
    about = {metric.name: metric.description for metric in made.measured()}
    found = {
        name: {"value": score.value, "num_examples": score.num_examples, "description": about[name]}
        for name, score in scores.items()
    }
    told = {"embedding": embedding, "seed": seed, "cut_short": cut_short, "scores": found}
    write_bytes(output / _SCORES, json.dumps(told, indent=1).encode())
    if cut_short is not None:
        out.print(f"[yellow]The training was cut short: {cut_short}.[/] Scored: its best network so far.", soft_wrap=True)
    for name, score in scores.items():
        out.print(f"{made.label}.{name}: {score.value:.4f} ({counted(score.num_examples, 'example')} of the test set)")
        out.print(f"  {about[name]}", soft_wrap=True)
    out.print(f"Folder: {output}", soft_wrap=True)
    raise typer.Exit(exit_code)


@contextlib.contextmanager
def _signals() -> Iterator[list[signal.Signals]]:
    """Within this Ctrl-C and SIGTERM raise KeyboardInterrupt, which ends a training in good order; yields what came."""
    came: list[signal.Signals] = []

    def note(number: int, frame: Any) -> None:
        came.append(signal.Signals(number))
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone takes signals
        yield came
        return
    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """Says how far a training is: a line a report, and one now and then while there is none, on a terminal or off it.

    Args:
        epochs: how many there are at the most.
        smaller_is_better: whether what the development set gives is an error, which trainings report with its sign changed.
    """

    def __init__(self, epochs: int, smaller_is_better: bool) -> None:
        self._epochs, self._sign = epochs, -1 if smaller_is_better else 1
        self._began = self._last = time.monotonic()
        self._fraction = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> _Progress:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    def report(self, step: Any) -> None:
        """What the training reports; its development score is missing within an epoch."""
        self._last, self._fraction = time.monotonic(), step.fraction
        dev = f"  development {self._sign * step.metrics['dev']:.4f}" if "dev" in step.metrics else ""
        out.print(f"epoch {step.fraction * self._epochs:.3g} of {self._epochs}  loss {step.metrics['train_loss']:.4f}{dev}")

    def _beat(self) -> None:
        from sweeps.record.display import duration

        while not self._ended.wait(max(0.05, self._last + _LINE_SECONDS - time.monotonic())):
            now = time.monotonic()
            if now - self._last >= _LINE_SECONDS:
                self._last = now
                epoch = min(self._epochs, int(self._fraction * self._epochs + 1e-9) + 1)
                out.print(f"epoch {epoch} of {self._epochs} goes on, {duration(now - self._began)} so far")


def _settings(task: str, config: Path | None, changes: list[str], evaluate: Path | None) -> dict[str, Any]:
    """The task's settings: of the trained network, of the file, of the command line; later ones count."""
    from sweeps.spec.config import parse_parameters
    from sweeps.spec.yaml_text import load_documents

    settings: dict[str, Any] = {}
    if evaluate is not None:
        if not (evaluate / _TASK).is_file() or not (evaluate / _NETWORK).is_file():
            raise InputError(f"--evaluate {evaluate}: expected a folder that frontier train wrote ({_TASK}, {_NETWORK}).")
        kept = json.loads((evaluate / _TASK).read_text(encoding="utf-8"))
        if kept["task"] != task:
            raise InputError(f"--evaluate {evaluate}: holds a network for {kept['task']}, not for {task}.")
        settings |= kept["settings"]
    if config is not None:
        try:
            text = config.read_bytes()
        except OSError as error:
            raise InputError(f"--config {config}: cannot be read: {error.strerror or error}.") from None
        found, *more = load_documents(text, f"--config {config}") or [None]
        if more or not isinstance(found, dict):
            raise InputError(f"--config {config}: expected a mapping of settings to values.")
        settings |= found
    return settings | parse_parameters(changes)


def _table(source: str, data: Path | None, max_unpacked: str | None) -> tuple[Any, bool]:
    """The table to train on, and whether it came from a compressed file."""
    import quantizers
    from quantizers import Table
    from trainables.tables.formats import read_table

    for path in [Path(source), *([data / source] if data is not None else [])]:
        if path.suffix == ".safetensors" and path.is_file():
            module = quantizers.load(path)
            return Table(module.to_dense(), module.words, name=path.name), True
    return read_table(source, data_dir=data, max_unpacked=size("--max-unpacked", max_unpacked)), False
