"""What MLflow is sent of one trial."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from trainables.records import TrialResult, content_key

_ENDS = {"ok": "FINISHED", "infeasible": "FINISHED", "stopped": "KILLED"}  # MLflow's words for how a run ended
_MEASURES = (
    "payload_bytes",
    "predicted_payload_bytes",
    "file_bytes",
    "code_bytes",
    "codebook_bytes",
    "side_bytes",
    "compression_ratio",
    "bits_per_value",
    "fit_seconds",
    "encode_seconds",
    "decode_rows_per_second",
    "peak_memory_bytes",
)
_PARAMETERS = ("quantizer", "seed", "regime", "weights", "budget_bytes", "table")
_MAX_TEXT = 6000  # characters of a parameter; tags may be longer


@dataclasses.dataclass(frozen=True)
class Record:
    """What is sent of one trial; metrics with their time in ms after the run's start."""

    key: str
    name: str
    start: int | None
    end: int | None
    status: str
    metrics: Sequence[tuple[str, float, int, int]]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    digest: str


def record_of(result: TrialResult) -> Record:
    """What is sent of a trial's result."""
    row = result.row
    start = _milliseconds(row.get("started_at"))
    metrics = [(name, float(row[name]), 0, 0) for name in _MEASURES if _finite(row.get(name))]
    for score in result.scores:
        if _finite(score["value"]):
            metrics.append((_name(f"{score['task']}.{score['metric']}"), float(score["value"]), 0, 0))
    for step, report in enumerate(result.curves):
        after = int(1000 * report["seconds"]) if _finite(report.get("seconds")) else 0
        for name, value in report.items():
            if name not in ("phase", "fraction") and _finite(value):
                metrics.append((_name(f"fit.{name}"), float(value), after, step))
    values = {name: row.get(name) for name in _PARAMETERS}
    values.update({_name(f"config.{name}"): value for name, value in json.loads(row["config_json"] or "{}").items()})
    params = {name: str(value)[:_MAX_TEXT] for name, value in values.items() if value is not None}
    tags = {"status": str(row["status"]), "reason": str(row.get("reason") or "")[:_MAX_TEXT]}
    return Record(
        key=str(row["trial_key"]),
        name=f"{row['quantizer']}-{_size(row)}-s{row['seed']}",
        start=start,
        end=None if result.seconds is None or start is None else start + int(1000 * result.seconds),
        status=_ENDS.get(row["status"], "FAILED"),
        metrics=metrics,
        params=params,
        tags=tags,
        digest=content_key("record", start, params, tags),
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name(text: str) -> str:
    """As MLflow takes names of metrics and parameters."""
    return re.sub(r"[^\w\-. :/]", "_", text)[:250]


def _milliseconds(started: Any) -> int | None:
    if isinstance(started, str):
        started = datetime.datetime.fromisoformat(started)
    return int(1000 * started.timestamp()) if isinstance(started, datetime.datetime) else None


def _size(row: Mapping[str, Any]) -> str:
    ratio = row.get("compression_ratio")
    return f"x{ratio:.0f}" if ratio else str(row["status"])
