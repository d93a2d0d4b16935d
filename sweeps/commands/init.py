"""The command ``frontier init``: a sweep file for one's own table, with comments, to begin with.

What it proposes follows from the table: methods and ratios that have a configuration at its size, tasks that have something
to measure on it, fewer seeds where fits take long.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.statistics import MIN_SEEDS
from analysis.text import counted
from quantizers.errors import InputError
from sweeps.commands.app import TABLE_HELP, DataOption, UnpackedOption, app, check_data, checked, out, size

if TYPE_CHECKING:
    from quantizers import Table, TableStats

_EXAMPLE = "builtin:glove-10k-50d"
# In the order of the file. The last two are an order of magnitude slower than the others, and go further at small sizes.
_METHODS = ("scalar", "pq", "trellis", "transform_entropy", "lowrank", "pruned", "rq", "dccl")
_SLOW = {"trellis", "rq", "dccl"}
_MOST_SLOW = 50_000_000  # values of a table, beyond which their fits take many minutes each
_RATIOS = (4, 8, 16, 32, 64, 128)
_MOST_RATIOS = 5
_MANY_BYTES = 200_000_000  # beyond which every trial's file is not worth its space
_LEAST_LIMIT = 20_000  # below that a limit on bytes is of no use as an example
_COMMENT_COLUMN = 50


@dataclasses.dataclass(frozen=True)
class _Proposal:
    """What the file will say.

    Attributes:
        methods: in order.
        ratios: rising.
        tasks: entries that have something to measure, each with its first metric.
        absent: lines for tasks that have not, with the reason.
        seeds: how many.
        lossless: a cast that loses nothing, or None.
    """

    methods: tuple[str, ...]
    ratios: tuple[int, ...]
    tasks: tuple[tuple[str | dict[str, Any], str], ...]
    absent: tuple[str, ...]
    seeds: int
    lossless: str | None


@app.command(
    epilog="Examples:  frontier init glove.6B.100d.txt   |   frontier init model/ -o model-sweep.yaml   |   "
    "frontier init vectors.npy --data DIR --force"
)
@checked
def init(
    table: Annotated[str, typer.Argument(help=f"{TABLE_HELP} Default: a built-in piece of GloVe, to try it.")] = _EXAMPLE,
    output: Annotated[Path, typer.Option("-o", "--output", help="The sweep file to write: NAME.yaml.")] = Path("sweep.yaml"),
    rows: Annotated[int | None, typer.Option(min=1, help="Sweep only the first rows.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at the output path.")] = False,
    max_unpacked: UnpackedOption = None,
    data: DataOption = None,
) -> None:
    """Write a sweep file for a table, with comments: methods, sizes and tasks that suit it. Nothing is run."""
    from quantizers import TableStats
    from quantizers.files import write_bytes
    from sweeps.spec.config import build
    from sweeps.spec.space import make_space
    from sweeps.spec.yaml_text import load_documents
    from sweeps.storage.inputs import brought
    from trainables.tables.formats import read_table

    check_data(data)
    _check_output(output, force=force)
    source = read_table(brought(table), data_dir=data, rows=rows, max_unpacked=size("--max-unpacked", max_unpacked))
    title, tensor = _parts(table, source.name)
    if tensor and not table.endswith(f"#{tensor}"):
        table = f"{table}#{tensor}"  # the choice among several tensors is the reader's to see, and to change
    stats = TableStats.of(source)
    proposal = _propose(source, stats, data)
    command = shlex.join(["frontier", "run", str(output), *(["--data", str(data)] if data is not None else [])])
    text = _text(table, title, rows, max_unpacked, source, proposal, command)
    config = build(load_documents(text, str(output))[0], str(output))
    count = len(make_space(config, stats).configurations()) * len(config.seeds) + 1
    write_bytes(output, text.encode(), "the sweep")
    shape = f"{source.num_embeddings:,} x {source.embedding_dim}"
    methods = counted(len(proposal.methods) + 1, "method")  # the casts too
    out.print(f"Written: {output}: {shape}, {methods}, {counted(count, 'trial')}.", soft_wrap=True, markup=False)
    out.print("Change what you like; --dry-run shows the trials and runs nothing.")
    out.print(f"Next: {command}", soft_wrap=True, markup=False)


def _check_output(output: Path, *, force: bool) -> None:
    if output.suffix not in (".yaml", ".yml") or output.is_dir() or not output.absolute().parent.is_dir():
        raise InputError(f"{output}: expected the path of a file NAME.yaml in an existing folder.")
    if output.exists() and not force:
        raise InputError(f"{output}: already exists; --force replaces it.")


def _propose(table: Table, stats: TableStats, data: Path | None) -> _Proposal:
    from quantizers import Budget, Skip, get

    values = table.num_embeddings * table.embedding_dim
    wanted = [name for name in _METHODS if values <= _MOST_SLOW or name not in _SLOW]
    reached: dict[int, list[str]] = {}
    for ratio in _RATIOS:
        budget = Budget.from_ratio(ratio, stats.shape)
        reached[ratio] = [name for name in wanted if not isinstance(get(name).configs_for(budget, stats), Skip)]
    # A point of comparison needs two methods. The largest ratios are what one comes for.
    ratios = [ratio for ratio in _RATIOS if len(reached[ratio]) > 1][-_MOST_RATIOS:]
    methods = [name for name in wanted if any(name in reached[ratio] for ratio in ratios)]
    tasks, absent = _tasks(table, data)
    seeds = 3 if values <= 5_000_000 else 2 if values <= _MOST_SLOW else 1
    return _Proposal(tuple(methods), tuple(ratios), tuple(tasks), tuple(absent), seeds, _lossless(table))


def _tasks(table: Table, data: Path | None) -> tuple[list[tuple[str | dict[str, Any], str]], list[str]]:
    """Tasks without a network that can measure ``table``, each with an objective; and what others lack."""
    from trainables.registry import make_task
    from trainables.tasks.similarity import DATASETS, SimilaritySettings

    there = [name for name, file in DATASETS.items() if data is not None and (data / "wordsim" / file).is_file()]
    usual = SimilaritySettings().dataset
    similarity: str | dict[str, Any] = "similarity"
    if there and not set(usual) <= set(there):
        similarity = {"task": "similarity", "dataset": [name for name in there if name in usual] or there}
    found: list[tuple[str | dict[str, Any], str]] = []
    absent: list[str] = []
    wanted = [("neighbours", "recall_at_10"), (similarity, "mean"), ("analogy", "accuracy"), ("polarity", "accuracy")]
    for entry, metric in wanted:
        name = entry if isinstance(entry, str) else str(entry["task"])
        try:
            nothing = make_task(entry, data).check(table)
            reason = None if nothing is None else nothing.reason
        except InputError:
            reason = "needs wordsim/ under --data DIR, which is missing"
        if reason is None:
            found.append((entry, f"{name}.{metric}"))
        elif table.words is not None:
            absent.append(f"{name}: {reason}")
    return found, absent


def _lossless(table: Table) -> str | None:
    """The 16-bit type that holds every value exactly: the table comes from it."""
    import torch

    for name, dtype in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        if all(bool((part.to(dtype).float() == part).all()) for part in torch.split(table.vectors, 1 << 14)):
            return name
    return None


def _parts(table: str, name: str) -> tuple[str, str]:
    """A table's title, and the tensor that was read of several; empty where there is one. File names may have a ``#``."""
    title, _, tensor = name.rpartition("#")
    file = Path(table).name
    return (title, tensor) if title and file.startswith(title) and not file.startswith(name) else (name, "")


def _text(
    table: str, title: str, rows: int | None, max_unpacked: str | None, source: Table, proposal: _Proposal, command: str
) -> str:
    from analysis import text

    count, dim = source.shape
    dense = 4 * count * dim
    kind = {None: "float32", "float16": "float32 values that fit float16", "bfloat16": "float32 values that fit bfloat16"}
    words = counted(len(source.words), "word") if source.words is not None else "no words"
    shape = f"{counted(count, 'row')} x {counted(dim, 'column')}"
    lines = [
        f"# {_one_line(table)}: {shape}, {words}, {kind[proposal.lossless]}, {text.size(dense, short=True)}.",
        f"# Run it with: {_one_line(command)}",
        "# All keys: docs/sweep-file.md. Methods and their parameters: frontier methods.",
        "",
        _line(f"name: {_name(title)}", "results go to runs/<name>/"),
        _line(f"table: {_scalar(table)}"),
    ]
    if rows is not None:
        lines.append(_line(f"rows: {rows}", "the first rows only"))
    elif count > 200_000:
        lines.append(_line("# rows: 100000", "the first rows only: a quicker first look"))
    if max_unpacked is not None:
        lines.append(f"limits: {{unpacked: {_scalar(max_unpacked)}}}")
    if source.counts is not None:
        lines.append(_line("# weights: sqrt_counts", "frequent rows count more"))
    lines += ["", "quantizers:", *_quantizers(proposal, slow=count * dim > _MOST_SLOW)]
    if proposal.ratios:
        lines += ["budgets:", _line(f"  compression_ratio: {_listed(proposal.ratios)}", _sizes(dense, proposal.ratios))]
    lines += ["", _line("tasks:", "reconstruction is always measured")]
    lines += [f"  - {_flow(entry)}" for entry, _ in proposal.tasks]
    if not proposal.tasks:
        lines[-1] = "tasks: [reconstruction]"
    lines += [f"  # - {absent}" for absent in proposal.absent]
    objectives = ["payload_bytes", *(metric for _, metric in proposal.tasks), "reconstruction.nmse"]
    more = "intervals need three" if proposal.seeds >= MIN_SEEDS else "no intervals: they need three seeds"
    limit = text.size(float(f"{dense / 20:.1g}"), short=True).replace(" ", "")
    lines += [
        _line(f"objectives: {_listed(objectives)}", "the first metric decides what is recommended"),
        _line(f"seeds: {_listed(range(proposal.seeds))}", more),
        _line(f'# constraints: {{payload_bytes: "<= {limit}"}}', "larger tables are not run"),
        "",
        _line("stop: {time: 1h}", "no trial starts after that; run it again to continue"),
        _line("trial_timeout: 30m", "a trial that takes longer is killed, and recorded as failed"),
        _line("resources: auto", "one core a trial, a GPU where there is one; {cpu: 2}, {memory: 4GB}"),
    ]
    if dense < _LEAST_LIMIT:
        lines = [one for one in lines if not one.startswith("# constraints")]
    if dense > _MANY_BYTES:
        lines.append(_line("keep_artifacts: frontier", "delete the compressed files of other trials; or all, none"))
    return "\n".join(lines) + "\n"


def _quantizers(proposal: _Proposal, *, slow: bool) -> Iterable[str]:
    casts = [proposal.lossless or "float16", "float8_e4m3"]
    said = f"{casts[0]} loses nothing here" if proposal.lossless else "the reference points: 2 bytes and 1 byte a value"
    yield _line(f"  - {{method: cast, dtype: {_listed(casts)}}}", said)
    for name in proposal.methods:
        yield f"  - {name}"
    for name in _METHODS:
        if name not in proposal.methods:
            why = "many minutes a fit at this size" if slow and name in _SLOW else "has no configuration at this size"
            yield _line(f"  # - {name}", why)


def _sizes(dense: int, ratios: Sequence[int]) -> str:
    from analysis import text

    ends = [text.size(dense / ratio, short=True) for ratio in (ratios[0], ratios[-1])]
    return f"at most {ends[0]}" if len(ratios) == 1 else f"at most {ends[0]} ... {ends[1]}"


def _line(text: str, comment: str = "") -> str:
    """``text`` with a comment beside it, or above it where it is long."""
    if not comment or len(text) <= _COMMENT_COLUMN:
        return f"{text.ljust(_COMMENT_COLUMN)}  # {comment}" if comment else text
    return f"{' ' * (len(text) - len(text.lstrip()))}# {comment[:1].upper()}{comment[1:]}:\n{text}"


def _listed(values: Iterable[object]) -> str:
    return f"[{', '.join(map(str, values))}]"


def _flow(entry: str | dict[str, Any]) -> str:
    if isinstance(entry, str):
        return entry
    return (
        f"{{{', '.join(f'{key}: {_listed(value) if isinstance(value, list) else value}' for key, value in entry.items())}}}"
    )


def _scalar(value: str) -> str:
    """Text as a YAML value on one line."""
    import yaml

    return str(yaml.safe_dump(value, width=float("inf"), allow_unicode=True)).removesuffix("...\n").strip()


def _one_line(value: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in value)


def _name(title: str) -> str:
    """A name for the sweep, from the table's, that no run in ``runs/`` has yet."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-._")[:80] or "my-table"
    number, free = 1, name
    while (Path("runs") / free).exists():
        number += 1
        free = f"{name}-{number}"
    return free
