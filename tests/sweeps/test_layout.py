"""One module knows every path of a run directory; what the analysis reads too stands in its own."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = r"sweep\.yaml|run\.json|status\.json|search\.jsonl|driver\.claim|frontier\.png|report\.html"
LITERAL = re.compile(rf"""["'](?:{NAMES}|(?:trials|scores|frontier)\.parquet|(?:artifacts|checkpoints)/.*)["']""")
# Sweep files that lie in no run: the one that goes along with a submitted job, and the one that is written for a new table.
ELSEWHERE = {"sweeps/cluster/submit.py", "sweeps/commands/init.py"}


def test_no_other_module_spells_a_path_of_a_run() -> None:
    found = {}
    for package in ("sweeps", "analysis"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if path.name == "layout.py" or name in ELSEWHERE:
                continue
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            spelled = [line for line in lines if LITERAL.search(line) and '"""' not in line]
            if spelled:
                found[name] = spelled
    assert found == {}
