"""The report in a browser: what it draws, what it answers, light and dark, wide and narrow."""

import datetime
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

import quantizers
from analysis import store
from analysis.answer import answers
from analysis.pareto import build_frontier
from analysis.recommend import recommend
from analysis.report.page import write_report
from analysis.report.word_view import nearest
from quantizers import Quantizer, Table
from trainables.tables import builtin

pytestmark = pytest.mark.process

ROWS = 600
CONFIGS = [
    ("identity", {}),
    *(
        ("rq", {"num_codebooks": m, "codebook_size": k, "beam_size": 1, "iterations": 4})
        for m in (2, 4, 8)
        for k in (16, 32)
    ),
    *(("pq", {"num_codebooks": m, "codebook_size": 16, "iterations": 4}) for m in (5, 10, 25)),
    *(("scalar", {"bits": bits}) for bits in (1, 2, 4)),
]
METRICS = {
    "reconstruction.nmse": {"direction": "min", "unit": "", "description": "squared error over the variance"},
    "neighbours.recall_at_10": {"direction": "max", "unit": "", "description": "share of neighbours kept"},
    "neighbours.first": {"direction": "max", "unit": "", "description": "share of nearest neighbours kept"},
}


def measure(table: Table, quantizer: Quantizer) -> dict[str, float]:
    rows = quantizer.to_dense()
    error = (rows - table.vectors).square().sum() / (table.vectors - table.vectors.mean(dim=0)).square().sum()
    before, after = nearest(table.vectors), nearest(rows)
    kept = [len(set(one) & set(other)) / 10 for one, other in zip(before.tolist(), after.tolist(), strict=True)]
    return {
        "reconstruction.nmse": float(error),
        "neighbours.recall_at_10": sum(kept) / len(kept),
        "neighbours.first": float((before[:, 0] == after[:, 0]).mean()),
    }


def make_run(run_dir: Path, rows: int = ROWS) -> Path:
    """A run of real fits to the first words of GloVe, with their compressed files, as a sweep leaves it."""
    (run_dir / "artifacts").mkdir(parents=True)
    table = builtin.read("glove-10k-50d", rows=rows)
    trials: list[dict[str, Any]] = []
    scores: list[dict[str, Any]] = []
    baseline: dict[str, float] = {}
    for number, (method, config) in enumerate(CONFIGS):
        for seed in (0, 1) if method != "identity" else (0,):
            quantizer = quantizers.create(method, **config).fit(table, seed=seed)
            key = f"{number:02d}{seed}" + "0" * 17
            quantizer.save(run_dir / f"artifacts/{key}.safetensors")
            size, dense = quantizer.payload_bytes, 4 * table.num_embeddings * table.embedding_dim
            row: dict[str, Any] = {"trial_key": key, "sweep": "words", "table": table.name, "table_digest": table.digest}
            row |= {
                "task_scope": "whole table",
                "quantizer": method,
                "config_json": json.dumps(config),
                "regime": "pretrained",
            }
            row |= {"weights": "none", "seed": seed, "status": "ok", "num_embeddings": rows, "embedding_dim": 50}
            row |= {"payload_bytes": size, "dense_bytes": dense, "compression_ratio": dense / size, "shared_fit": False}
            row |= {"fit_seconds": 0.1 * (number + 1), "decode_rows_per_second": 1e6 / (number + 1), "fit_key": key}
            trials.append(row | {"started_at": datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)})
            values = measure(table, quantizer)
            baseline = baseline or values
            for full, about in METRICS.items():
                task, metric = full.split(".")
                score = {"trial_key": key, "role": "input", "task": task, "task_version": 1, "metric": metric}
                score |= {"direction": about["direction"], "value": values[full], "baseline": baseline[full]}
                scores.append(score)
    failed = {**trials[-1], "trial_key": "f" * 20, "status": "failed", "reason": "RuntimeError: the loss is not finite"}
    trials.append({name: value for name, value in failed.items() if name not in ("payload_bytes", "compression_ratio")})
    run = {
        "name": "words",
        "command": "frontier run words.yaml",
        "started_at": "2024-05-01T12:00:00+00:00",
        "finished_at": "2024-05-01T12:07:30+00:00",
        "trial_seconds": 450.0,
        "table": {"name": table.name, "digest": table.digest, "num_embeddings": rows, "embedding_dim": 50},
        "machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 8 * 10**9, "gpus": [], "platform": "Linux"},
        "versions": {"python": "3.11", "torch": "2.13"},
        "metrics": METRICS,
        "objectives": ["payload_bytes", *METRICS],
        "interrupted": False,
    }
    store.write_run(run_dir, run)
    (run_dir / "sweep.yaml").write_text("name: words\n")
    store.write(run_dir, "trials", trials)
    store.write(run_dir, "scores", scores)
    store.write(run_dir, "frontier", build_frontier(store.read_trials(run_dir), store.read_scores(run_dir), run))
    return run_dir


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "words")


@pytest.fixture(scope="module")
def report_file(run_dir: Path) -> Path:
    return write_report([run_dir], run_dir / "report.html")


def words_of(page: Page, place: str) -> list[str]:
    return page.locator(f"#{place} li button").all_inner_texts()


def look_at_all(page: Page) -> None:
    """Scroll through the page: figures are drawn when they are seen."""
    for place in page.locator(".plot > div").all():
        place.scroll_into_view_if_needed()
        place.locator(".main-svg").first.wait_for()
    page.evaluate("scrollTo(0, 0)")


def test_what_the_page_does(run_dir: Path, report_file: Path, page: Page, seen: Any) -> None:
    """Hover, legend, words, the axes of costs, parameters: without an error and without a request."""
    page.goto(report_file.as_uri())
    look_at_all(page)
    # The pick, first of all, with its command.
    pick = answers(recommend(run_dir), "")[0].pick
    assert page.locator("main h2").first.inner_text() == "The pick"
    assert f"Take {pick.quantizer} with" in page.locator(".pick").inner_text()
    assert f"--trial {pick.trial_keys[0]} -o" in page.locator(".command pre").first.inner_text()
    # Hover.
    page.locator("#plot-0").scroll_into_view_if_needed()
    mark = page.locator("#plot-0 .scatterlayer .trace .points path").last.bounding_box()
    assert mark is not None
    page.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + mark["height"] / 2)
    hover = page.locator("#plot-0 .hoverlayer .hovertext")
    hover.wait_for()
    assert re.search(r"\d KB ×", hover.text_content() or "")
    # The legend hides a method, and shows it alone.
    button = page.locator(".legend button[data-method=rq]")
    visible = """() => document.getElementById("plot-0").data.filter((one) => one.meta && one.visible !== false)
      .map((one) => one.meta)"""
    assert "rq" in page.evaluate(visible)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert "rq" not in page.evaluate(visible)
    button.dblclick()
    assert set(page.evaluate(visible)) == {"rq"}
    # A word, and its neighbours before and after.
    table = builtin.read("glove-10k-50d", rows=ROWS)
    assert table.words is not None
    rebuilt = quantizers.load(run_dir / f"artifacts/{pick.trial_keys[0]}.safetensors").to_dense()
    for word in ("minister", "10", "China"):
        page.fill("#word", word)
        row = list(table.words).index(word.lower())
        for place, rows in (("word-before", table.vectors), ("word-after", rebuilt)):
            assert words_of(page, place) == [table.words[one] for one in nearest(rows)[row]], (word, place)
    cosine = torch.cosine_similarity(table.vectors, rebuilt, dim=1)
    assert words_of(page, "word-worst")[0] == table.words[int(cosine.argmin())]
    page.fill("#word", "minis")
    assert "“minis” is not among the 600 rows. Similar words: minister" in page.locator("#word-told").inner_text()
    page.locator("#word-worst button").first.click()
    assert page.input_value("#word") == table.words[int(cosine.argmin())]
    # Costs as axes.
    page.select_option("#cost-x", "lookups")
    page.select_option("#cost-y", "payload")
    assert "rows looked up a second" in (page.locator("#cost-plot").text_content() or "")
    # Parameters of one method.
    page.select_option("#parameters-method", "rq")
    assert sorted(page.locator("#parameters-rows td:first-child").all_inner_texts()) == ["codebook_size", "num_codebooks"]
    assert page.locator("#trials-body tr").count() == len(store.read_trials(run_dir))
    assert seen.errors == []
    assert seen.requests == [report_file.as_uri()]


CUT = """() => {
  const out = [];
  for (const one of document.querySelectorAll("body *")) {
    if (one.closest("script, .hoverlayer, [hidden], details:not([open])") || !one.checkVisibility()) continue;
    const box = one.getBoundingClientRect();
    const holdsText = Array.from(one.childNodes).some((node) => node.nodeType === 3 && node.textContent.trim());
    if (holdsText && box.width && (box.right > innerWidth + 0.5 || box.left < -0.5)) out.push(one.outerHTML.slice(0, 120));
    const scrolls = one.scrollWidth > one.clientWidth + 1 && getComputedStyle(one).overflowX !== "visible";
    if (scrolls && !(one instanceof SVGElement)) out.push("scrolls: " + one.outerHTML.slice(0, 120));
  }
  return document.documentElement.scrollWidth > innerWidth ? ["the page scrolls", ...out] : out;
}"""


def test_dark_and_narrow(report_file: Path, page: Page, seen: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(report_file.as_uri())
    look_at_all(page)
    assert page.evaluate(CUT) == []
    colours = """() => [document.body, document.querySelector("#plot-0 .xtick text"), document.querySelector(".card"),
      document.querySelector(".legend button[data-method=identity] polygon")].map((one) => {
        const style = getComputedStyle(one);
        return [style.backgroundColor, style.color, style.fill].join(" ");
      })"""
    light = page.evaluate(colours)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("document.documentElement.classList.contains('dark')")
    dark = page.evaluate(colours)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    assert page.evaluate(CUT) == []
    page.click("#theme")
    assert page.evaluate(colours) == light
    assert seen.errors == []


@pytest.mark.slow
def test_a_file_that_is_too_large_to_carry(
    run_dir: Path, tmp_path: Path, page: Page, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its neighbours are found beforehand; the page shows the same."""
    monkeypatch.setattr("analysis.report.word_view.MAX_FILE_BYTES", 10)
    page.goto(write_report([run_dir], tmp_path / "report.html").as_uri())
    pick = answers(recommend(run_dir), "")[0].pick
    module = quantizers.load(run_dir / f"artifacts/{pick.trial_keys[0]}.safetensors")
    assert module.words is not None
    page.fill("#word", "minister")
    row = list(module.words).index("minister")
    assert words_of(page, "word-after") == [module.words[one] for one in nearest(module.to_dense())[row]]
    assert seen.errors == []
