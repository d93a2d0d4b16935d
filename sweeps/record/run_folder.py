"""A run's folder: which sweep it holds."""

from __future__ import annotations

from typing import Any

import yaml

from quantizers.errors import InputError
from sweeps.record.status import read_status
from sweeps.spec.config import SweepConfig

_FIXED = ("name", "table", "rows", "weights", "metric", "regime", "retrain", "vocabulary")
_GROWING = ("quantizers", "seeds", "tasks")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def check_run_dir(config: SweepConfig) -> None:
    """Refuse a run directory that holds another sweep.

    The same sweep resumes; so does one that only adds quantizers, budgets, seeds or tasks.

    Raises:
        InputError: the folder is a file, holds another sweep, or holds something else.
    """
    folder = config.run_dir
    file = folder / "sweep.yaml"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: a file is where the run's folder should be.")
    if not file.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"{folder}: not empty, and not a run of this program. Choose another --out or name.")
        return
    try:
        as_run = (read_status(folder) or {}).get("sweep")  # the file itself may have been edited since
        as_run = as_run or yaml.safe_load(file.read_text(encoding="utf-8"))
        old = SweepConfig.model_validate(as_run).model_dump(mode="json")
    except (ValueError, yaml.YAMLError):
        raise InputError(f"{file}: damaged, or of another version. Choose another --out or name.") from None
    new = config.model_dump(mode="json")
    differs = [key for key in _FIXED if old[key] != new[key]]
    differs += [key for key in _GROWING if new[key] != "all" and not all(item in new[key] for item in _list(old[key]))]
    for kind, values in (old["budgets"] or {}).items():
        kept = (new["budgets"] or {}).get(kind, [])
        differs += [f"budgets.{kind}"] if not all(value in kept for value in values) else []
    if differs:
        raise InputError(
            f"{folder}: holds another sweep (different: {', '.join(differs)}). Choose another --out or name, or delete it."
        )
