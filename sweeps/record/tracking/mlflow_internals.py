"""What is used of MLflow beyond its documented interface: saved views, colours of runs, one transaction for many runs.

MLflow's own "save view" writes the state of the runs page as JSON into a tag of the experiment, and the page reads it
back where its address names it. "Change colour" writes a tag of the run. Neither is documented. As of MLflow 3.17:

* the prefix of the tag, ``mlflow.sharedViewState.``, its envelope (``name``, ``createdAt``, ``updatedAt``, ``state``), and
  the page's parameter ``viewStateShareKey``;
* the keys of the state that :func:`_state` writes: the page takes all of them or shows its defaults;
* the address of the page, ``#/experiments/ID/runs``, with ``workflowType`` and ``compareRunsMode`` behind the hash;
* the tag ``mlflow.runColor`` of a run;
* ``ManagedSessionMaker`` of the store that a client of a database has (:func:`in_one_transaction`).

Should a version no longer know them, the page shows names and times only, each run is written by itself, and nothing else
is lost. A test looks for these words in the pages of the MLflow that is installed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeps.record.tracking.records import SIZE

VERSIONS = ">=3.17,<3.18"  # looked at in these
TAG_PREFIX = "mlflow.sharedViewState."
PARAMETER = "viewStateShareKey"
KIND = ("mlflow.experimentKind", "custom_model_development")  # training, not an application of language models
COLOUR = "mlflow.runColor"
_VIEWS = {  # what is in the page's address: (name in the list of views, filter of the runs)
    "frontier": ("Size against quality", "tags.role = 'trial'"),
    "on-frontier": ("Only the frontier", "tags.frontier = 'true'"),
}
_OPENS = "frontier"
_QUALITY, _PARAMETERS = "frontier", "frontier-parameters"  # sections of the page


def last_migration() -> str:
    """Name of the migration with which a new database is complete (the row of ``alembic_version``)."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def view_tags(objectives: Sequence[str], varying: Sequence[str] = ()) -> dict[str, str]:
    """The experiment's tags that hold its views, by name.

    Args:
        objectives: metrics; the size, ``payload_bytes``, is the axis of all charts.
        varying: parameters that all measured runs have, with different values: axes of the parallel coordinates.
    """
    return {
        TAG_PREFIX + key: json.dumps(
            {"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(_state(objectives, varying, search))}
        )
        for key, (name, search) in _VIEWS.items()
    }


def has_view(tags: Mapping[str, str]) -> bool:
    """Whether an experiment with these tags has the views, and so is a sweep's."""
    return TAG_PREFIX + _OPENS in tags


def page_address(server: str, experiment_id: str) -> str:
    """Address of an experiment's runs page with its charts; ``server`` without a slash at its end."""
    said = f"workflowType=machine_learning&compareRunsMode=CHART&{PARAMETER}={_OPENS}"
    return f"{server}/#/experiments/{experiment_id}/runs?{said}"


@contextlib.contextmanager
def in_one_transaction(client: Any) -> Iterator[None]:
    """What ``client`` writes into its database meanwhile is there as a whole, or not at all; on a server nothing changes.

    MLflow commits up to seven times for each run, and a commit waits for the disk.

    Raises:
        MlflowException: what was written cannot be; nothing of it was.
    """
    store = client._tracking_client.store
    ordinary = getattr(store, "ManagedSessionMaker", None)
    if ordinary is None:
        yield
        return

    def give_up() -> None:
        raise RuntimeError("MLflow would undo a part of the transaction")

    with ordinary(read_only=False) as session:
        store.ManagedSessionMaker = lambda read_only=True: contextlib.nullcontext(session)
        session.commit, session.rollback = session.flush, give_up
        try:
            yield
        finally:
            del session.commit, session.rollback
            store.ManagedSessionMaker = ordinary


def _state(objectives: Sequence[str], varying: Sequence[str], search: str) -> dict[str, Any]:
    """State of MLflow's runs page: trials by size, their sizes and metrics as columns, and a chart for each metric.

    Without it the page shows names and times only, and the reader has to pick columns and charts by hand.
    """
    metrics = [name for name in objectives if name != "payload_bytes"]
    columns = ["params.`quantizer`", "params.`seed`", "metrics.`payload_bytes`", "metrics.`compression_ratio`"]
    chart = {"deleted": False, "isGenerated": False, "runsCountToCompare": 1000}
    charts: list[dict[str, Any]] = [
        {
            **chart,
            "uuid": f"frontier-{number}",
            "metricSectionId": _QUALITY,
            "type": "SCATTER",
            "xaxis": {"key": SIZE, "type": "METRIC"},
            "yaxis": {"key": name, "type": "METRIC"},
        }
        for number, name in enumerate(metrics)
    ]
    charts.append(
        {
            **chart,
            "uuid": "frontier-parallel",
            "metricSectionId": _PARAMETERS,
            "type": "PARALLEL",
            "selectedParams": ["quantizer", *varying],
            "selectedMetrics": [SIZE, *metrics],
            "showAllRuns": False,
        }
    )
    section = {"display": True, "isReordered": True}
    return {
        "searchFilter": search,
        "orderByKey": "metrics.`payload_bytes`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": columns + [f"metrics.`{name}`" for name in metrics],
        "runsHidden": [],
        "runsHiddenMode": "SHOWALL",
        "runsPinned": [],
        "runsExpanded": {},
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,  # else the sections come by name
        "useGroupedValuesInCharts": False,
        "hideEmptyCharts": True,
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "param", "groupByData": "quantizer"}]},
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {},
        "compareRunSections": [
            {**section, "uuid": _QUALITY, "name": "Size against quality", "columns": 2},
            {**section, "uuid": _PARAMETERS, "name": "Parameters", "columns": 1},
        ],
        "compareRunCharts": charts,
    }
