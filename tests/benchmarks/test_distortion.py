"""The comparison with other programs: what is counted, what is kept, and the page of it."""

import csv
import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Imported once: faiss and scikit-learn take a second.
pytestmark = [pytest.mark.xdist_group("distortion"), pytest.mark.thorough]
MODULES = ("timing", "own", "peers", "distortion_rows", "distortion_page", "distortion", "lookups")
ROWS, DIM, BUDGET = 900, 8, 9500


@pytest.fixture(scope="module")
def benchmarks():
    sys.path.insert(0, str(BENCHMARKS))
    yield {name: importlib.import_module(name) for name in MODULES}
    sys.path.remove(str(BENCHMARKS))
    for name in MODULES:
        del sys.modules[name]


@pytest.fixture(scope="module")
def x():
    random = np.random.default_rng(0)
    return (random.standard_normal((ROWS, DIM)) * np.linspace(2, 0.5, DIM) + 1).astype(np.float32)


def test_peers_keep_to_their_budget_and_rebuild_rows(benchmarks, x):
    variance = np.square(x - x.mean(axis=0)).sum()
    slow = ("faiss.opq", "faiss.lsq", "faiss.prq")
    for name, peer in benchmarks["peers"].PEERS.items():
        tries = list(peer.tries(ROWS, DIM, None if peer.fixed else BUDGET))
        if name == "staticvectors.pq":
            assert tries == []  # ten blocks of 8 columns
            continue
        assert tries, name
        assert peer.fixed or all(one.payload_bytes <= BUDGET for one in tries), name
        if name not in slow:
            coder = tries[0].make()
            coder.fit(x, 0)
            rebuilt = coder.rows(np.arange(ROWS))
            assert rebuilt.shape == x.shape, name
            assert np.square(x - rebuilt).sum() < variance, name
            assert np.array_equal(coder.rows(np.array([7, 3])), rebuilt[[7, 3]]), name


def test_bytes_by_hand(benchmarks):
    def told(name, budget=None, rows=1000, dim=20):
        return {one.configuration: one.payload_bytes for one in benchmarks["peers"].PEERS[name].tries(rows, dim, budget)}

    assert told("faiss.sq6") == {"6 bits": 1000 * 15 + 2 * 20 * 4}
    assert told("model2vec.int8") == {"int8": 1000 * 20 + 4}
    assert told("staticvectors.pq") == {"10 x 256": 1000 * 10 + 256 * 20 * 4}
    assert told("faiss.opq", 8000)["10 x 16"] == 1000 * 5 + 16 * 20 * 4 + 20 * 20 * 4
    # 1,000 codes of 4 bits and 16 codewords of 20, or of 10, floats are 1,780, or 1,140, bytes a codebook.
    assert told("faiss.rq", 8000)["4 x 16"] == 4 * (500 + 16 * 20 * 4)
    assert told("faiss.prq", 8000)["6 x 16"] == 6 * (500 + 16 * 10 * 4)
    assert told("model2vec.pca", 8000)["3 components, float16"] == 3 * (2000 + 20 * 4) + 20 * 4
    assert told("model2vec.clusters", 9000) == {"25 clusters": 1000 * 8 + 25 * 20 * 2}


def run(benchmarks, output, *more):
    common = ["--rows", "300", "--ratios", "8", "--methods", "scalar", "--peers", "nanopq.pq", "model2vec.int8"]
    return benchmarks["distortion"].main(["builtin:glove-10k-50d", *common, "-o", str(output), *more])


@pytest.mark.slow
def test_results_are_kept_until_the_version_is_another(benchmarks, tmp_path, capsys, monkeypatch):
    assert run(benchmarks, tmp_path, "--match") == 0
    told = capsys.readouterr().out
    assert told.count("as measured before") == 0
    rows = benchmarks["distortion_rows"].read_rows(tmp_path / "distortion.csv")
    assert {(row.whose, row.method, round(row.ratio)) for row in rows} == {
        ("nanopq", "pq", 8),
        ("model2vec", "int8", 4),
        ("ours", "scalar", 8),
        ("ours", "scalar", 4),
    }
    for row in rows:
        assert 0 < row.curve < row.nmse < 1 and 0 < row.recall <= 1
        assert row.share == row.payload_bytes / row.budget_bytes <= 1
    assert (tmp_path / "glove-10k-50d-300x50.png").stat().st_size > 10_000

    before = (tmp_path / "distortion.csv").read_bytes()
    monkeypatch.setattr(benchmarks["peers"].Blocks, "fit", None)  # a fit would fail
    assert run(benchmarks, tmp_path, "--again", "ours") == 0
    assert capsys.readouterr().out.count("as measured before") == 2
    after = benchmarks["distortion_rows"].read_rows(tmp_path / "distortion.csv")
    assert [row.nmse for row in after] == [row.nmse for row in rows]
    assert len(before.splitlines()) == 5
    (tmp_path / "distortion.csv").write_bytes(before.replace(b"0.2.2 by", b"0.2.1 by"))
    with pytest.raises(TypeError):
        run(benchmarks, tmp_path)


def test_the_page(benchmarks, tmp_path):
    Row, Store = benchmarks["distortion_rows"].Row, benchmarks["distortion_rows"].Store
    store = Store(tmp_path / "distortion.csv")
    given = [("ours", "trellis", 0.1, 0), ("ours", "trellis", 0.2, 1), ("ours", "pq", 0.3, 0), ("faiss", "rq", 0.5, 0)]
    given += [("e336919", "lsq", 0.3, 0), ("faiss", "sq4", 0.25, 0)]
    for whose, method, nmse, seed in given:
        size = 99 if method == "sq4" else 50
        about = {"table": "T", "digest": "d", "rows": 100, "columns": 4, "budget_bytes": size, "threads": 1, "version": "v"}
        measured = {"curve": 0.05, "recall": 0.5, "fit_seconds": 1.0, "batch_ms": 1.0, "row_ms": 0.1, "share": 1.0}
        ratio = 1600 / size if method == "sq4" else 32.0
        named = {"whose": whose, "method": method, "seed": seed, "configuration": "c", "payload_bytes": size}
        store.put(Row(nmse=nmse, ratio=ratio, **about, **measured, **named))
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n<!-- tables -->\n<!-- end -->\nThe end.\n")
    assert benchmarks["distortion_page"].main([str(tmp_path), str(page)]) == 0
    text = page.read_text()
    assert "| 32 | 0.0500 | 0.1500 (trellis) | 3.00 | 0.5000 (rq) | 0.30 | 0.3000 (lsq) | 0.50 |" in text
    assert "| faiss: sq4 | 16.16 | 99 | 0.25000 | 0.5000 | trellis, 32 | 0.10000 | 0.5000 |" in text
    assert "Means over the seeds 0, 1" in text and text.startswith("# Title\n") and text.endswith("The end.\n")
    assert benchmarks["distortion_page"].main([str(tmp_path), str(page)]) == 0
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["builtin:glove-10k-50e"], "glove-10k-50d"),
        (["builtin:synthetic-10x4", "--ratios", "-1"], "must be above 0"),
        (["builtin:synthetic-10x4", "--peers", "--methods", "--before", "0000000"], "commit 0000000"),
    ],
)
def test_wrong_input(benchmarks, tmp_path, capsys, arguments, message):
    assert benchmarks["distortion"].main([*arguments, "-o", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_look_ups_in_turn_with_an_earlier_commit(benchmarks, tmp_path, capfd):
    commit = "e336919"
    if subprocess.run(["git", "-C", str(BENCHMARKS), "cat-file", "-e", commit], capture_output=True, check=False).returncode:
        pytest.skip(f"this clone does not reach back to {commit}")
    files = ["--files", str(tmp_path)]
    assert run(benchmarks, tmp_path, *files, "--peers", "--before", commit) == 0
    rows = benchmarks["distortion_rows"].read_rows(tmp_path / "distortion.csv")
    assert {row.whose for row in rows} == {"ours", commit}
    (file,) = tmp_path.glob("*.safetensors")
    arguments = ["builtin:glove-10k-50d", str(file), "-o", str(tmp_path), "--repeats", "3", "--threads", "1"]
    assert benchmarks["lookups"].main([*arguments, "--rows", "300"]) == 0
    header, line = csv.reader((tmp_path / "lookups.csv").read_text().splitlines())
    assert header == benchmarks["lookups"].HEADER
    assert line[0] == file.name and float(line[1]) >= 8 and all(float(number) >= 0 for number in line[2:])
    assert benchmarks["lookups"].main([*arguments, "--rows", "299"]) == 2
    assert "holds 300 x 50" in capfd.readouterr().err


def test_a_csv_of_something_else(benchmarks, tmp_path, capsys):
    (tmp_path / "distortion.csv").write_text("a,b\n1,2\n")
    assert run(benchmarks, tmp_path) == 2
    assert "distortion.csv: not the results" in capsys.readouterr().err
