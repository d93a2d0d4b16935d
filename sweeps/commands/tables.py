"""The command ``frontier``: what works on one table or one compressed file, without a sweep."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table as Grid

from analysis.text import counted
from quantizers.errors import InputError
from sweeps.commands.app import (
    TABLE_HELP,
    CompressedFile,
    DataOption,
    JsonOption,
    SetOption,
    UnpackedOption,
    app,
    check_data,
    checked,
    err,
    out,
    print_json,
    size,
    unknown_word,
)

_EXAMPLE = "builtin:glove-10k-50d"
_RATIOS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@app.command(epilog="Examples:  frontier methods --names   |   frontier methods --json")
@checked
def methods(
    names: Annotated[bool, typer.Option("--names", help="Print only the names, one per line.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the quantizers with their papers and compression ratios."""
    import quantizers
    from quantizers import Budget, Skip, TableStats
    from trainables.tables.formats import read_table

    if names and as_json:
        raise InputError("Give --names or --json, not both.")
    if names:
        for name in quantizers.list_methods():
            out.print(name)
        return
    stats = TableStats.of(read_table(_EXAMPLE))
    reached = {}
    for name, cls in quantizers.list_methods().items():
        ratios = []
        for ratio in _RATIOS:
            proposed = cls.configs_for(Budget.from_ratio(ratio, stats.shape), stats)
            if not isinstance(proposed, Skip):
                sizes = [cls.storage(config, stats.shape).payload_bytes for config in proposed]
                ratios += [stats.dense_bytes / size for size in sizes]
        reached[name] = (min(ratios), max(ratios)) if ratios else None
    if as_json:
        print_json({"ratios_of": _EXAMPLE, "methods": [_method(name, found) for name, found in reached.items()]})
        return
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    grid.add_column("method", no_wrap=True)
    grid.add_column("ratios", no_wrap=True)
    grid.add_column("paper")
    grid.add_column("parameters")
    for name, cls in quantizers.list_methods().items():
        ends = reached[name]
        span = "-" if ends is None else f"x{ends[0]:.0f} to x{ends[1]:.0f}"
        grid.add_row(name, span, escape(cls.reference), escape(", ".join(cls.Config.model_fields)))
    out.print(grid)
    out.print(
        f"[dim]Ratios: what each proposes for the built-in table of {stats.num_embeddings:,} x {stats.embedding_dim}.[/]"
    )


def _method(name: str, ratios: tuple[float, float] | None) -> dict[str, Any]:
    """A method as ``frontier methods --json`` has it."""
    import pydantic

    import quantizers

    cls = quantizers.get(name)
    return {
        "name": name,
        "reference": cls.reference,
        "smallest_ratio": ratios and ratios[0],
        "largest_ratio": ratios and ratios[1],
        "parameters": {
            key: pydantic.TypeAdapter(Any).dump_python(field.get_default(call_default_factory=True), mode="json")
            for key, field in cls.Config.model_fields.items()
        },
    }


@app.command(epilog="Example:  frontier tasks --names")
@checked
def tasks(names: Annotated[bool, typer.Option("--names", help="Print only the names, one per line.")] = False) -> None:
    """List the tasks and their metrics."""
    from trainables.registry import tasks as registered

    for name, cls in registered().items():
        if names:
            out.print(name)
            continue
        summary = re.sub(r"(?::\w+:)?`+([^`]+)`+", r"\1", (cls.__doc__ or "").strip().splitlines()[0])
        shown = ", ".join(f"{metric.name} ({'higher' if metric.direction == 'max' else 'lower'})" for metric in cls.metrics)
        out.print(f"[bold]{name}[/]  {escape(summary)}\n    better: {escape(shown)}")
        if settings := ", ".join(cls.Settings.model_fields):
            out.print(f"    settings: {escape(settings)}")


@app.command(
    epilog="Examples:  frontier compress glove.txt --method rq --ratio 32 -o small.safetensors   |   "
    "frontier compress T.npy --method dccl --set num_codebooks=32 --set codebook_size=16 -o F"
)
@checked
def compress(
    table: Annotated[str, typer.Argument(help=TABLE_HELP)],
    method: Annotated[str, typer.Option("--method", help="Quantizer (see: frontier methods).")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Path of the compressed file.")],
    ratio: Annotated[float | None, typer.Option(help="Smallest compression ratio, such as 32.")] = None,
    max_bytes: Annotated[str | None, typer.Option(help="Largest payload, such as 1MB.")] = None,
    changes: SetOption = None,
    weights: Annotated[str, typer.Option(help="Row weights: none, counts, sqrt_counts, or a file.")] = "none",
    rows: Annotated[int | None, typer.Option(min=1, help="Read only the first rows.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the fit.")] = 0,
    max_unpacked: UnpackedOption = None,
    data: DataOption = None,
) -> None:
    """Compress one table into one file, without a sweep."""
    import torch
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    import quantizers
    from quantizers import TableStats
    from sweeps.spec.prepare import read_weights
    from trainables import reconstruction
    from trainables.tables.formats import read_table

    check_data(data)
    if weights == "fisher":
        raise InputError("--weights fisher works only in a sweep; expected none, counts, sqrt_counts or a file.")
    cls = quantizers.get(method)
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise InputError(f"{output}: expected the path of a file in an existing folder.")
    source = read_table(table, data_dir=data, rows=rows, max_unpacked=size("--max-unpacked", max_unpacked))
    row_weights = read_weights(weights, source, data)
    budget, config = _choose(cls, TableStats.of(source), ratio, max_bytes, changes or [])
    shown = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=err, transient=True)
    tensor = None if row_weights is None else torch.from_numpy(row_weights)
    quantizer = cls(config)
    with shown:
        bar = shown.add_task(f"{method}: fit", total=1.0)
        for step in quantizer.fit_steps(source, seed=seed, weights=tensor, budget=budget):
            shown.update(bar, completed=step.fraction, description=f"{method}: {step.phase}")
    quantizer.save(output)
    artifact = quantizers.read(output)  # what is printed is what a reader of the file gets
    measured = reconstruction.measure(source, artifact.quantizer.to_dense(), tensor)
    _print_sizes(artifact)
    for name, value in measured.items():
        if value is not None:
            out.print(f"{name}: {value:.6g}")
    out.print(f"File: {output}", soft_wrap=True)


def _choose(cls: Any, stats: Any, ratio: float | None, max_bytes: str | None, changes: list[str]) -> tuple[Any, Any]:
    """Budget and configuration from the options of ``compress``."""
    from quantizers import Budget, Skip, make_config
    from sweeps.spec.config import parse_parameters

    parameters = parse_parameters(changes)
    if ratio is not None and max_bytes is not None:
        raise InputError("Give --ratio or --max-bytes, not both.")
    budget = None
    if ratio is not None:
        budget = Budget.from_ratio(ratio, stats.shape)
    elif (limit := size("--max-bytes", max_bytes)) is not None:
        budget = Budget(limit)
    if budget is None:
        config = make_config(cls.name, parameters)
    else:
        make_config(cls.name, parameters)  # refuses unknown names before anything else is said
        proposed = cls.configs_for(budget, stats)
        if isinstance(proposed, Skip):
            raise InputError(f"{cls.name} has no configuration for {budget.payload_bytes:,} bytes: {proposed.reason}.")
        config = make_config(cls.name, {**proposed[0].model_dump(), **parameters})
    skip = cls.check(config, stats.shape)
    if skip is not None:
        raise InputError(f"{cls.name}: {skip.reason}.")
    predicted = cls.storage(config, stats.shape).payload_bytes
    if budget is not None and predicted > budget.payload_bytes:
        raise InputError(
            f"{cls.name}: these parameters take {predicted:,} bytes, but only {budget.payload_bytes:,} are allowed "
            f"(x{budget.ratio(stats.shape):.4g})."
        )
    return budget, config


def _print_sizes(artifact: Any) -> None:
    quantizer, storage = artifact.quantizer, artifact.storage
    dense = 4 * quantizer.num_embeddings * quantizer.embedding_dim
    parameters = ", ".join(f"{k}={v}" for k, v in quantizer.config.model_dump(mode="json").items() if v is not None)
    out.print(f"[bold]{quantizer.name}[/] ({escape(parameters)}), {quantizer.num_embeddings:,} x {quantizer.embedding_dim}")
    parts = f"codes {storage.code_bytes:,}, codebooks {storage.codebook_bytes:,}, side {storage.side_bytes:,}"
    out.print(f"payload: {storage.payload_bytes:,} bytes ({parts}), x{dense / storage.payload_bytes:.2f} smaller")
    out.print(f"file: {artifact.file_bytes:,} bytes, {artifact.vocab_bytes:,} of them for words")


@app.command(
    epilog="Examples:  frontier inspect small.safetensors dog cat --neighbours --table glove.txt   |   "
    "frontier inspect small.safetensors --json"
)
@checked
def inspect(
    file: CompressedFile,
    words: Annotated[list[str] | None, typer.Argument(help="Words to show.")] = None,
    neighbours: Annotated[bool, typer.Option("--neighbours", help="Show each word's nearest words.")] = False,
    table: Annotated[str | None, typer.Option(help="The uncompressed table, to show neighbours before and after.")] = None,
    max_unpacked: UnpackedOption = None,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the sizes in a compressed file, and the codes and neighbours of words."""
    import quantizers

    check_data(data)
    artifact = quantizers.read(file)
    quantizer = artifact.quantizer
    words = words or []
    if neighbours and not words:
        raise InputError(
            "--neighbours: nearest to what? Give words behind the file: frontier inspect FILE WORD --neighbours"
        )
    if words and quantizer.words is None:
        raise InputError(f"{file}: has no words. From Python, rows can be read by number.")
    index = {word: row for row, word in reversed(list(enumerate(quantizer.words or ())))}
    if missing := [word for word in words if word not in index]:
        raise unknown_word(missing[0], index, file)
    rows = [index[word] for word in words]
    codes = _codes(quantizer, rows)
    sides = _nearest(quantizer, rows, _original(quantizer, table, data, max_unpacked)) if neighbours and words else {}
    if as_json:
        told: list[dict[str, Any]] = [{"word": word, "row": row} for word, row in zip(words, rows, strict=True)]
        for place, one in enumerate(told):
            one["codes"] = codes[place] if codes else None
            one["neighbours"] = {side: found[place] for side, found in sides.items()} or None
        print_json({"file": file, **_sizes(artifact), "words": told})
        return
    _print_sizes(artifact)
    out.print(f"digest: {artifact.digest}")
    for word, code in zip(words, codes, strict=False):
        out.print(f"{escape(word)}\t{' '.join(map(str, code))}", soft_wrap=True)
    for word, code in list(zip(words, codes, strict=False))[1:]:
        same = sum(one == other for one, other in zip(codes[0], code, strict=True))
        out.print(f"{escape(words[0])} and {escape(word)} share {same} of {counted(len(code), 'code')}", soft_wrap=True)
    for side, found in sides.items():
        for word, near in zip(words, found, strict=True):
            out.print(escape(f"{word} {side}: {' '.join(near)}"), soft_wrap=True)


def _sizes(artifact: Any) -> dict[str, Any]:
    """What ``frontier inspect --json`` says of a file as a whole."""
    quantizer, storage = artifact.quantizer, artifact.storage
    return {
        "method": quantizer.name,
        "config": quantizer.config.model_dump(mode="json"),
        "num_embeddings": quantizer.num_embeddings,
        "embedding_dim": quantizer.embedding_dim,
        "payload_bytes": storage.payload_bytes,
        "code_bytes": storage.code_bytes,
        "codebook_bytes": storage.codebook_bytes,
        "side_bytes": storage.side_bytes,
        "compression_ratio": 4 * quantizer.num_embeddings * quantizer.embedding_dim / storage.payload_bytes,
        "file_bytes": artifact.file_bytes,
        "vocab_bytes": artifact.vocab_bytes,
        "has_words": quantizer.words is not None,
        "digest": artifact.digest,
    }


def _codes(quantizer: Any, rows: list[int]) -> list[list[int]]:
    """The codes of some rows; none where the method has no codes."""
    import torch

    from quantizers import CodeQuantizer

    return list(quantizer.codes(torch.tensor(rows)).tolist()) if isinstance(quantizer, CodeQuantizer) and rows else []


def _original(quantizer: Any, table: str | None, data: Path | None, max_unpacked: str | None) -> Any:
    """The uncompressed table, where one is given."""
    from trainables.tables.formats import read_table

    if table is None:
        return None
    most = size("--max-unpacked", max_unpacked)
    original = read_table(table, data_dir=data, rows=quantizer.num_embeddings, max_unpacked=most)
    if original.shape != quantizer.shape:
        raise InputError(f"{table}: is {original.shape}, the compressed file {quantizer.shape}.")
    return original


def _nearest(quantizer: Any, rows: list[int], original: Any) -> dict[str, list[list[str]]]:
    """The nearest words of some rows, after compression and, with the original table, before."""
    import torch

    sides = {} if original is None else {"before": original.vectors}
    sides["after"] = quantizer.to_dense()
    out = {}
    for side, vectors in sides.items():
        unit = torch.nn.functional.normalize(vectors, dim=1)
        similar = unit[rows] @ unit.T
        similar[range(len(rows)), rows] = -2.0  # a word is not its own neighbour
        nearest = similar.topk(min(10, len(unit) - 1)).indices
        out[side] = [[quantizer.words[row] for row in found] for found in nearest.tolist()]
    return out


@app.command(
    epilog="Examples:  frontier convert glove.6B.100d.txt -o glove.npy   |   frontier convert model/ -o tokens.safetensors"
)
@checked
def convert(
    table: Annotated[str, typer.Argument(help=TABLE_HELP)],
    output: Annotated[Path, typer.Option("-o", "--output", help="File to write; the extension selects the format.")],
    kind: Annotated[
        Literal["model2vec", "sentence-transformers", "staticvectors"] | None,
        typer.Option("--format", help="Write a folder for this program instead."),
    ] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Read only the first rows.")] = None,
    max_unpacked: UnpackedOption = None,
    data: DataOption = None,
) -> None:
    """Convert a table to .npy (with .words beside it), .safetensors, .txt (GloVe), .vec, .bin (word2vec) or .kv (gensim)."""
    from trainables.tables.formats import read_table
    from trainables.tables.writing import write_table

    check_data(data)
    source = read_table(table, data_dir=data, rows=rows, max_unpacked=size("--max-unpacked", max_unpacked))
    write_table(source, output, kind)
    out.print(f"{output}: {source.num_embeddings:,} x {source.embedding_dim}", soft_wrap=True)
