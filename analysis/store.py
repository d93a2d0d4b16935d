"""Reads and writes the files of a run directory: atomically, with a schema version, with clear errors.

The Parquet files carry one metadata entry, ``embedding_frontier``: a JSON object with ``schema_version`` and what the
writer added. ``run.json`` says what was run, and where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from analysis.layout import RUN_FILE
from analysis.schema import SCHEMA_VERSION, SCHEMAS, FileName, to_table
from quantizers.errors import InputError
from quantizers.files import write_bytes

_KEY = b"embedding_frontier"


def write(
    run_dir: str | Path,
    name: FileName,
    rows: pa.Table | Sequence[Mapping[str, Any]],
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``<run_dir>/<name>.parquet``, atomically.

    Args:
        run_dir: the run directory; it must exist.
        name: "trials", "scores" or "frontier".
        rows: rows by column name, or a table of the file's schema.
        metadata: what goes into the file's metadata beside the schema version (must be JSON). None: what the table carries.

    Returns:
        The file's path.

    Raises:
        InputError: the file cannot be written.
        ValueError: the rows do not fit the schema.
    """
    schema = SCHEMAS[name]
    if isinstance(rows, pa.Table):
        table = rows
        if table.schema.names != schema.names:
            raise ValueError(f"{name}: the columns must be {schema.names}, not {table.schema.names}")
        metadata = metadata_of(table) if metadata is None else metadata
    else:
        table = to_table(rows, schema)
    buffer = pa.BufferOutputStream()
    pq.write_table(with_metadata(table, metadata or {}), buffer, compression="zstd")
    path = Path(run_dir) / f"{name}.parquet"
    write_bytes(path, buffer.getvalue())
    return path


def with_metadata(table: pa.Table, metadata: Mapping[str, Any]) -> pa.Table:
    """The same table, carrying ``metadata`` and the schema version."""
    text = json.dumps({**metadata, "schema_version": SCHEMA_VERSION}, sort_keys=True)
    return table.replace_schema_metadata({_KEY: text.encode()})


def metadata_of(table: pa.Table) -> dict[str, Any]:
    """The metadata that :func:`write` gave a table; empty where there is none."""
    raw = (table.schema.metadata or {}).get(_KEY)
    return dict(json.loads(raw)) if raw else {}


def read_trials(run_dir: str | Path) -> pa.Table:
    """``trials.parquet``: one row per trial. Raises InputError as :func:`read_frontier` does."""
    found = _read(Path(run_dir), "trials")
    # Files of version 2 and older, and trials that did not run, have one table's shape alone.
    one_table = pc.multiply(4, pc.multiply(found["num_embeddings"], found["embedding_dim"]))
    place = found.schema.get_field_index("dense_bytes")
    return found.set_column(place, found.schema.field(place), pc.coalesce(found["dense_bytes"], one_table))


def read_scores(run_dir: str | Path) -> pa.Table:
    """``scores.parquet``: one row per trial, role, task and metric. Raises InputError as :func:`read_frontier` does."""
    return _read(Path(run_dir), "scores")


def read_frontier(run_dir: str | Path) -> pa.Table:
    """``frontier.parquet``: one row per configuration and metric.

    Raises:
        InputError: the file is missing, damaged, or of a newer schema than this program knows.
    """
    return _read(Path(run_dir), "frontier")


def _read(run_dir: Path, name: FileName) -> pa.Table:
    path = run_dir / f"{name}.parquet"
    if not path.is_file():
        raise InputError(f"{path}: no such file. `frontier run` makes it: is {run_dir} the folder of a run?")
    try:
        table = pq.read_table(path)
        metadata = metadata_of(table)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a complete Parquet file ({_first_line(error)}); run the same sweep again to rebuild it."
        ) from None
    version = metadata.get("schema_version") or _column_version(table) or SCHEMA_VERSION
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema version {version} is newer than this program reads ({SCHEMA_VERSION}); use a newer program."
        )
    schema = SCHEMAS[name]
    columns = []
    for field in schema:
        if field.name not in table.schema.names:  # added after the file was written
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table[field.name].cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{path}: column {field.name!r} must be {field.type} ({_first_line(error)}).") from None
    return pa.Table.from_arrays(columns, schema=schema).replace_schema_metadata(table.schema.metadata)


def _column_version(table: pa.Table) -> int | None:
    if "schema_version" not in table.schema.names:
        return None
    return max((v for v in table["schema_version"].unique().to_pylist() if v is not None), default=None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")


def write_run(run_dir: str | Path, run: Mapping[str, Any]) -> Path:
    """Write ``run.json``, atomically. Raises InputError where it cannot be written."""
    path = Path(run_dir) / RUN_FILE
    write_bytes(path, (json.dumps(run, indent=2) + "\n").encode())
    return path


def read_run(run_dir: str | Path) -> dict[str, Any]:
    """``run.json``: name, command, times, table, machine, versions, metrics with directions, objectives.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(run_dir) / RUN_FILE
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file. `frontier run` makes it: is {run_dir} the folder of a run?") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({_first_line(error)}).") from None
    if not isinstance(run, dict):
        raise InputError(f"{path}: expected a JSON object, found a {type(run).__name__}.")
    return run
