"""``run.json`` under a digest that fits, each value in turn missing or another: it is refused, or the report is written."""

import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis import store
from analysis.report.page import write_report
from quantizers.errors import InputError

SAMPLE = Path(__file__).parents[1] / "formats/schema-5/sample"
OTHERS: tuple[Any, ...] = (None, "x", 3, -1.5, [], {}, True, ["x"], {"x": 1})
ONE_OF = {"metrics": "neighbours.recall_at_10", "versions": "torch"}  # of many alike


def places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        if not above or above[0] not in ONE_OF or (*above, key)[1] == ONE_OF[above[0]]:
            yield (*above, key)
            yield from places(value[key], (*above, key))


def variants(run: dict[str, Any], place: tuple[Any, ...]) -> Iterator[dict[str, Any]]:
    for other in range(len(OTHERS) + 1):
        changed = copy.deepcopy(run)
        holder = changed
        for key in place[:-1]:
            holder = holder[key]
        if other == len(OTHERS):
            del holder[place[-1]]
        else:
            holder[place[-1]] = OTHERS[other]
        yield changed


RUN = {key: value for key, value in json.loads((SAMPLE / "run.json").read_text()).items() if key != "digest"}


@pytest.mark.slow
@pytest.mark.parametrize("place", list(places(RUN)), ids=lambda place: ".".join(map(str, place)))
def test_it_is_refused_or_reported(tmp_path: Path, place: tuple[Any, ...]) -> None:
    folder = tmp_path / "sample"
    shutil.copytree(SAMPLE, folder)
    for run in variants(RUN, place):
        store.write_run(folder, run)
        try:
            write_report([folder], tmp_path / "report.html")
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "place", [("table",), ("table", "num_embeddings"), ("table", "eigenvalues", 0), ("machine", "gpus")]
)
def test_what_no_reader_understands_is_refused(tmp_path: Path, place: tuple[Any, ...]) -> None:
    changed = copy.deepcopy(RUN)
    holder: Any = changed
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = None
    store.write_run(tmp_path, changed)
    with pytest.raises(InputError, match=r"run\.json: damaged: " + r"\.".join(map(str, place))):
        store.read_run(tmp_path)
