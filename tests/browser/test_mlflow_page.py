"""MLflow's runs page of a sweep, as a person sees it who follows the address that `frontier ui` prints."""

import collections
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page

from sweeps.record.tracking.files import Attachment
from sweeps.record.tracking.tracker import Tracker
from trainables.records import TrialResult

pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.filterwarnings("ignore:The ``noload``")]  # inside MLflow
OBJECTIVES = ("payload_bytes", "reconstruction.nmse", "polarity.accuracy")
COLOURS = {"pq": "#0072B2", "rq": "#D55E00"}  # in the report too
# Titles of a chart's axes, and colour and position of each of its points: they are drawn on a canvas.
PLOTTED = """chart => [
    ["xaxis", "yaxis"].map(name => chart.layout[name].title.text ?? chart.layout[name].title),
    chart.data.flatMap(trace => trace.x.map((x, number) => [[trace.marker.color].flat()[number] ?? trace.marker.color, x]))
]"""


def _trial(method: str, size: int, seed: int) -> TrialResult:
    key = f"{method}-{size}-{seed}"
    row: dict[str, Any] = {
        "trial_key": key,
        "table": "glove",
        "table_digest": "d" * 32,
        "num_embeddings": 10,
        "embedding_dim": 5,
        "quantizer": method,
        "config_json": '{"num_codebooks": 4}',
        "seed": seed,
        "status": "ok",
        "payload_bytes": size,
        "compression_ratio": 100_000 / size,
        "started_at": "2026-01-02T03:04:05+00:00",
    }
    scores = [
        {"trial_key": key, "task": task, "metric": metric, "value": value}
        for task, metric, value in (("reconstruction", "nmse", 100 / size), ("polarity", "accuracy", size / 1e5))
    ]
    return TrialResult(row, scores, [{"phase": "fit", "fraction": 1.0, "value": 0.5, "seconds": 1.0}], None, 1.0)


@pytest.fixture
def ui(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Starts ``frontier ui`` on the database of a folder; the address that it prints. At the end SIGTERM must end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> str:
        words = [
            sys.executable,
            "-m",
            "sweeps",
            "ui",
            "--tracking",
            f"sqlite:///{folder / 'mlflow.db'}",
            "--port",
            str(port),
        ]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        while not _answers(port):
            assert process.poll() is None
        return line.split(": ", 1)[1].strip()

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
        assert process.stdout is not None
        process.stdout.close()
    assert not _answers(port)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.timeout(600)
def test_the_page_opens_on_charts_by_size_with_a_colour_for_each_quantizer(
    tmp_path: Path, ui: Callable[[Path], str], page: Page, seen: Any
) -> None:
    folder = tmp_path / "runs"
    sender = Tracker(f"sqlite:///{folder / 'mlflow.db'}", "demo", OBJECTIVES, COLOURS)
    for method in COLOURS:
        for size in (1000, 10_000, 100_000):
            for seed in (0, 1):
                sender.log(_trial(method, size, seed))
    row = {"trial_key": "none", "table": "glove", "quantizer": "rq", "config_json": None, "budget_bytes": 100}
    sender.log(TrialResult({**row, "status": "skipped", "reason": "too small"}))
    sender.close()
    (tmp_path / "a.safetensors").write_text("compressed")
    curve = [{"phase": "fit", "value": 0.5}]
    attached = [Attachment("pq-1000-0", (tmp_path / "a.safetensors",), curve, "digest")]
    sender.summarize([], {}, finished_at="2026-01-02T03:05:05+00:00", finished=True, frontier=attached)
    assert sender.problem is None
    moved = tmp_path / "moved"
    folder.rename(moved)

    page.set_default_timeout(120_000)
    page.set_viewport_size({"width": 1700, "height": 1500})  # charts are drawn when they are in sight
    page.goto(ui(moved))
    charts = page.locator(".js-plotly-plot")
    charts.nth(1).wait_for(state="attached")
    page.get_by_role("link", name="pq-x100-s0").wait_for()
    for number, metric in enumerate(OBJECTIVES[1:]):
        axes, points = charts.nth(number).evaluate(PLOTTED)
        assert axes == ["log10_payload_bytes", metric]
        assert {round(x, 3) for _, x in points} == {3.0, 4.0, 5.0}
        assert collections.Counter(colour for colour, _ in points) == dict.fromkeys(COLOURS.values(), 6)
    assert page.get_by_text("Group by: quantizer").is_visible()
    page.locator(".parcoords").wait_for(state="attached")
    assert page.get_by_text("rq-skipped-100").first.is_visible()

    page.get_by_role("link", name="pq-x100-s0").click()
    page.get_by_text("frontier export RUN_DIR --trial pq-1000-0").wait_for()
    page.get_by_text("glove").first.wait_for()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("a.safetensors").first.wait_for()
    page.get_by_text("curve.csv").first.click()
    page.get_by_text("fraction").or_(page.get_by_text("phase")).first.wait_for()
    assert seen.away == []
