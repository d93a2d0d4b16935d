"""The command ``frontier train``: one task's network on one table or compressed file, without a sweep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from quantizers.errors import InputError, unknown_name
from sweeps.commands.app import DataOption, SetOption, UnpackedOption, app, check_data, checked, out, size

_NETWORK, _TASK, _SCORES = "network.safetensors", "task.json", "scores.json"


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
    """Train a task's network and score the test set. Ctrl-C ends the training and scores the best network so far."""
    import torch

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

    smaller_is_better = made.measured()[0].direction == "min"

    def show(step: Any) -> None:
        dev = ""
        if "dev" in step.metrics:  # not within an epoch
            dev = f"  development {-step.metrics['dev'] if smaller_is_better else step.metrics['dev']:.4f}"
        out.print(f"epoch {step.fraction:4.0%}  loss {step.metrics['train_loss']:.4f}{dev}")

    own = made.task_table(table)
    if evaluate is None:
        trained = made.baseline(own, seed=seed, finetune=finetune or embedding is None, report=show)
        output.mkdir(parents=True, exist_ok=True)
        with replacing(output / _NETWORK) as part:
            save_baseline(trained, part)
        write_bytes(output / _TASK, json.dumps({"task": task, "settings": settings}, indent=1).encode())
        scores = trained.scores
        epochs, seconds = (trained.arrays.get(name) for name in ("epochs", "seconds"))
        if epochs is not None and seconds is not None:
            out.print(f"{int(epochs)} epochs in {duration(float(seconds))}")
    else:
        kept = load_baseline(evaluate / _NETWORK)
        if embedding is None:  # the vectors that the network was trained with
            own = Table(torch.tensor(kept.arrays["table"]), own.words, own.counts)
        elif table.embedding_dim != (expected := kept.arrays["table"].shape[1]):
            raise InputError(f"{embedding}: has {table.embedding_dim} columns; the network of {evaluate} reads {expected}.")
        scores = made.evaluate(own, kept)
        output.mkdir(parents=True, exist_ok=True)
    about = {metric.name: metric.description for metric in made.measured()}
    found = {
        name: {"value": score.value, "num_examples": score.num_examples, "description": about[name]}
        for name, score in scores.items()
    }
    write_bytes(output / _SCORES, json.dumps({"embedding": embedding, "seed": seed, "scores": found}, indent=1).encode())
    for name, score in scores.items():
        out.print(f"{made.label}.{name}: {score.value:.4f} ({score.num_examples:,} examples of the test set)")
        out.print(f"  {about[name]}", soft_wrap=True)
    out.print(f"Folder: {output}", soft_wrap=True)


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
