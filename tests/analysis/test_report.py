"""Reports, plots and recommendations of a made-up run whose numbers are known."""

import datetime
import hashlib
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from matplotlib import colors, image

from analysis import store
from analysis.answer import answers, lines
from analysis.pareto import build_frontier
from analysis.recommend import recommend
from analysis.report.page import write_report
from analysis.report.plot_data import gaussian_rate, styles
from analysis.report.plots import REFERENCE, frontier_png
from quantizers.errors import InputError

N, D = 20_000, 100
DENSE = 4 * N * D
METHODS = ("cast", "scalar", "pq", "opq", "rq", "lsq", "dccl", "lowrank", "pruned", "binary")
RATIOS = (8, 16, 32, 64, 128)
METRICS = {
    "reconstruction.nmse": {"direction": "min", "unit": "", "description": "mse over the variance"},
    "reconstruction.sqnr_db": {"direction": "max", "unit": "dB", "description": "signal over error"},
    "neighbours.recall_at_10": {"direction": "max", "unit": "", "description": "share of neighbours kept"},
    "polarity.accuracy": {"direction": "max", "unit": "", "description": "share of words told right"},
}
BASELINE = {"nmse": 0.0, "sqnr_db": math.inf, "recall_at_10": 1.0, "accuracy": 0.85}
EIGENVALUES = [float(v) for v in np.geomspace(2.0, 0.05, D)]


def make_run(
    run_dir: Path,
    *,
    name: str = "synthetic",
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = (0, 1),
    table: str = "glove",
    digest: str = "ab" * 16,
    ratios: Sequence[float] = RATIOS,
) -> Path:
    """A run directory as a sweep leaves it: better methods err less, everything errs more when smaller."""
    run_dir.mkdir(parents=True)
    rng = np.random.default_rng(0)
    trials: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []

    def add(method: str, config: dict[str, Any], size: int | None, seed: int | None, **more: Any) -> str:
        text = json.dumps(config)
        key = hashlib.blake2b(f"{method}{text}{seed}{more.get('budget_bytes')}".encode(), digest_size=10).hexdigest()
        row = {"trial_key": key, "sweep": name, "table": table, "table_digest": digest, "task_scope": "whole table"}
        row |= {"quantizer": method, "config_json": text, "regime": "pretrained", "weights": "none", "seed": seed}
        row |= {"status": "ok", "num_embeddings": N, "embedding_dim": D, "payload_bytes": size}
        row |= {"shared_fit": False}
        if size:
            slow = 1.5 + len(trials) % 7 + (100 if "<" in method else 0)  # a hostile name is the slowest, too
            row |= {"compression_ratio": DENSE / size, "fit_seconds": slow, "decode_rows_per_second": 1e6, "fit_key": key}
        trials.append(row | {"started_at": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)} | more)
        return key

    def score(key: str, values: dict[str, float]) -> None:
        for full, about in METRICS.items():
            task, metric = full.split(".")
            row = {"trial_key": key, "role": "input", "task": task, "task_version": 1, "metric": metric}
            scores.append(row | {"direction": about["direction"], "value": values[metric], "baseline": BASELINE[metric]})

    score(add("identity", {}, DENSE, seeds[0]), BASELINE)
    for number, method in enumerate(methods):
        for ratio in ratios:
            budget = int(DENSE / ratio)
            if method == "scalar" and ratio == 128:
                add(method, {}, None, None, budget_bytes=budget, status="skipped", reason="1 bit a value is the least: x32")
                continue
            for seed in seeds:
                config = {"num_codebooks": int(400 / ratio), "codebook_size": 256}
                if method == "dccl" and ratio == 8 and seed == seeds[0]:
                    reason = "RuntimeError: loss is not finite <script>alert(1)</script>"
                    add(method, config, None, seed, budget_bytes=budget, status="failed", reason=reason)
                    continue
                size = int(budget * (0.97 + 0.002 * number))
                nmse = min(1.0, 0.012 * ratio ** (0.75 + 0.03 * number)) * float(np.exp(0.02 * rng.standard_normal()))
                recall = max(0.0, 1 - 0.9 * nmse**0.6)
                values = {"nmse": nmse, "sqnr_db": -10 * math.log10(nmse), "recall_at_10": recall}
                accuracy = 0.5 + 0.35 * recall**0.3 + 0.004 * rng.standard_normal()
                score(add(method, config, size, seed, budget_bytes=budget), values | {"accuracy": float(accuracy)})
    run = {
        "name": name,
        "command": "frontier run synthetic.yaml",
        "started_at": "2024-05-01T12:00:00+00:00",
        "finished_at": "2024-05-01T12:07:30+00:00",
        "trial_seconds": 450.0,
        "table": {"name": table, "digest": digest, "num_embeddings": N, "embedding_dim": D, "eigenvalues": EIGENVALUES},
        "machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 8 * 10**9, "gpus": [], "platform": "Linux"},
        "versions": {"python": "3.11", "torch": "2.13"},
        "metrics": METRICS,
        "objectives": ["payload_bytes", *METRICS],
        "interrupted": False,
    }
    store.write_run(run_dir, run)
    (run_dir / "sweep.yaml").write_text(f"name: {name}\ntable: {table}\nseeds: {list(seeds)}\n")
    store.write(run_dir, "trials", trials)
    store.write(run_dir, "scores", scores)
    store.write(run_dir, "frontier", build_frontier(store.read_trials(run_dir), store.read_scores(run_dir), run))
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "synthetic")


def embedded(page: str, name: str) -> Any:
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)
    assert match
    return json.loads(match[1])


def test_report_holds_the_facts(run_dir: Path, tmp_path: Path) -> None:
    page = write_report([run_dir], tmp_path / "report.html").read_text()
    body = re.sub(r"<script.*?</script>", "", page[page.index("<header>") :], flags=re.DOTALL)
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body))
    assert "glove: 20,000 rows × 100 columns, 8,000 KB as float32" in text
    assert "98trials measured" in text
    assert "1failed" in text
    assert "1skipped" in text
    assert "1 bit a value is the least: x32" in text
    assert "frontier run synthetic.yaml" in text
    assert "seeds: [0, 1]" in text
    assert "python 3.11, torch 2.13" in text
    assert "a CPU, 2 cores, 8.00 GB memory" in text
    assert "a Gaussian with this covariance" in text
    assert "lower bound" not in text
    assert "neighbours.recall_at_10Higher is better. Share of neighbours kept." in text
    # cast errs least by construction, so it is the best at every budget.
    best = page[page.index('id="best"') : page.index('id="frontier"')]
    assert best.count("<b>cast</b>") >= 3 * len(RATIOS)


def test_report_needs_no_network(run_dir: Path, tmp_path: Path) -> None:
    page = write_report([run_dir], tmp_path / "report.html").read_text()
    assert not re.findall(r"<(?:script|link|img|iframe)[^>]*\s(?:src|href)=", page)
    assert "Plotly.react" in page
    assert page.count("window.Plotly = Plotly") == 1  # it is large
    assert len(page.encode()) < 6e6


@pytest.mark.slow
def test_a_report_of_5000_trials_is_below_8_mb(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", ratios=np.arange(250) / 2 + 2)
    assert store.read_trials(run_dir).num_rows > 5000
    assert write_report([run_dir], tmp_path / "report.html").stat().st_size < 8e6


def test_the_pick_comes_first_with_its_command(run_dir: Path, tmp_path: Path) -> None:
    page = write_report([run_dir], tmp_path / "report.html").read_text()
    anchors = re.findall(r'<h2 id="([a-z-]+)">', page)
    assert anchors[:2] == ["pick", "plots"]
    section = re.sub(r"<[^>]*>", "", page[page.index('id="pick"') : page.index('id="plots"')])
    pick = answers(recommend(run_dir), "")[0].pick
    assert f"Take {pick.quantizer} with {pick.payload_bytes / 1000:.0f} KB, " in section
    assert f"the knee of the frontier of {pick.metric}." in section
    assert f"frontier export {run_dir} --trial {pick.trial_keys[0]} -o small.safetensors" in section
    assert re.search(r"2 seeds: \+[0-9.]+ to \+[0-9.]+, no interval\.", section)
    rows = store.read_frontier(run_dir).filter(pc.field("metric") == pick.metric.partition(".")[2]).to_pylist()
    compared = sum(row["quantizer"] != "identity" for row in rows)
    assert f"picked among {compared} configurations by these very scores" in section


def test_three_seeds_have_intervals_within_what_a_metric_can_be(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", methods=("rq", "cast"), seeds=(0, 1, 2))
    rows = store.read_frontier(run_dir).to_pylist()
    shares = [row for row in rows if row["metric"] in ("recall_at_10", "accuracy") and row["num_seeds"] == 3]
    assert shares and all(0 < row["value_low"] < row["value_mean"] < row["value_high"] < 1 for row in shares)
    assert lines(answers(recommend(run_dir), ""), (), run_dir)[2].startswith("95 % interval of the change over 3 seeds: +")
    (found,) = recommend(run_dir, max_drop="90%", task="neighbours").found
    assert found.drop_worst is not None and found.drop_high is not None
    assert found.drop_worst > found.drop_high and found.certain is not None


def test_words_need_the_compressed_files(run_dir: Path, tmp_path: Path) -> None:
    page = write_report([run_dir], tmp_path / "report.html").read_text()
    assert "The pick&#39;s compressed file is not in the run&#39;s folder" in page
    key = answers(recommend(run_dir), "")[0].pick.trial_keys[0]
    (run_dir / "artifacts").mkdir()
    (run_dir / f"artifacts/{key}.safetensors").write_bytes(b"no table")
    page = write_report([run_dir], tmp_path / "report.html").read_text()
    assert "The pick&#39;s compressed file cannot be read: " in page and "not a complete safetensors file" in page
    shutil.rmtree(run_dir / "artifacts")


def test_report_escapes_what_people_wrote(tmp_path: Path) -> None:
    evil = "</script><script>alert(2)</script>&amp;"
    run_dir = make_run(tmp_path / "run", methods=("rq", evil), table=f"t{evil}")
    page = write_report([run_dir], tmp_path / "report.html").read_text()
    assert "<script>alert" not in page
    assert evil in {row[0] for row in embedded(page, "trials")["rows"]}


def test_report_lists_every_trial_and_marks_the_frontier(run_dir: Path, tmp_path: Path) -> None:
    page = write_report([run_dir], tmp_path / "report.html").read_text()
    data = embedded(page, "trials")
    names = [column["name"] for column in data["columns"]]
    assert len(data["rows"]) == store.read_trials(run_dir).num_rows
    nmse = names.index("reconstruction.nmse")
    frontier = store.read_frontier(run_dir).to_pylist()
    expected = {(row["quantizer"], row["config_json"]) for row in frontier if row["metric"] == "nmse" and row["on_frontier"]}
    keys = {row["trial_key"]: (row["quantizer"], row["config_json"]) for row in store.read_trials(run_dir).to_pylist()}
    marked = {keys[row[names.index("trial")]] for row in data["rows"] if nmse in row[-1]}
    assert marked == expected
    lossless = next(row for row in data["rows"] if row[0] == "identity")
    assert lossless[nmse] == 0
    assert lossless[names.index("reconstruction.sqnr_db")] == "Infinity"


def test_every_panel_draws_the_lossless_baseline(run_dir: Path, tmp_path: Path) -> None:
    figures = embedded(write_report([run_dir], tmp_path / "report.html").read_text(), "figures")
    assert len(figures) == len(METRICS)
    for drawn in figures:
        traces = {trace.get("name"): trace for trace in drawn["data"]}
        (size,), (value,) = (traces["identity"][axis][-1:] for axis in "xy")
        assert size == DENSE
        assert value is not None
        assert traces["frontier"]["x"][-2] == DENSE
        assert traces["frontier"]["y"][-1] == value
    # Zero cannot stand on a logarithmic axis: it is drawn below all other values, and says so.
    assert figures[0]["layout"]["yaxis"]["type"] == "log"
    smallest = min(y for trace in figures[0]["data"] if trace.get("name") == "cast" for y in trace["y"])
    assert 0 < traces_of(figures[0])["identity"]["y"][-1] < smallest
    assert figures[0]["layout"]["annotations"][0]["text"] == "0 (off the scale)"
    assert figures[1]["layout"]["annotations"][0]["text"] == "∞ (off the scale)"


def traces_of(figure: dict[str, Any]) -> dict[str, Any]:
    return {trace.get("name"): trace for trace in figure["data"]}


def test_reference_curve_is_on_reconstruction_errors_only(run_dir: Path, tmp_path: Path) -> None:
    figures = embedded(write_report([run_dir], tmp_path / "report.html").read_text(), "figures")
    assert [REFERENCE in traces_of(figure) for figure in figures] == [True, False, False, False]
    curve = traces_of(figures[0])[REFERENCE]
    bits, error = gaussian_rate(np.array(EIGENVALUES))
    here = int(np.argmin(abs(bits * N / 8 - curve["x"][50])))
    assert curve["y"][50] == pytest.approx(error[here] / sum(EIGENVALUES))


def test_several_runs_are_one_report(run_dir: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", name="other", methods=("rq", "best"), seeds=(2,))
    page = write_report([run_dir, other], tmp_path / "both.html").read_text()
    assert "<h1>synthetic + other</h1>" in page
    data = embedded(page, "trials")
    assert {row[0] for row in data["rows"]} == {"synthetic", "other"}
    total = store.read_trials(run_dir).num_rows + store.read_trials(other).num_rows
    assert len(data["rows"]) == total
    assert len(embedded(page, "figures")) == len(METRICS)  # one frontier a metric, over both


def test_runs_of_other_tables_have_panels_of_their_own(run_dir: Path, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", name="other", methods=("rq",), table="word2vec", digest="cd" * 16)
    page = write_report([run_dir, other], tmp_path / "both.html").read_text()
    assert len(embedded(page, "figures")) == 2 * len(METRICS)
    assert "reconstruction.nmse (glove ababab)" in page
    assert "reconstruction.nmse (word2vec cdcdcd)" in page


def test_more_trials_than_the_page_holds(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.panels.trials.MAX_TRIALS", 30)
    page = write_report([run_dir], tmp_path / "report.html").read_text()
    assert "30 of 100 trials" in page
    rows = embedded(page, "trials")["rows"]
    assert len(rows) == 30
    assert "identity" in {row[0] for row in rows}


def test_run_without_a_success_still_has_a_report(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run", methods=())
    trials = [row | {"status": "failed", "reason": "boom"} for row in store.read_trials(run_dir).to_pylist()]
    store.write(run_dir, "trials", trials)
    store.write(run_dir, "frontier", build_frontier(store.read_trials(run_dir), store.read_scores(run_dir)))
    page = write_report([run_dir], run_dir / "report.html").read_text()
    assert "No trial succeeded" in page
    assert "boom" in page
    assert frontier_png(run_dir, run_dir / "frontier.png").stat().st_size > 1000


def test_a_run_that_ended_early_says_why(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "run")
    assert "ended early" not in write_report([run_dir], run_dir / "report.html").read_text()
    store.write_run(run_dir, store.read_run(run_dir) | {"stop_reason": "stop.trials: 3 were run"})
    page = write_report([run_dir], run_dir / "report.html").read_text()
    assert "ended early" in page and "stop.trials: 3 were run" in page


def test_png_has_every_panel_and_method(run_dir: Path, tmp_path: Path) -> None:
    path = frontier_png(run_dir, tmp_path / "frontier.png")
    pixels = image.imread(path)
    assert pixels.shape[0] > 1000
    assert pixels.shape[1] > 1500
    looks = styles(METHODS)
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    for method in METHODS:
        colour = np.array(colors.to_rgb(looks[method].colour))
        near = (abs(pixels[:, :, :3] - colour) < 0.02).all(axis=2)
        for panel in (near[:height, :width], near[:height, width:], near[height:, :width], near[height:, width:]):
            assert panel.sum() > 20, method


def test_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"frontier\.parquet: no such file\. `frontier run` writes it"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(InputError, match="No run was given"):
        write_report([], tmp_path / "report.html")


def test_recommended_under_a_size_limit(run_dir: Path) -> None:
    advice = recommend(run_dir, max_bytes=DENSE // 32)
    assert [found.metric for found in advice.found] == list(METRICS)
    nmse = advice.found[0]
    assert (nmse.quantizer, nmse.num_seeds, len(nmse.trial_keys)) == ("cast", 2, 2)
    assert nmse.largest_bytes <= DENSE // 32
    frontier = store.read_frontier(run_dir).to_pylist()
    fitting = [row["value_mean"] for row in frontier if row["metric"] == "nmse" and row["payload_bytes_mean"] <= DENSE // 32]
    assert nmse.value == min(fitting)


def test_recommended_within_a_drop(run_dir: Path) -> None:
    (found,) = recommend(run_dir, max_drop="20%", task="neighbours").found
    assert found.drop is not None
    assert found.drop <= 0.2
    frontier = store.read_frontier(run_dir).to_pylist()
    good = [row["payload_bytes_mean"] for row in frontier if row["metric"] == "recall_at_10" and row["value_mean"] >= 0.8]
    assert found.payload_bytes == min(good)
    (absolute,) = recommend(run_dir, max_drop="0.2", task="neighbours.recall_at_10").found
    assert absolute == found
    # One seed says nothing about the interval, and neither do two.
    (lossless,) = recommend(run_dir, max_drop="0%", task="neighbours").found
    assert (lossless.quantizer, lossless.drop, lossless.certain) == ("identity", 0, None)
    assert (found.allowed, found.certain, found.drop_low) == (pytest.approx(0.2), None, None)


def test_no_limit_is_the_whole_frontier(run_dir: Path) -> None:
    found = recommend(run_dir, task="neighbours").found
    frontier = store.read_frontier(run_dir).to_pylist()
    assert len(found) == sum(row["on_frontier"] for row in frontier if row["metric"] == "recall_at_10")
    assert [point.payload_bytes for point in found] == sorted(point.payload_bytes for point in found)


def test_limits_that_nothing_keeps(run_dir: Path) -> None:
    advice = recommend(run_dir, max_bytes=1000)
    assert advice.found == ()
    assert re.match(r"reconstruction\.nmse: nothing fits in 1\.00 KB; the smallest is cast at 60\.6 KB", advice.unmet[0])
    advice = recommend(run_dir, max_bytes=DENSE // 64, max_drop="1%", task="neighbours")
    assert re.match(
        r"neighbours\.recall_at_10: nothing in 125 KB is within 1 % of the baseline 1\.000; the nearest", advice.unmet[0]
    )
    advice = recommend(run_dir, max_drop="1%", task="reconstruction.nmse")
    assert advice.unmet == ("reconstruction.nmse: a drop of 1 % from a baseline of 0 means nothing.",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "neighbour"}, "Unknown task 'neighbour'. Did you mean 'neighbours'"),
        ({"max_bytes": 0}, "above 0 bytes"),
        ({"max_drop": "1 percent"}, "'1 percent' is not a drop such as 1%"),
        ({"max_drop": "-1%"}, "is not a drop"),
    ],
)
def test_wrong_requests_are_named(run_dir: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        recommend(run_dir, **arguments)
