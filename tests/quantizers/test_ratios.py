"""The AdaComp paper's ratio columns come out of our byte counts."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ratios.py"


@pytest.fixture(scope="module")
def ratios():
    spec = importlib.util.spec_from_file_location("ratios", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ratios"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ratios"]


def test_within_one_and_a_half_of_the_paper(ratios):
    found = [line for line in ratios.lines() if line.label in ratios.CHECKED]
    assert len(found) == 24
    for line in found:
        assert abs(line.ours - line.published) <= 1.5, line


def test_by_hand(ratios):
    found = {(line.label, line.data): line for line in ratios.lines()}
    # NC 16x16 on 17,080 words: 8 bytes a word and 16 x 16 x 300 floats. Bin 64: 8 bytes a word, 65 x 300 floats, the scale.
    assert found["NC 16x16", "SST-5"].payload_bytes == 17_080 * 8 + 16 * 16 * 300 * 4
    assert found["Bin 64", "SST-5"].payload_bytes == 17_080 * 8 + 65 * 300 * 4 + 4
    # All words in the longest code-book: 128 bits and 2 of selector a word, 240 x 300 and 4 x 300 floats.
    adacomp = found["AdaComp 128", "PTB"]
    assert adacomp.payload_bytes == 9_809 * 16 + 2_453 + 244 * 300 * 4
    pruned = found["Pruning 90 %", "PTB"]
    assert pruned.ours < 10 and "x10.0 without" in pruned.note


def test_adacomp_is_between_its_shortest_and_longest(ratios):
    found = [line for line in ratios.lines() if line.label.startswith("AdaComp")]
    assert len(found) == 12
    assert all(line.ok for line in found)


def test_the_script(ratios, tmp_path, capsys, monkeypatch):
    assert ratios.main(["--markdown", str(tmp_path / "deep" / "ratios.md")]) == 0
    assert "0 of 36 checked ratios are off." in capsys.readouterr().out
    text = (tmp_path / "deep" / "ratios.md").read_text()
    assert text.count("\n| ") == 1 + 44
    monkeypatch.setitem(ratios.PUBLISHED, "Bin 64", (90, 100, 116, 74))
    assert ratios.main(["--markdown", str(tmp_path / "ratios.md")]) == 1
    assert "OFF" in (tmp_path / "ratios.md").read_text()
