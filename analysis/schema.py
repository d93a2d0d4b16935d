"""Columns of the Parquet files that a sweep writes, and the check that rows keep to them.

Columns may be added in a later version (SCHEMA_VERSION is then raised); they are never renamed or given another meaning.
``MB`` is 10^6 bytes; times are seconds; sizes are bytes.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from quantizers.errors import unknown_name

SCHEMA_VERSION = 5
DIGESTS_SINCE = 4  # the version from which on every file holds a digest of itself
INTERVALS_SINCE = 5  # the version from which on intervals keep to their metric's bounds, and there are none of two seeds
STATUSES = ("ok", "failed", "skipped", "infeasible", "stopped")
# Why a sweep ended whose other trials are still to come, and the reason in their rows.
INTERRUPTED = "interrupted"  # a person has ended it
TERMINATED = "terminated"  # the machine has, by SIGTERM
RAY_LOST = "Ray died"  # its processes ended, or it took its own node for gone
UNFINISHED = (INTERRUPTED, TERMINATED, RAY_LOST)
FileName = Literal["trials", "scores", "frontier"]

_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()

TRIALS = pa.schema(
    [
        ("schema_version", _WHOLE),
        ("trial_key", _TEXT),  # content key: the same trial has the same key in every sweep
        ("sweep", _TEXT),
        ("table", _TEXT),
        ("table_digest", _TEXT),
        ("task_scope", _TEXT),  # "whole table", or the task whose vocabulary the table is
        ("quantizer", _TEXT),
        ("config_json", _TEXT),
        ("resolved_json", _TEXT),  # config_json with the values that the fit gave to parameters left open: none is null
        ("tasks_json", _TEXT),  # settings of every task, by its label
        ("regime", _TEXT),
        ("retrain", _TEXT),  # JSON: what was trained further after compression; null where nothing was
        ("weights", _TEXT),
        ("fit_metric", _TEXT),  # what the fit measured errors in
        ("budget_bytes", _WHOLE),  # null for baselines and explicit configurations
        ("seed", _WHOLE),
        ("status", _TEXT),  # one of STATUSES
        ("reason", _TEXT),
        ("reused", _FLAG),
        ("num_embeddings", _WHOLE),  # of the first role's table, where there are several
        ("embedding_dim", _WHOLE),
        ("oov_words", _WHOLE),
        ("code_bytes", _WHOLE),
        ("codebook_bytes", _WHOLE),
        ("side_bytes", _WHOLE),
        ("payload_bytes", _WHOLE),  # code + codebook + side: all that rebuilds the table, apart from the words
        ("predicted_payload_bytes", _WHOLE),
        ("vocab_bytes", _WHOLE),
        ("file_bytes", _WHOLE),
        ("compression_ratio", _REAL),  # dense_bytes / payload_bytes
        ("bits_per_value", _REAL),
        ("mse", _REAL),  # per value
        ("half_mse", _REAL),  # half the squared error of a row
        ("nmse", _REAL),  # of the column-centred variance
        ("weighted_mse", _REAL),
        ("cosine", _REAL),
        ("sqnr_db", _REAL),  # infinite where nothing was lost
        ("max_abs_error", _REAL),
        ("fit_key", _TEXT),
        ("shared_fit", _FLAG),
        ("fit_seconds", _REAL),
        ("encode_seconds", _REAL),
        ("train_seconds", _REAL),  # of a task's training with the compressed table
        ("decode_rows_per_second", _REAL),
        ("peak_memory_bytes", _WHOLE),
        ("device", _TEXT),
        ("node", _TEXT),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("code_digest", _TEXT),
        ("versions", _TEXT),  # JSON
        ("mlflow_run_id", _TEXT),
        ("artifact_digest", _TEXT),  # of several tables' files: a digest of theirs
        ("dense_bytes", _WHOLE),  # of all uncompressed tables; in older files null, and then 4 * N * D
        ("roles", _TEXT),  # JSON by role, the first first: shape, bytes, errors, digest; null where there is one table
        ("book_counts", _TEXT),  # JSON: rows in each code-book, and how many are opinion words; null where there is one
    ]
)

SCORES = pa.schema(
    [
        ("trial_key", _TEXT),
        ("role", _TEXT),  # the table that was scored; "input+output" where the score is of several
        ("task", _TEXT),
        ("task_version", _WHOLE),
        ("metric", _TEXT),
        ("direction", _TEXT),  # "min" or "max"
        ("value", _REAL),
        ("baseline", _REAL),  # the same metric with the uncompressed table
        ("num_examples", _WHOLE),
    ]
)

FRONTIER = pa.schema(
    [
        ("sweep", _TEXT),
        ("table", _TEXT),
        ("table_digest", _TEXT),
        ("task_scope", _TEXT),
        ("quantizer", _TEXT),
        ("config_json", _TEXT),
        ("regime", _TEXT),
        ("retrain", _TEXT),
        ("weights", _TEXT),
        ("fit_metric", _TEXT),  # what the fit measured errors in
        ("budget_bytes", _WHOLE),
        ("role", _TEXT),
        ("task", _TEXT),
        ("metric", _TEXT),
        ("direction", _TEXT),
        ("compression_ratio", _REAL),  # of the mean payload
        ("payload_bytes_mean", _REAL),
        ("payload_bytes_low", _REAL),  # 95 % interval over seeds; null with one or two, or where all agree
        ("payload_bytes_high", _REAL),
        ("value_mean", _REAL),
        ("value_low", _REAL),
        ("value_high", _REAL),
        ("value_lowest", _REAL),  # of all seeds; equal to value_highest where the value does not vary with the seed
        ("value_highest", _REAL),
        ("baseline", _REAL),  # mean over seeds
        ("num_seeds", _WHOLE),
        ("front_rank", _WHOLE),  # 1 is the frontier; null where the value is not a number
        ("on_frontier", _FLAG),
        ("frontier_probability", _REAL),  # share of the bootstraps over seeds; null where nothing was repeated
        ("hypervolume_contribution", _REAL),  # in bytes x metric, against the reference point of the metadata
    ]
)

SCHEMAS: dict[FileName, pa.Schema] = {"trials": TRIALS, "scores": SCORES, "frontier": FRONTIER}


def to_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table with exactly the columns of ``schema``.

    Args:
        rows: values by column name; what a row lacks becomes null (``schema_version`` becomes the current one). A time
            may be ISO 8601 text, as it is after a round trip through JSON.
        schema: one of TRIALS, SCORES, FRONTIER.

    Raises:
        ValueError: a row has a column that the schema lacks, or a value of another type; the message names it.
    """
    unknown = set().union(*(row.keys() for row in rows)) - set(schema.names) if rows else set()
    if unknown:
        raise unknown_name("column", min(unknown), schema.names)
    columns = []
    for field in schema:
        default = SCHEMA_VERSION if field.name == "schema_version" else None
        values = [row.get(field.name, default) for row in rows]
        try:
            if pa.types.is_timestamp(field.type):
                values = [datetime.datetime.fromisoformat(v) if isinstance(v, str) else v for v in values]
            columns.append(pa.array(values, type=field.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, ValueError) as error:
            raise ValueError(f"Column {field.name!r} takes {field.type}: {error}.") from None
    return pa.Table.from_arrays(columns, schema=schema)


# What must be there, whoever wrote the file.
_NEEDED: dict[FileName, tuple[str, ...]] = {
    "trials": ("trial_key", "quantizer", "status"),
    "scores": ("trial_key", "task", "metric"),
    "frontier": (
        "quantizer",
        "config_json",
        "task",
        "metric",
        "direction",
        "payload_bytes_mean",
        "num_seeds",
        "on_frontier",
    ),
}
_CHOICES: dict[str, tuple[str, ...]] = {"status": STATUSES, "direction": ("min", "max")}
_JSON = ("config_json", "resolved_json", "tasks_json", "retrain", "versions", "roles", "book_counts")
_LEAST = {"payload_bytes": 1, "num_embeddings": 1, "embedding_dim": 1, "dense_bytes": 1, "budget_bytes": 0, "num_seeds": 1}
_LEAST |= {"payload_bytes_mean": 1}
_PYTHON = {_TEXT: str, _WHOLE: int, _REAL: int | float, _FLAG: bool, pa.timestamp("us", tz="UTC"): str}
_TYPES = {name: {field.name: _PYTHON[field.type] for field in schema} for name, schema in SCHEMAS.items()}


def check_content(table: pa.Table, name: FileName) -> None:
    """Check what the types of the columns leave open.

    Raises:
        ValueError: a value is missing, or is not what its column holds; the message names the column.
    """
    for column in _NEEDED[name]:
        if table[column].null_count:
            raise ValueError(f"column {column!r} has rows without a value")
    needed = {"trials": ("payload_bytes",), "frontier": ("value_mean",), "scores": ()}[name]
    chosen = table.filter(pc.equal(table["status"], "ok") if name == "trials" else table["on_frontier"]) if needed else table
    for column in needed:
        if chosen[column].null_count:
            raise ValueError(f"column {column!r} lacks values of what was measured")
    for column in table.schema.names:
        if column in _LEAST:
            least = pc.min(table[column]).as_py()
            if least is not None and least < _LEAST[column]:
                raise ValueError(f"column {column!r} cannot be {least}")
        if column in _CHOICES or column in _JSON:
            for value in table[column].unique().to_pylist():
                _check_value(column, value)


def check_row(row: Any, name: FileName) -> None:
    """Check a row that was read from JSON; a time is ISO 8601 text there.

    Raises:
        ValueError: it is no row of the file ``name``; the message says why.
    """
    types = _TYPES[name]
    if not isinstance(row, dict):
        raise ValueError("a row is not an object")
    for column, value in row.items():
        if column not in types:
            raise ValueError(f"unknown column {str(column)[:80]!r}")
        if value is None:
            continue
        fits = isinstance(value, types[column]) and (types[column] is bool) == isinstance(value, bool)
        if not fits or (isinstance(value, int) and not -(2**63) <= value < 2**63):
            raise ValueError(f"column {column!r} cannot be {str(value)[:80]!r}")
        if column in _CHOICES or column in _JSON:
            _check_value(column, value)
        elif column == "started_at":
            datetime.datetime.fromisoformat(value)


def _check_value(column: str, value: str | None) -> None:
    fits = value is None or (value in _CHOICES[column] if column in _CHOICES else _is_json(value))
    if not fits:
        raise ValueError(f"column {column!r} cannot be {str(value)[:80]!r}")


def _is_json(text: str) -> bool:
    """Whether ``text`` is a JSON object, or a list, as ``book_counts`` may be."""
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
