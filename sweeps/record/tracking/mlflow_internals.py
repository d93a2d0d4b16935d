"""What is used of MLflow beyond its documented interface: a saved view of the runs page, and what its databases end with.

MLflow's own "share view" writes the state of the runs page as JSON into a tag of the experiment, and the page reads it
back where its address names it. Neither is documented. As of MLflow 3.17 this needs:

* the prefix of the tag, ``mlflow.sharedViewState.``, and the page's parameter ``viewStateShareKey``;
* the keys of the state that :func:`view` writes: the page takes all of them or shows its defaults;
* the address of the page, ``#/experiments/ID/runs``.

Should a version no longer know them, the page shows names and times only, and nothing else is lost. A test looks for
these words in the pages of the MLflow that is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

VERSIONS = ">=3.17,<3.18"  # looked at in these
TAG_PREFIX = "mlflow.sharedViewState."
PARAMETER = "viewStateShareKey"
_NAME = "frontier"  # of the saved view, as it stands in the page's address


def last_migration() -> str:
    """Name of the migration with which a new database is complete (the row of ``alembic_version``)."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def view_tag(objectives: Sequence[str]) -> tuple[str, str]:
    """Name and value of the experiment's tag that holds the view."""
    return TAG_PREFIX + _NAME, json.dumps(view(objectives))


def has_view(tags: Mapping[str, str]) -> bool:
    """Whether an experiment with these tags has the view, and so is a sweep's."""
    return TAG_PREFIX + _NAME in tags


def page_address(server: str, experiment_id: str) -> str:
    """Address of an experiment's runs page with the view; ``server`` without a slash at its end."""
    return f"{server}/?workflowType=machine_learning#/experiments/{experiment_id}/runs?{PARAMETER}={_NAME}"


def view(objectives: Sequence[str]) -> dict[str, Any]:
    """State of MLflow's runs page: trials by size, their sizes and metrics as columns, and a chart for each metric.

    Without it the page shows names and times only, and the reader has to pick columns and charts by hand.
    """
    metrics = [name for name in objectives if name != "payload_bytes"]
    columns = ["params.`quantizer`", "params.`seed`", "metrics.`payload_bytes`", "metrics.`compression_ratio`"]
    charts = [
        {
            "uuid": f"frontier-{number}",
            "type": "SCATTER",
            "metricSectionId": "frontier",
            "deleted": False,
            "isGenerated": False,
            "runsCountToCompare": 1000,
            "xaxis": {"key": "payload_bytes", "type": "METRIC"},
            "yaxis": {"key": name, "type": "METRIC"},
        }
        for number, name in enumerate(metrics)
    ]
    return {
        "searchFilter": "tags.role = 'trial'",
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
        "isAccordionReordered": False,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {},
        "compareRunSections": [
            {"uuid": "frontier", "name": "Size against quality", "display": True, "isReordered": True, "columns": 2}
        ],
        "compareRunCharts": charts,
    }
