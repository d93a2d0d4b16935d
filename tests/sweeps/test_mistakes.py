"""All mistakes of a sweep file are told at once, each with its line, what was expected, and the nearest valid name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from quantizers.errors import InputError
from sweeps.spec.config import build, load_all
from sweeps.spec.mistakes import MistakesError
from sweeps.spec.prepare import wrong_names
from sweeps.spec.sweep_file import preset_names, preset_scales

WRONG = """\
name: my table
tabel: builtin:glove-10k-50d
rows: many
quantizers:
  - pqq
  - {method: pq, num_codebook: 8, codebooksize: 3}
  - method: dccl
    num_codebooks: -1
    codebook_size: [16, 1]
  - 7
  - {methd: rq}
budgets: {compression_ratio: [8, 0], payload: 3}
tasks: [neighbors, {task: similarity, min_pair: 3}]
regime: fine-tuned
resources: {cpus: 2}
search:
  kind: gird
"""
# Line, and what is said of it.
EXPECTED = [
    (1, "name: must be letters, digits"),
    (2, "unknown key 'tabel'. Did you mean 'table'?"),
    (3, "rows: must be a whole number (given: 'many')"),
    (5, "Unknown quantizer 'pqq'. Did you mean 'pq'?"),
    (6, "unknown parameter 'num_codebook' in quantizer pq. Did you mean 'num_codebooks'?"),
    (6, "unknown parameter 'codebooksize' in quantizer pq. Did you mean 'codebook_size'?"),
    (8, "quantizers: dccl.num_codebooks: must be greater than or equal to 1 (given: -1)"),
    (9, "quantizers: dccl.codebook_size: must be greater than or equal to 2 (given: 1)"),
    (10, "quantizers.3: must be text or a mapping of keys to values (given: 7)"),
    (11, "the key 'method' is missing"),
    (12, "budgets.compression_ratio.1: must be greater than"),
    (12, "unknown key 'payload' in budgets. Did you mean 'payload_bytes'?"),
    (13, "Unknown task 'neighbors'. Did you mean 'neighbours'?"),
    (13, "unknown parameter 'min_pair' in task similarity. Did you mean 'min_pairs'?"),
    (14, "regime: must be 'pretrained', 'finetuned' or 'end_to_end' (given: 'fine-tuned'). Did you mean 'finetuned'?"),
    (15, "unknown key 'cpus' in resources. Did you mean 'cpu'?"),
    (17, "search.kind: must be 'grid', 'random', 'optuna' or 'frontier' (given: 'gird'). Did you mean 'grid'?"),
]


def test_every_mistake_has_its_line(tmp_path: Path, frontier: Callable[..., Result]) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG)
    done = frontier("run", file, "--out", tmp_path / "runs", "--set", "seeds=[-1]")
    assert done.exit_code == 2
    first, *lines = done.stderr.splitlines()
    assert first == "error: --set seeds=[-1]: seeds.0: must be greater than or equal to 0 (given: -1)."
    assert len(lines) == len(EXPECTED)
    for line, (number, message) in zip(lines, EXPECTED, strict=True):
        assert line.startswith(f"error: {file}:{number}: ") and message in line, line
    assert sorted(tmp_path.iterdir()) == [file]


def test_objectives_constraints_and_budgets(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: a\ntable: t.npy\nquantizers: [pq]\nobjectives: [payload_bytes, reconstruction.mse2]\n"
        "constraints: {payload_byte: <= 1, compression_ratio: about 3}\n---\n"
        "name: b\ntable: t.npy\nquantizers: [cast]\nrow: 3\n"
    )
    with pytest.raises(MistakesError) as raised:
        load_all(str(file), further=wrong_names)
    told = [
        f"{file}:3, sweep 1: quantizers: pq has no parameters here and the sweep has no 'budgets'",
        f"{file}:4, sweep 1: Unknown objective 'reconstruction.mse2'. Did you mean 'reconstruction.mse'?",
        f"{file}:5, sweep 1: Unknown constraint 'payload_byte'. Did you mean 'payload_bytes'?",
        f"{file}:5, sweep 1: constraints.compression_ratio: 'about 3' is not a limit",
        f"{file}:9, sweep 2: quantizers: cast has no parameters here",
        f"{file}:10, sweep 2: unknown key 'row'. Did you mean 'rows'?",
    ]
    assert [line[: len(start)] for line, start in zip(raised.value.lines, told, strict=True)] == told
    assert all(line in str(raised.value) for line in raised.value.lines)


def test_a_mistake_on_the_command_line_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("name: a\ntable: t\nquantizers: all\n---\nname: b\ntable: t\nquantizers: all\n")
    with pytest.raises(MistakesError) as raised:
        load_all(str(file), ["stop.time=soon"])
    assert raised.value.lines == (
        "--set stop.time=soon: stop.time: 'soon' is not a time such as 90s, 30m or 2h (given: 'soon').",
    )


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("seeds", 3, "seeds: must be a list, such as [3] (given: 3)."),
        ("budgets", {"compression_ratio": 16}, "budgets.compression_ratio: must be a list, such as [16] (given: 16)."),
        ("budgets", {"payload_bytes": "16KB"}, "budgets.payload_bytes: must be a list, such as [16KB] (given: '16KB')."),
        ("quantizers", "pq", "quantizers: must be 'all' or a list, such as [pq] (given: 'pq')."),
        ("tasks", "neighbours", "tasks: must be a list, such as [neighbours] (given: 'neighbours')."),
        ("rows", [100], "rows: must be a whole number, such as 100 (given: [100])."),
        ("rows", ["many"], "rows: must be a whole number (given: ['many'])."),
        ("rows", [1, 2], "rows: must be a whole number (given: [1, 2])."),
        ("name", ["a"], "name: must be text, such as a (given: ['a'])."),
    ],
)
def test_one_value_for_a_list_of_one_and_the_other_way_round(key: str, value: object, said: str) -> None:
    with pytest.raises(MistakesError) as raised:
        build({"name": "s", "table": "t", "quantizers": "all", key: value})
    assert raised.value.lines == (f"sweep: {said}",)


def test_a_long_list_of_mistakes_is_cut() -> None:
    with pytest.raises(MistakesError) as raised:
        build({"name": "s", "table": "t", "quantizers": "all", "seeds": ["x"] * 10_000})
    assert len(raised.value.lines) == 21 and raised.value.lines[-1].endswith("more mistakes.")


@pytest.mark.parametrize(
    "keys", [{}, {"quantizers": 3, "tasks": "x", "objectives": {}, "constraints": []}, {"tasks": [3, {}]}]
)
def test_names_are_looked_for_in_anything(keys: dict[str, object]) -> None:
    assert all("task needs its name" in mistake.text for mistake in wrong_names(keys))


@pytest.mark.parametrize("name", preset_names())
def test_presets_have_no_wrong_names(name: str) -> None:
    for scale in preset_scales(name) or [None]:
        assert load_all(name, scale=scale, further=wrong_names)


def test_one_mistake_reads_as_before() -> None:
    with pytest.raises(InputError, match="^sweep: the key 'table' is missing.$"):
        build({"name": "s", "quantizers": "all"})


def test_a_misspelt_key_of_budgets_is_one_mistake() -> None:
    assert wrong_names({"quantizers": ["pq", "rq"], "budgts": {"compression_ratio": [8]}}) == []
    assert len(wrong_names({"quantizers": ["pq", "rq"]})) == 2


def test_a_table_in_place_of_a_sweep_file_leads_to_init(tmp_path: Path) -> None:
    table = tmp_path / "glove.txt"
    table.write_text("the 0.1 0.2\nof 0.3 0.4\n")
    with pytest.raises(InputError, match=r"writes a sweep file: frontier init .*glove\.txt"):
        load_all(str(table))
