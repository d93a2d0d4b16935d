"""Reads and writes the files of a run directory: atomically, with a schema version, with clear errors.

The Parquet files carry the metadata entry ``embedding_frontier``: a JSON object with ``schema_version`` and what the
writer added. ``run.json`` says what was run, and where.

Each file holds a digest of all its other bytes: pages' checksums would leave the footer unguarded, where the reference point
stands. In a Parquet file it is the metadata entry ``embedding_frontier.digest``, taken with zeros in its place.
"""

from __future__ import annotations

import datetime
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from analysis.layout import RUN_FILE, SWEEP_FILE, TRIALS_FILE
from analysis.schema import DIGESTS_SINCE, SCHEMA_VERSION, SCHEMAS, FileName, check_content, to_table
from quantizers.errors import InputError
from quantizers.files import ALTERED, digest_of, is_altered, sealed_json, unsealed_json, write_bytes

_LOG = logging.getLogger(__name__)
_KEY = b"embedding_frontier"
_DIGEST_KEY = "embedding_frontier.digest"
_NO_DIGEST = b"0" * 32
# As Thrift's compact protocol writes a key and its value: the value is field 1 further, text, of 32 bytes.
_SEAL = re.compile(re.escape(_DIGEST_KEY.encode()) + rb"\x18\x20([0-9a-f]{32})")


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
    path = Path(run_dir) / f"{name}.parquet"
    write_bytes(path, _sealed(with_metadata(table, metadata or {})))
    return path


def _sealed(table: pa.Table) -> bytes:
    """The bytes of a Parquet file that holds its own digest."""
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_DIGEST_KEY: _NO_DIGEST.decode()})
    content: bytes = buffer.getvalue().to_pybytes()
    start = content.rindex(_DIGEST_KEY.encode()) + len(_DIGEST_KEY) + 2
    return content[:start] + digest_of(content).encode() + content[start + len(_NO_DIGEST) :]


def _is_sealed(content: bytes) -> bool:
    """Whether a Parquet file holds its digest. Raises ValueError where it holds another."""
    found = _SEAL.search(content, max(0, content.rfind(_DIGEST_KEY.encode())))  # the last: it is in the footer
    if found is None:
        return False
    view = memoryview(content)
    if digest_of(view[: found.start(1)], _NO_DIGEST, view[found.end(1) :]) != found[1].decode():
        raise ValueError(ALTERED)
    return True


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
        raise InputError(_missing(path))
    try:
        content = path.read_bytes()
        sealed = _is_sealed(content)
        table = pq.read_table(pa.BufferReader(content))
        metadata = metadata_of(table)
        version = metadata.get("schema_version") or _column_version(table) or SCHEMA_VERSION
        if not isinstance(version, int):
            raise ValueError("its schema version is not a number")
        if DIGESTS_SINCE <= version <= SCHEMA_VERSION and not sealed and metadata:
            raise ValueError("its digest is missing")
    except (pa.ArrowException, OSError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: not a complete Parquet file ({_first_line(error)}); {_anew(run_dir)}") from None
    if version > SCHEMA_VERSION:
        raise InputError(
            f"{path}: schema version {version} is newer than this program reads ({SCHEMA_VERSION}); use a newer program."
        )
    schema = SCHEMAS[name]
    if not set(table.schema.names) & set(schema.names):
        raise InputError(f"{path}: has none of the columns of a {name} file; {_anew(run_dir)}")
    columns = []
    for field in schema:
        if field.name not in table.schema.names:  # added after the file was written
            columns.append(pa.nulls(table.num_rows, field.type))
            continue
        try:
            columns.append(table[field.name].cast(field.type))
        except KeyError:
            raise InputError(f"{path}: has two columns {field.name!r}; {_anew(run_dir)}") from None
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{path}: column {field.name!r} must be {field.type} ({_first_line(error)}).") from None
    found = pa.Table.from_arrays(columns, schema=schema).replace_schema_metadata(table.schema.metadata)
    try:
        check_content(found, name)
    except ValueError as error:
        raise InputError(f"{path}: {error}; {_anew(run_dir)}") from None
    return found


def _missing(path: Path) -> str:
    """What to say of a file that is not there."""
    run_dir = path.parent
    if (run_dir / SWEEP_FILE).is_file():
        return (
            f"{path}: no such file. A sweep writes it once its first trial has ended: see frontier status {run_dir}, or "
            f"continue the sweep with frontier resume {run_dir}"
        )
    return f"{path}: no such file. `frontier run` writes it. Is {run_dir} the folder of a run?"


def _anew(run_dir: Path) -> str:
    return f"rewrite it with: frontier resume {run_dir}"


def _column_version(table: pa.Table) -> int | None:
    if "schema_version" not in table.schema.names:
        return None
    return max((v for v in table["schema_version"].unique().to_pylist() if v is not None), default=None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0].rstrip(".")


def _iso(value: str) -> str:
    datetime.datetime.fromisoformat(value)
    return value


_Time = Annotated[str, AfterValidator(_iso)]


class _Facts(BaseModel):
    """What readers of ``run.json`` rely on; there may be more."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _TableFacts(_Facts):
    name: str
    digest: str
    num_embeddings: int = Field(ge=1)
    embedding_dim: int = Field(ge=1)
    eigenvalues: list[float] = []


class _Machine(_Facts):
    cpu: str
    cores: int
    memory_bytes: int
    platform: str
    gpus: list[str] = []


class _MetricFacts(_Facts):
    direction: Literal["min", "max"]
    unit: str | None = None
    description: str | None = None


_MISSING: Any = None  # of what may be missing, and not null


class _RunFile(_Facts):
    name: str | None = None
    interrupted: bool = False
    objectives: list[str] = []
    metrics: dict[str, _MetricFacts] = {}
    table: _TableFacts = _MISSING
    machine: _Machine = _MISSING
    versions: dict[str, Any] = {}
    command: str | None = None
    started_at: _Time | None = None
    finished_at: _Time | None = None
    trial_seconds: float | None = None
    stop_reason: str | None = None
    planned: int | None = None


def write_run(run_dir: str | Path, run: Mapping[str, Any]) -> Path:
    """Write ``run.json``, atomically. Raises InputError where it cannot be written."""
    path = Path(run_dir) / RUN_FILE
    write_bytes(path, sealed_json(run, indent=2))
    return path


def read_run(run_dir: str | Path) -> dict[str, Any]:
    """``run.json``: name, command, times, table, machine, versions, metrics with directions, objectives.

    Raises:
        InputError: the file is missing or damaged.
    """
    path = Path(run_dir) / RUN_FILE
    try:
        run = unsealed_json(path.read_bytes())
        _RunFile.model_validate(run)
    except FileNotFoundError:
        raise InputError(_missing(path)) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: damaged: {where}: {first['msg']}; {_anew(Path(run_dir))}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as JSON ({_first_line(error)}); {_anew(Path(run_dir))}") from None
    return run


def has_ended(run_dir: str | Path) -> bool:
    """Whether the run's files are those of its end: not missing yet, and no snapshot of a sweep under way.

    Raises:
        InputError: ``run.json`` is damaged.
    """
    folder = Path(run_dir)
    if not (folder / TRIALS_FILE).is_file():
        return False
    return not (folder / RUN_FILE).is_file() or not is_snapshot(read_run(folder))


def is_snapshot(run: Mapping[str, Any]) -> bool:
    """Whether ``run`` (``run.json``) was written while its sweep was under way."""
    return run.get("finished_at", "") is None


def read_sweep(run_dir: str | Path) -> str:
    """The text of ``sweep.yaml``; empty where there is none. People may edit it: that is told, and no error.

    Raises:
        InputError: it is no text.
    """
    path = Path(run_dir) / SWEEP_FILE
    if not path.is_file():
        return ""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a text file ({_first_line(error)}); delete it, and rewrite it with: frontier resume {run_dir}"
        ) from None
    if is_altered(content):
        _LOG.warning(
            "%s: changed since the run wrote it. If nobody has edited it, it is damaged: delete it, and rewrite it with: "
            "frontier resume %s",
            path,
            run_dir,
        )
    return text


def sweep_keys(run_dir: str | Path) -> dict[str, Any]:
    """The keys of ``sweep.yaml``; none where there is no such file. Raises InputError where it is no YAML mapping."""
    try:
        keys = yaml.safe_load(read_sweep(run_dir))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{Path(run_dir) / SWEEP_FILE}: not valid YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(keys, dict | None):
        raise InputError(f"{Path(run_dir) / SWEEP_FILE}: expected a mapping of keys to values.")
    return keys or {}
