"""Files of MLflow runs: what the trials on the frontier are given, and where files go."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

from sweeps.record.ledger import Ledger
from sweeps.spec.config import SweepConfig
from sweeps.storage import open_storage
from sweeps.storage.layout import artifact_names
from trainables.records import content_key

CURVE = "curve.csv"


@dataclasses.dataclass(frozen=True)
class Attachment:
    """What the run of a trial on the frontier holds.

    Attributes:
        key: of the trial.
        files: its compressed files, on this machine.
        curve: what its fit reported, a row for each report.
        digest: of all of it.
    """

    key: str
    files: tuple[Path, ...]
    curve: Sequence[Mapping[str, Any]]
    digest: str


def attachments(config: SweepConfig, rows: Sequence[Mapping[str, Any]], frontier: pa.Table) -> list[Attachment]:
    """What the runs of the trials on the frontier hold, of a run whose files are all there.

    Curves are taken from the ledger, so that a sweep without one has none.

    Args:
        config: the sweep.
        rows: of ``trials.parquet``.
        frontier: ``frontier.parquet``.
    """
    points = frontier.select(["quantizer", "config_json", "on_frontier"]).to_pylist()
    on = {(point["quantizer"], point["config_json"]) for point in points if point["on_frontier"]}
    ledger = None if config.ledger_location is None else Ledger(open_storage(config.ledger_location))
    storage = open_storage(config.run_location)
    found = []
    for row in rows:
        if row["status"] != "ok" or (row["quantizer"], row["config_json"]) not in on:
            continue
        key = str(row["trial_key"])
        files = tuple(path for name in artifact_names(row) if (path := storage.fetch(name)) is not None)
        known = None if ledger is None else ledger.get(key)
        curve = [] if known is None else known.curves
        digest = content_key("files", row["artifact_digest"], [path.name for path in files], len(curve))
        found.append(Attachment(key, files, curve, digest))
    return found


@contextlib.contextmanager
def curve_file(curve: Sequence[Mapping[str, Any]]) -> Iterator[list[Path]]:
    """A table of a fit's reports, while it is needed; none where there are no reports."""
    if not curve:
        yield []
        return
    names = list(dict.fromkeys(name for report in curve for name in report))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / CURVE
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names)
            writer.writeheader()
            writer.writerows(curve)
        yield [path]


def log_file(client: Any, run_id: str, location: str, file: Path, beside: Path | None) -> None:
    """Give a run a file.

    Args:
        client: of MLflow.
        run_id: of the run.
        location: where MLflow says that the run's files are.
        file: on this machine.
        beside: the folder that a server of the database has for ``mlflow-artifacts:``; None where MLflow is no database.
    """
    place = urlsplit(location)
    if beside is None or place.scheme != "mlflow-artifacts":
        client.log_artifact(run_id, str(file))
    else:  # there is no server that would take it
        LocalArtifactRepository(str(beside / unquote(place.path).strip("/"))).log_artifact(str(file))
