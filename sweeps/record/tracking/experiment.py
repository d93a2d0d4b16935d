"""The MLflow experiment of a sweep: its kind, its description, what its page shows, and where that page is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from quantizers.errors import InputError
from sweeps.record.tracking.mlflow_internals import KIND, has_view, page_address, view_tags


def open_experiment(client: Any, sweep: str, objectives: Sequence[str], *, local: bool) -> str:
    """Id of the sweep's experiment, which is made where there is none; what a person has written there stays.

    Args:
        client: of MLflow.
        sweep: its name.
        objectives: what the runs page shows beside the sizes.
        local: whether MLflow is a database on this machine.
    """
    experiment, tags = client.get_experiment_by_name(sweep), {}
    if experiment is None:
        # Beside the database, wherever that is: a folder that is moved takes its files along.
        number = str(client.create_experiment(sweep, artifact_location=f"mlflow-artifacts:/{sweep}" if local else None))
    else:
        number, tags = str(experiment.experiment_id), experiment.tags
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(number)
    note = f"A run is a trial: one quantizer, configured for one size. **{sweep} summary** holds the report."
    wanted = {KIND[0]: KIND[1], "mlflow.note.content": note} | ({} if has_view(tags) else view_tags(objectives))
    _tag(client, number, {name: value for name, value in wanted.items() if name not in tags})
    return number


def show(client: Any, number: str, objectives: Sequence[str], varying: Sequence[str]) -> None:
    """Have the experiment's page show these metrics and parameters."""
    tags, views = client.get_experiment(number).tags, view_tags(objectives, varying)
    _tag(client, number, {name: value for name, value in views.items() if tags.get(name) != value})


def _tag(client: Any, number: str, tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        client.set_experiment_tag(number, name, value)


def page_addresses(uri: str, server: str) -> list[tuple[str, str]]:
    """Each sweep in a tracking database, with the address of its runs page on ``server``.

    Raises:
        InputError: nothing that MLflow knows answers at ``uri``.
    """
    try:
        experiments = MlflowClient(uri).search_experiments(order_by=["last_update_time DESC"], max_results=50)
    except MlflowException as error:
        raise InputError(f"{uri}: no MLflow records there ({' '.join(str(error).split())[:200]}).") from None
    return [(one.name, page_address(server, one.experiment_id)) for one in experiments if has_view(one.tags)]
