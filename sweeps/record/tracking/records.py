"""What MLflow is sent of one trial."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag

from trainables.records import TrialResult, content_key

# MLflow's words for how a run ended; a trial's own is in the tag ``status``. All others have failed.
_ENDS = {"ok": "FINISHED", "stopped": "KILLED", "skipped": "KILLED"}
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
SIZE = "log10_payload_bytes"  # MLflow's scatter charts have no logarithmic axis


@dataclasses.dataclass(frozen=True)
class Record:
    """What is sent of one trial.

    Attributes:
        key: of the trial.
        name: of the run.
        start: in ms since 1970; None where the trial never ran.
        end: the same.
        status: MLflow's.
        metrics: name, value, time in ms after the run's start, step.
        params: by name.
        tags: by name.
        dataset: name, digest, rows and columns of the table; None where the row does not say.
        digest: of all that makes it another record.
    """

    key: str
    name: str
    start: int | None
    end: int | None
    status: str
    metrics: Sequence[tuple[str, float, int, int]]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    dataset: tuple[str, str, int, int] | None
    digest: str


def record_of(result: TrialResult) -> Record:
    """What is sent of a trial's result."""
    row = result.row
    start = _milliseconds(row.get("started_at"))
    metrics = [(name, float(row[name]), 0, 0) for name in _MEASURES if _finite(row.get(name))]
    if size := row.get("payload_bytes"):
        metrics.append((SIZE, math.log10(size), 0, 0))
    for score in result.scores:
        if _finite(score["value"]):
            metrics.append((_name(f"{score['task']}.{score['metric']}"), float(score["value"]), 0, 0))
    for step, report in enumerate(result.curves):
        after = int(1000 * report["seconds"]) if _finite(report.get("seconds")) else 0
        for name, value in report.items():
            if name not in ("phase", "fraction", "seconds") and _finite(value):  # the seconds are the metric's time
                metrics.append((_name(f"fit.{name}"), float(value), after, step))
    values = {name: row.get(name) for name in _PARAMETERS}
    values.update({_name(f"config.{name}"): value for name, value in json.loads(row["config_json"] or "{}").items()})
    params = {name: str(value)[:_MAX_TEXT] for name, value in values.items() if value is not None}
    tags = {"status": str(row["status"]), "mlflow.note.content": _description(row)}
    if row.get("reason"):
        tags["reason"] = str(row["reason"])[:_MAX_TEXT]
    dataset = None
    if row.get("table_digest") and row.get("num_embeddings"):
        dataset = (str(row["table"]), str(row["table_digest"]), int(row["num_embeddings"]), int(row["embedding_dim"]))
    return Record(
        key=str(row["trial_key"]),
        name=f"{row['quantizer']}-{_size(row)}" + ("" if row.get("seed") is None else f"-s{row['seed']}"),
        start=start,
        end=None if result.seconds is None or start is None else start + int(1000 * result.seconds),
        status=_ENDS.get(row["status"], "FAILED"),
        metrics=metrics,
        params=params,
        tags=tags,
        dataset=dataset,
        digest=content_key("record", start, params, tags),
    )


def _description(row: Mapping[str, Any]) -> str:
    """What stands at the head of the run's page, in Markdown."""
    if not row.get("payload_bytes"):
        return f"**{row['quantizer']}**: {row['status']}" + (f". {row['reason']}" if row.get("reason") else "")
    size = f"{row['payload_bytes']:,} bytes"
    if row.get("compression_ratio"):
        size += f", {row['compression_ratio']:.1f} times smaller than the table"
    if row["status"] != "ok":
        return f"**{row['quantizer']}**: {size}. {row['status']}: {row.get('reason')}"
    return f"**{row['quantizer']}**: {size}.\n\nTake it: `frontier export RUN_DIR --trial {row['trial_key']} -o FILE`"


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
    if ratio := row.get("compression_ratio"):
        return f"x{ratio:.0f}"
    return str(row["status"]) + ("" if row.get("budget_bytes") is None else f"-{row['budget_bytes']}")


def dataset_input(name: str, digest: str, rows: int, columns: int) -> DatasetInput:
    """A table as MLflow names data that a run has used."""
    profile = json.dumps({"num_embeddings": rows, "embedding_dim": columns})
    source = json.dumps({"uri": name})
    return DatasetInput(
        Dataset(name, digest, "local", source, None, profile), [InputTag("mlflow.data.context", "compressed")]
    )


class Varying:
    """Which parameters all of some records have, and which of those vary."""

    def __init__(self) -> None:
        self._values: dict[str, set[str]] | None = None

    def note(self, params: Mapping[str, str]) -> None:
        """One more record; of its values two at the most are kept."""
        if self._values is None:
            self._values = {name: set() for name in params if name not in ("quantizer", "table")}
        for name in self._values.keys() - params.keys():
            del self._values[name]
        for name, values in self._values.items():
            if len(values) < 2:
                values.add(params[name])

    def varying(self) -> list[str]:
        """Names of those that do, in the order in which they came."""
        return [name for name, values in (self._values or {}).items() if len(values) > 1]
