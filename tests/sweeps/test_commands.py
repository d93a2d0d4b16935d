"""The command line on one table or file, and what it says of wrong input."""

import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner, Result

import quantizers
from sweeps.commands import application
from sweeps.commands.app import WITH_UNITS
from sweeps.commands.show import why_nothing
from sweeps.driver import Run
from sweeps.spec.config import SweepConfig

UNIT_IN_HELP = re.compile(r"\b[0-9]+([KMG]B|[smhd]\b|%)")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    np.save(tmp_path / "t.npy", vectors)
    (tmp_path / "t.words").write_text("".join(f"w{number}\n" for number in range(300)))
    return tmp_path / "t.npy"


def frontier(*words: object) -> Result:
    return CliRunner().invoke(application(), [str(word) for word in words], env={"COLUMNS": "200"})


def test_compress_inspect_convert(table: Path, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    done = frontier("compress", table, "--method", "pq", "--ratio", 8, "-o", file)
    assert done.exit_code == 0, done.output
    artifact = quantizers.read(file)
    assert artifact.storage.payload_bytes <= 4 * 300 * 8 / 8
    assert f"{artifact.storage.payload_bytes:,}" in done.stdout
    shown = frontier("inspect", file, "w1", "w2", "--neighbours", "--table", table)
    assert shown.exit_code == 0, shown.output
    assert "w1 before:" in shown.stdout and "w2 after:" in shown.stdout and "share" in shown.stdout
    codes = frontier("export", file, "--format", "codes", "-o", tmp_path / "t.codes")
    assert codes.exit_code == 0, codes.output
    first = (tmp_path / "t.codes").read_text().splitlines()[0].split()
    assert first == ["w0", *map(str, quantizers.read(file).quantizer.codes()[0].tolist())]
    wrong = frontier("inspect", file, "--neighbours")
    assert wrong.exit_code == 2 and "--neighbours: nearest to what? Give words" in wrong.stderr
    wrong = frontier("inspect", file, "w1x")
    assert wrong.exit_code == 2 and "Did you mean" in wrong.stderr
    text = tmp_path / "t.txt"
    assert frontier("convert", table, "-o", text).exit_code == 0
    assert text.read_text().startswith("w0 ")


def test_neighbours_of_two_words_may_be_each_other(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.array([[1, 0], [1, 0.1], [0, 1], [-1, 0]], dtype=np.float32))
    (tmp_path / "t.words").write_text("a\nb\nc\nd\n")
    assert frontier("compress", tmp_path / "t.npy", "--method", "identity", "-o", tmp_path / "f").exit_code == 0
    shown = frontier("inspect", tmp_path / "f", "a", "b", "--neighbours").stdout
    assert "a after: b c d" in shown and "b after: a c d" in shown


def test_compress_with_parameters(table: Path, tmp_path: Path) -> None:
    file = tmp_path / "f"
    words = ["compress", table, "--method", "pq", "--set", "num_codebooks=4", "--set", "codebook_size=16"]
    assert frontier(*words, "-o", file).exit_code == 0
    config = quantizers.load(file).config
    assert (config.num_codebooks, config.codebook_size) == (4, 16)
    weights = tmp_path / "weights.txt"
    weights.write_text("1\n" * 300)
    assert frontier(*words, "--weights", weights, "-o", file).exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "pk", "--ratio", "8"], "Did you mean 'pq'"),
        (["--method", "pq", "--ratio", "100000"], "has no configuration for"),
        (["--method", "pq", "--ratio", "-1"], "above 0"),
        (["--method", "pq", "--ratio", "8", "--max-bytes", "1KB"], "not both"),
        (["--method", "pq", "--max-bytes", "1 parsec"], "not a size"),
        (["--method", "pq", "--set", "codebooksize=3"], "Did you mean 'codebook_size'"),
        (["--method", "pq", "--set", "codebook_size=1"], "codebook_size"),
        (["--method", "pq", "--set", "num_codebooks=4", "--set", "codebook_size=1024"], "more than the table's 300 rows"),
        (["--method", "pq", "--ratio", "8", "--set", "codebook_size=256"], "are allowed"),
        (["--method", "pq", "--ratio", "8", "--weights", "sqrt_counts"], "has no counts"),
        (["--method", "pq", "--ratio", "8", "--weights", "nowhere.txt"], "is not a file; expected none"),
    ],
)
def test_wrong_input_to_compress(table: Path, tmp_path: Path, words: list[str], message: str) -> None:
    done = frontier("compress", table, *words, "-o", tmp_path / "f")
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "f").exists()


def test_lists(table: Path) -> None:
    assert {"identity", "cast", "pq", "rq", "scalar", "dccl"} <= set(frontier("methods", "--names").stdout.split())
    assert {"reconstruction", "neighbours", "polarity"} <= set(frontier("tasks", "--names").stdout.split())
    assert "see frontier data" in (told := frontier("tasks").stdout) and "`" not in told
    assert {"quick", "glove100"} <= set(frontier("presets", "--names").stdout.split())
    shown = frontier("methods").stdout
    assert all(name in shown for name in quantizers.list_methods())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "quik"], "Did you mean 'quick'"),
        (["run", "nowhere.yaml"], "no such sweep file"),
        (["run", "quick", "--data", "/nowhere"], "no such folder"),
        (["run", "quick", "--set", "quantizers=[pqq]"], "Did you mean 'pq'"),
        (["run", "quick", "--set", "tasks=[neighbors]"], "Did you mean 'neighbours'"),
        (["run", "quick", "--set", "table=missing.txt"], "missing.txt"),
        (["run", "quick", "--set", "budget=3"], "Did you mean 'budgets'"),
        (["run", "quick", "--set", "objectives=[payload_bytes,polarity.acuracy]"], "Did you mean 'polarity.accuracy'"),
        (["run", "quick", "--set", "weights=counts"], "has no counts"),
        (["run", "quick", "--grace", "soon"], "--grace: 'soon' is not a time such as 90s"),
        (["resume", "."], "not a run"),
        (["run", "."], "a folder; expected a sweep file. For a table, this writes a sweep file: frontier init ."),
        (["status", "nowhere"], "nowhere: no such run."),
        (["status", "."], "not a run"),
        (["report", "nowhere"], "nowhere"),
        (["recommend", "nowhere", "--max-bytes", "1MB"], "nowhere"),
        (["export", "nowhere", "--trial", "a", "-o", "x"], "nowhere"),
    ],
)
def test_wrong_input_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    done = frontier(*words)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())
    assert len(done.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "kind", "right"),
    [
        (["recommend", "r", "--max-bytes", "1", "MB"], "size", "--max-bytes 1MB"),
        (["recommend", "--max-bytes", "1.5", "kib", "r"], "size", "--max-bytes 1.5kib"),
        (["export", "r", "-o", "x", "--max-drop", "1", "%"], "drop", "--max-drop 1%"),
        (["compress", "t", "--method", "pq", "-o", "x", "--max-unpacked=3", "GB"], "size", "--max-unpacked 3GB"),
        (["inspect", "f", "--max-unpacked", "3", "GB"], "size", "--max-unpacked 3GB"),
        (["run", "quick", "--grace", "20", "s"], "time", "--grace 20s"),
        (["run", "quick", "--set", "stop.time=30", "m"], "time", "--set stop.time=30m"),
        (["ledger", "clean", "x", "--older-than", "30", "d"], "time", "--older-than 30d"),
    ],
)
def test_a_unit_apart_from_its_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: str, right: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = frontier(*words)
    assert done.exit_code == 2 and f"Write the {kind} without a space, {right}, or in quotes, " in done.stderr, done.output
    assert len(done.stderr.splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_what_is_no_unit_apart_from_its_number_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "r: no such run." in frontier("recommend", "r", "--max-bytes", "1 MB").stderr
    (tmp_path / "b").mkdir()  # a folder may bear a unit's name
    assert "b/frontier.parquet: no such file." in frontier("recommend", "--max-bytes", "100", "b").stderr


def test_every_option_with_a_unit_is_known() -> None:
    def options(command: Any) -> list[Any]:
        return [*command.params, *(one for inner in getattr(command, "commands", {}).values() for one in options(inner))]

    found = {
        one.opts[0] for one in options(get_command(application())) if UNIT_IN_HELP.search(getattr(one, "help", "") or "")
    }
    assert found == {name for names in WITH_UNITS.values() for name in names} - {"--set"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export", "nope.st", "-o", "x"], "nope.st: no run and no compressed file of this name."),
        (["inspect", "nope"], "nope: no run and no compressed file of this name."),
        (["inspect", "smal.safetensors"], "Did you mean the file small.safetensors?"),
        (["export", "mine.safe", "-o", "x"], "Did you mean the run runs/mine-safe or the file mine.safetensors?"),
        (["status", "runs/mine-sfe"], "runs/mine-sfe: no such run. Did you mean the run runs/mine-safe?"),
        (["recommend", "mine-safe"], "mine-safe: no such run. Did you mean the run runs/mine-safe?"),
        (["status", "runs/other"], "runs/other: no such run. Runs there: mine, mine-safe."),
        (["recommend", "mine"], "mine: not a run. Did you mean runs/mine?"),
        (["status", "runs"], "runs: not a run, but holds some; name one: runs/mine, runs/mine-safe"),
        (
            ["inspect", "runs/mine-safe"],
            "runs/mine-safe: a run; expected one compressed file. frontier recommend runs/mine-safe",
        ),
        (
            ["inspect", "model"],
            "model: a model's folder; expected a compressed file. This makes one of its table: frontier comp",
        ),
        (["inspect", "."], ".: a folder, neither of a run nor of a model; expected a compressed file, as frontier compress"),
        (["inspect", "."], "In it: mine.safetensors, small.safetensors."),
    ],
)
def test_a_run_or_file_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for place in (
        "mine/sweep.txt",
        "runs/mine/sweep.yaml",
        "runs/mine-safe/sweep.yaml",
        "model/model.safetensors",
        "mine.safetensors",
        "small.safetensors",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    done = frontier(*words)
    assert done.exit_code == 2 and message in done.stderr, done.output
    assert len(done.stderr.splitlines()) == 1


def test_a_drop_that_is_refused() -> None:
    sample = Path(__file__).parents[1] / "formats/schema-5/sample"
    for words in (["recommend", sample], ["export", sample, "-o", "never-written"]):
        for drop, message in [
            ("lots", "error: --max-drop: 'lots' is not a drop such as 1% (of the baseline) or 0.01 (in the metric's unit)."),
            ("5", "neighbours.recall_at_10 lies between 0 and 1, so that every table keeps to it. Did you mean 5%?"),
        ]:
            done = frontier(*words, "--max-drop", drop, "--task", "neighbours")
            assert done.exit_code == 2 and message in done.stderr, done.output
            assert not Path("never-written").exists()


def test_a_table_with_nan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.zeros((5, 2), dtype=np.float32)
    vectors[3, 1] = np.nan
    np.save(tmp_path / "bad.npy", vectors)
    done = frontier("run", "quick", "--set", f"table={tmp_path / 'bad.npy'}", "--out", tmp_path / "runs")
    assert done.exit_code == 2 and "row 3" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_dry_run_shows_sizes_and_skips_and_writes_nothing(tmp_path: Path) -> None:
    done = frontier("run", "quick", "--out", tmp_path / "runs", "--dry-run", "--set", "quantizers=[cast,pq]")
    assert done.exit_code == 0, done.output
    assert "pq" in done.stdout and "skipped: cast" in done.stdout
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("seeds", "shown"), [([0, 1, 2], "0, 1, 2"), ([7], "7"), (list(range(4)), "4 seeds")])
def test_a_dry_run_has_a_row_for_a_configuration_with_its_seeds(tmp_path: Path, seeds: list[int], shown: str) -> None:
    file = tmp_path / "s.yaml"
    quantizers = [{"method": "pq", "num_codebooks": 2, "codebook_size": 4}]
    sweep = {"name": "s", "table": "builtin:synthetic-50x8", "quantizers": quantizers, "seeds": seeds}
    file.write_text(yaml.safe_dump({**sweep, "output": str(tmp_path / "runs")}))
    done = frontier("run", file, "--dry-run")
    assert done.exit_code == 0, done.output
    assert f"s: {len(seeds) + 1} trials" in done.stdout
    (row,) = [line for line in done.stdout.splitlines() if line.startswith(" pq")]
    assert f"  {shown}  num_codebooks=2" in row


def three_sweeps(folder: Path) -> Path:
    keys = {"table": "builtin:glove-10k-50d", "quantizers": [{"method": "pq", "num_codebooks": 2}], "rows": 300}
    file = folder / "three.yaml"
    file.write_text(yaml.safe_dump_all([{"name": name, **keys} for name in ("first", "second", "third")]))
    return file


def test_a_file_of_several_sweeps_is_shown_whole(tmp_path: Path) -> None:
    done = frontier("run", three_sweeps(tmp_path), "--out", tmp_path / "runs", "--dry-run", "--set", "seeds=[0,1]")
    assert done.exit_code == 0, done.output
    assert [f"{name}: 3 trials" in done.stdout for name in ("first", "second", "third")] == [True] * 3
    wrong = frontier("run", three_sweeps(tmp_path), "--out", tmp_path / "runs", "--set", "table=nowhere.txt")
    assert wrong.exit_code == 2 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("ends", "code", "begun"),
    [
        ({"second": {"failed": 1, "ok": 2}}, 1, ["first", "second", "third"]),
        ({}, 0, ["first", "second", "third"]),
        ({"second": None}, 130, ["first", "second"]),
        ({"second": {"ok": 3, "terminated": 1}}, 143, ["first", "second"]),
    ],
)
def test_several_sweeps_run_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: dict[str, dict[str, int] | None], code: int, begun: list[str]
) -> None:
    seen: list[str] = []

    def run(config: SweepConfig, **options: object) -> Run:
        seen.append(config.name)
        counts = ends.get(config.name, {"ok": 3})
        reason, terminated = ("interrupted", False) if counts is None else (None, "terminated" in counts)
        return Run(config.run_dir, counts or {}, 0, reason, terminated=terminated)

    monkeypatch.setattr("sweeps.driver.run", run)
    monkeypatch.setattr("sweeps.commands.show.show_run", lambda *about: None)
    done = frontier("run", three_sweeps(tmp_path), "--out", tmp_path / "runs")
    assert (done.exit_code, seen) == (code, begun), done.output
    assert ("Not started: third" in done.stdout) == (code in (130, 143))


@pytest.mark.parametrize("command", ["run", "resume", "status", "report", "compress", "inspect", "convert", "ui", "export"])
def test_help_has_an_example(command: str) -> None:
    done = frontier(command, "--help")
    assert done.exit_code == 0 and "Example" in done.stdout


def test_the_ui_wants_records_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run_dir = tmp_path / "n"
    run_dir.mkdir()
    sweep = {"name": "n", "table": "builtin:glove-10k-50d", "quantizers": ["cast"], "output": str(tmp_path)}
    file = run_dir / "sweep.yaml"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nothing listens
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
        for words, tracking, expected in [
            ([run_dir], None, "not a run"),
            ([run_dir, "--tracking", "sqlite:///x.db"], {}, "either"),
            ([run_dir], {"tracking": False}, "without MLflow records"),
            ([run_dir], {}, "no such MLflow database"),
            ([run_dir], {"tracking": nobody}, "no MLflow records there"),
            (["--tracking", nobody], {}, "no MLflow records there"),
        ]:
            if tracking is not None:
                file.write_text(yaml.safe_dump(sweep | tracking))
            done = frontier("ui", *words)
            assert (done.exit_code, expected in done.stderr) == (2, True), done.output


def test_a_sweep_without_a_usable_trial_says_why_and_what_to_change() -> None:
    def row(quantizer: str, status: str, reason: str | None = None) -> dict[str, str | None]:
        return {"quantizer": quantizer, "status": status, "reason": reason}

    too_large = [row(method, "infeasible", f"{size:,} bytes (x9.3) would break payload_bytes <= 100") for method, size in
                 (("pq", 1028), ("pq", 556), ("rq", 700))]  # fmt: skip
    said = why_nothing([row("identity", "ok"), row("cast", "skipped", "a cast keeps 1 byte a value"), *too_large])
    assert said[1:] == [
        "  3 infeasible (pq, rq): such as 1,028 bytes (x9.3) would break payload_bytes <= 100",
        "  1 skipped (cast): a cast keeps 1 byte a value",
        "Loosen 'constraints' in the sweep file, or give budgets and configurations that keep to them.",
        "Give larger 'budgets' in the sweep file, other parameters, or methods that fit in them (frontier methods).",
    ]
    assert "the uncompressed table alone" in why_nothing([row("identity", "ok")])[0]
