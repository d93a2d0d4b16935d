"""Files of a run that are damaged in any way: one line and exit code 2, or what is damaged is made again. No traceback."""

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import Result

import sweeps.driver
from analysis import store
from analysis.schema import SCORES, TRIALS, to_table
from quantizers.errors import InputError
from sweeps.record.estimate import History
from sweeps.record.intake import Intake
from sweeps.record.ledger import Ledger
from sweeps.record.run_folder import VANISHED
from sweeps.record.status import Progress, read_status
from sweeps.record.tracking.runs import UnreachableError
from sweeps.spec.config import SweepConfig, build, load_run
from sweeps.spec.prepare import Prepared
from sweeps.storage import Folder
from tests.attacks.stand_in import measured
from trainables.baselines import load_baseline, save_baseline
from trainables.records import TrialResult
from trainables.task import Baseline, Score

pytestmark = pytest.mark.thorough  # searches long

PARQUET = ("trials.parquet", "scores.parquet", "frontier.parquet")
FILES = (*PARQUET, "run.json", "status.json", "sweep.yaml")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The keys of trials that sweeps of this test have run, without Ray and without pictures."""
    keys: list[str] = []

    def run_trials(prepared: Prepared, intake: Intake, ledger: Ledger, *_: object) -> None:
        while (spec := intake.next_trial()) is not None:
            keys.append(spec.key)
            intake.take(spec, measured(spec, prepared, ledger))

    monkeypatch.setattr("sweeps.driver.engine.run_trials", run_trials)
    monkeypatch.setattr("analysis.report.plots.frontier_png", lambda run_dir, path: path)
    monkeypatch.setattr("sweeps.record.finish.write_report", lambda run_dirs, path: path)
    return keys


def config_in(folder: Path, **changes: Any) -> SweepConfig:
    pq_entry = {"method": "pq", "num_codebooks": [1, 2], "codebook_size": 4}
    keys = {"name": "s", "table": str(folder / "t.npy"), "quantizers": [pq_entry], "seeds": [0, 1], "tracking": False}
    return build({**keys, "output": str(folder), **changes})


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a run that has ended."""
    folder = tmp_path_factory.mktemp("original")
    np.save(folder / "t.npy", np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32))
    patch = pytest.MonkeyPatch()
    ran.__wrapped__(patch)  # type: ignore[attr-defined]
    sweeps.driver.run(config_in(folder))
    patch.undo()
    return folder


@pytest.fixture
def place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, and the working folder: a path in a damaged sweep file may have become a relative one."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def flipped(content: bytes, dice: random.Random) -> bytes:
    where = dice.randrange(len(content))
    return content[:where] + bytes([content[where] ^ (1 << dice.randrange(8))]) + content[where + 1 :]


def same(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True, default=str) == json.dumps(other, sort_keys=True, default=str)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_changes_no_value(place: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    dice, path = random.Random(name), place / "s" / name
    read: Callable[[], Any] = {
        "run.json": lambda: store.read_run(place / "s"),
        "status.json": lambda: read_status(place / "s"),
        "sweep.yaml": lambda: load_run(place / "s").model_dump(),
    }.get(name, lambda: store._read(place / "s", path.stem).to_pylist())  # type: ignore[arg-type]
    good, content = read(), path.read_bytes()
    for _ in range(150):
        path.write_bytes(flipped(content, dice))
        caplog.clear()
        try:
            found = read()
        except InputError as error:
            assert name in str(error) and "\n" not in str(error)
            continue
        if name == "sweep.yaml":  # people may edit it
            assert same(found, good) or "changed since the run wrote it" in caplog.text
        else:
            assert (
                found is None or all(same(found[key], good[key]) for key in good)
                if name in ("run.json", "status.json")
                else same(found, good)
            )


def garbage(content: bytes, dice: random.Random) -> Iterator[bytes]:
    """What may be in place of a file's content."""
    yield from (b"", b"\0" * 64, b"[]", b"{}", b"null", b"[" * 3000, b'{"digest": 3}', b"9" * 5000, b"\xff\xfe{}")
    yield content[: len(content) // 2]
    yield content[:-1]
    yield content + content
    yield from (flipped(content, dice) for _ in range(3))
    yield dice.randbytes(500)


def wrong_values(content: bytes, dice: random.Random) -> Iterator[bytes]:
    """A JSON file of an older version, without a digest, in which one value is of another kind."""
    data = json.loads(content)
    del data["digest"]
    values = [None, "x", -1, 10**400, float("nan"), float("inf"), [[]], {"a": 1}, True]
    for key in data:
        for value in dice.sample(values, 4):
            yield json.dumps({**data, key: value}).encode()
        yield json.dumps({other: data[other] for other in data if other != key}).encode()


def wrong_rows(content: bytes, dice: random.Random) -> Iterator[bytes]:
    """An entry of the ledger without a digest, in which one column of its row or of a score is of another kind."""
    for part in ("row", "scores"):
        names = json.loads(content)["row"] if part == "row" else json.loads(content)["scores"][0]
        for name in names:
            data = json.loads(content)
            del data["digest"]
            row = data["row"] if part == "row" else data["scores"][0]
            row[name] = dice.choice([None, "x", -1, 10**400, 2**63, float("nan"), float("inf"), [], {}, True])
            yield json.dumps(data).encode()
            del row[name]
            yield json.dumps(data).encode()


def wrong_tables(path: Path, dice: random.Random) -> Iterator[pa.Table]:
    """Tables of an older version with columns or values that are not what they should be."""
    table = pq.read_table(path).replace_schema_metadata(None)
    yield table.slice(0, 0)
    yield pa.table({"a": [1]})
    yield pa.table({})
    for number, field in enumerate(table.schema):
        yield table.remove_column(number)
        others = [pa.nulls(table.num_rows, field.type), pa.array(["x"] * table.num_rows), pa.array([-1] * table.num_rows)]
        yield table.set_column(number, field.name, dice.choice(others))
        yield table.append_column(field.name, table[field.name])


def commands(place: Path, key: str) -> list[tuple[str | Path, ...]]:
    run_dir = place / "s"
    return [
        ("recommend", run_dir, "--max-drop", "50%"),
        ("status", run_dir),
        ("report", run_dir, "-o", place / "r.html"),
        ("export", run_dir, "--trial", key, "-o", place / "x.safetensors"),
        ("sync", run_dir),
        ("ledger", "clean", run_dir / "ledger", "--unless-in", run_dir, "--dry-run"),
    ]


class NoServer:
    """MLflow that does not answer."""

    def __init__(self, *about: object) -> None:
        self.run_ids: dict[str, str] = {}

    def send_all(self, results: Sequence[TrialResult]) -> int:
        raise UnreachableError("nobody answers")


@pytest.mark.parametrize("share", [0.05, pytest.param(1.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", FILES)
def test_commands_end_in_one_line(
    place: Path, name: str, share: float, frontier: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report.page.get_plotlyjs", lambda: "")
    monkeypatch.setattr("sweeps.record.tracking.sync.Runs", NoServer)
    sweep = place / "s" / "sweep.yaml"
    sweep.write_text(sweep.read_text().replace("tracking: false", "tracking: http://127.0.0.1:9"))
    dice, path = random.Random(name), place / "s" / name
    key, content = store.read_trials(place / "s")["trial_key"][0].as_py(), path.read_bytes()
    damaged: list[bytes | None] = [*garbage(content, dice), None]
    if path.suffix == ".json":
        damaged += list(wrong_values(content, dice))
    if path.suffix == ".parquet":
        for table in wrong_tables(path, dice):
            pq.write_table(table, path)
            damaged.append(path.read_bytes())
    for instead in dice.sample(damaged, max(4, int(share * len(damaged)))):
        path.unlink()
        if instead is None:
            path.mkdir()
        else:
            path.write_bytes(instead)
        for words in dice.sample(commands(place, key), 2):
            done = frontier(*words)
            assert done.exit_code in (0, 2), (words, instead, done.output)
            said = done.stderr.strip().splitlines()
            # Each mistake of a sweep file is a line of its own.
            told = len(said) == 1 or (name == "sweep.yaml" and said and all(line.startswith("error: ") for line in said))
            assert done.exit_code == 0 or told, (words, instead, done.stderr)
        if instead is None:
            path.rmdir()
            path.touch()


def test_what_is_damaged_is_written_anew_by_resume(
    place: Path, ran: list[str], frontier: Callable[..., Result], caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = load_run(place / "s").run_dir
    before = {name: store._read(run_dir, name).to_pylist() for name in ("trials", "scores", "frontier")}  # type: ignore[arg-type]
    first, second = sorted((run_dir / "ledger" / "results").iterdir())[:2]
    for name in (*PARQUET, "run.json", "status.json"):
        (run_dir / name).write_bytes(flipped((run_dir / name).read_bytes(), random.Random(0)))
    (run_dir / "sweep.yaml").write_text((run_dir / "sweep.yaml").read_text().replace("max_failures: 1", "max_failures: 2"))
    first.write_bytes(flipped(first.read_bytes(), random.Random(1)))
    second.unlink()
    second.mkdir()
    done = frontier("resume", run_dir)
    assert done.exit_code == 0, done.output
    assert sorted(ran) == [first.stem, second.stem], "the others were not measured again"
    assert f"{first.name}: damaged" in caplog.text and "sweep.yaml: changed since the run wrote it" in caplog.text
    for name, rows in before.items():
        timed = {"started_at", "fit_seconds", "encode_seconds", "decode_rows_per_second", "reused", "peak_memory_bytes"}
        found = store._read(run_dir, name).to_pylist()  # type: ignore[arg-type]
        assert [{k: v for k, v in row.items() if k not in timed} for row in found] == [
            {k: v for k, v in row.items() if k not in timed} for row in rows
        ]

    # A sweep file that is gone is written anew as it was run.
    caplog.clear()
    (run_dir / "sweep.yaml").unlink()
    assert frontier("resume", run_dir).exit_code == 0 and len(ran) == 2
    assert load_run(run_dir).max_failures == 2 and caplog.text == ""


@pytest.mark.usefixtures("ran")
def test_a_damaged_sweep_file_is_refused_in_a_line_for_each_mistake(
    place: Path, frontier: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    dice, path = random.Random(3), place / "s" / "sweep.yaml"
    for number, instead in enumerate(garbage(path.read_bytes(), dice)):
        path.write_bytes(instead)
        for command in ("resume", "sync", "ui") if number < 5 else ("resume",):  # from there on it may be a sweep
            done = frontier(command, place / "s")
            assert done.exit_code in (0, 2), done.output
            told = done.stderr.strip().splitlines()
            assert done.exit_code == 0 or told and all(line.startswith("error: ") for line in told), done.stderr
            assert number >= 9 or done.exit_code == 2


def test_ledger_entries_of_any_content_are_a_miss(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger, dice = Ledger(place / "s" / "ledger"), random.Random(4)
    path = next((place / "s" / "ledger" / "results").iterdir())
    content = path.read_bytes()
    for number, instead in enumerate([*garbage(content, dice), *wrong_values(content, dice), *wrong_rows(content, dice)]):
        path.write_bytes(instead)
        caplog.clear()
        found = ledger.get(path.stem)
        if found is None:
            assert caplog.text.count("damaged") == 1 and len(caplog.text.splitlines()) == 1
        else:  # of an older version, with another value of the right kind
            assert number > 14 and caplog.text == ""
            to_table([found.row], TRIALS), to_table(found.scores, SCORES)
            Progress(None, place, name="s", total=1, skipped=0, objective=("reconstruction.mse", "min")).ended(found)
        History(ledger.results())
    path.write_bytes(content)
    other = path.with_name("other.json")
    other.write_bytes(content)
    assert ledger.get(path.stem) is not None and ledger.get("other") is None


def test_a_damaged_baseline_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ledger, dice = Ledger(tmp_path), random.Random(5)
    made: list[Path] = []
    baseline = Baseline({"accuracy": Score(0.5, 10)}, {"weights": np.arange(6, dtype=np.float32).reshape(2, 3)})

    def make(path: Path) -> None:
        made.append(path)
        save_baseline(baseline, path)

    content = Path(tmp_path, "baselines", "k.safetensors")
    for _ in range(60):
        found = ledger.once("baselines", "k", make, load_baseline)
        assert found.scores == baseline.scores and np.array_equal(found.arrays["weights"], baseline.arrays["weights"])
        content.write_bytes(flipped(content.read_bytes(), dice))
    assert len(made) == 60 and caplog.text.count("it is made again") == 59


def test_a_copy_that_is_damaged_is_fetched_again(tmp_path: Path) -> None:
    """On s3 and through the driver a node has copies: its copy may be damaged alone."""
    kept, here = Folder(str(tmp_path / "kept")), tmp_path / "here"
    here.mkdir()

    class Copies(Folder):
        def fetch(self, name: str) -> Path | None:
            copy = here / Path(name).name
            if not copy.exists() and kept.exists(name):
                shutil.copyfile(kept.local(name), copy)
            return copy if copy.exists() else None

    def read(path: Path) -> str:
        if path.read_text() != "whole":
            raise InputError(f"{path}: damaged.")
        return "whole"

    def never(path: Path) -> None:
        raise AssertionError

    kept.write("fits/k.safetensors", b"whole")
    (here / "k.safetensors").write_text("half")
    assert Ledger(Copies(str(tmp_path / "kept"))).once("fits", "k", never, read) == "whole"
    kept.write("fits/k.safetensors", b"half")
    (here / "k.safetensors").unlink()
    made = Ledger(Copies(str(tmp_path / "kept"))).once("fits", "k", lambda path: path.write_text("whole") and None, read)
    assert made == "whole" and kept.read("fits/k.safetensors") == b"whole"


@pytest.mark.parametrize("what", ["artifacts", "the run"])
def test_what_vanishes_while_the_sweep_is_at_work_is_told(
    place: Path, ran: list[str], frontier: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    config = config_in(place, name="v")
    honest = sweeps.driver.engine.run_trials

    def run_trials(prepared: Prepared, intake: Intake, ledger: Ledger, *more: Any) -> None:
        spec = intake.next_trial()
        assert spec is not None
        intake.take(spec, measured(spec, prepared, ledger))
        shutil.rmtree(config.run_dir / ("artifacts" if what == "artifacts" else ""))
        honest(prepared, intake, ledger, *more)

    monkeypatch.setattr("sweeps.driver.engine.run_trials", run_trials)
    file = place / "v.yaml"
    file.write_text(config.to_yaml())
    done = frontier("run", file)
    assert done.exit_code == 1, done.output
    total = 5
    if what == "artifacts":
        assert f"the compressed files of 1 of {total} measured trials" in done.output and len(ran) == total - 1
    else:
        assert VANISHED in done.output and "the compressed files of 1 of 2 measured trials" in done.output
        assert len(ran) == 1, "no more trials began"
        assert store.read_trials(config.run_dir)["status"].to_pylist().count("stopped") == total - 2
    monkeypatch.setattr("sweeps.driver.engine.run_trials", honest)
    ran.clear()
    again = frontier("resume", config.run_dir)
    assert again.exit_code == 0, again.output
    assert len(ran) == (1 if what == "artifacts" else total - 1), "what is left was not measured again"
    assert len(list((config.run_dir / "artifacts").iterdir())) == total


def test_a_changed_table_is_refused_unless_accepted(tmp_path: Path, ran: list[str], frontier: Callable[..., Result]) -> None:
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    np.save(tmp_path / "t.npy", vectors)
    file, run_dir = tmp_path / "s.yaml", tmp_path / "s"
    file.write_text(config_in(tmp_path).to_yaml())
    assert frontier("run", file).exit_code == 0
    before = store.read_trials(run_dir)["trial_key"].to_pylist()
    ran.clear()
    np.save(tmp_path / "t.npy", vectors + 1)
    for words in (["resume", run_dir], ["run", file], ["run", file, "--dry-run"]):
        refused = frontier(*words)
        assert refused.exit_code == 2 and "the table has changed" in refused.stderr, refused.output
        assert "--accept-changed-table" in refused.stderr and len(refused.stderr.strip().splitlines()) == 1
    (run_dir / "status.json").unlink()  # run.json knows too
    assert frontier("resume", run_dir).exit_code == 2 and ran == []
    accepted = frontier("resume", run_dir, "--accept-changed-table")
    assert accepted.exit_code == 0 and len(ran) == len(before), accepted.output
    assert not set(before) & set(store.read_trials(run_dir)["trial_key"].to_pylist())
    assert frontier("resume", run_dir).exit_code == 0 and len(ran) == len(before), "the new table is the run's now"


@pytest.mark.parametrize("words", [["export", "-o", "x.safetensors"], ["recommend"]], ids=lambda words: words[0])
def test_a_frontier_of_other_trials(place: Path, frontier: Callable[..., Result], words: list[str]) -> None:
    """Whole files that do not belong together, as after a copy of only one of them."""
    run_dir = place / "s"
    trials = store.read_trials(run_dir)
    store.write(run_dir, "trials", trials.slice(0, 0))
    done = frontier(words[0], run_dir, *words[1:], "--max-bytes", "200B")
    if words[0] == "export":
        assert done.exit_code == 2 and "trials.parquet lacks the trials that frontier.parquet names" in done.stderr
        assert len(done.stderr.splitlines()) == 1 and not (place / "x.safetensors").exists()
    else:
        assert done.exit_code == 0, done.output
