"""What is used of Ray beyond its documented interface, each in one place; ``tests/sweeps/test_ray_internals.py`` watches it.

Needs Ray 2.60:

- ``Trial.temporary_state.ray_actor``: the actor that runs a trial, to kill a worker that hangs.
- ``_trial_to_actor`` and ``_actor_manager.is_actor_started`` of Tune's controller: whether a trial's worker is on its way.
- ``Trial.pickled_error_file``: where Tune keeps the exception that ended a trial.
- the texts of ``ActorDiedError``: "exit detail: ...", "running low on memory", "node has died". Nothing else tells a lack of
  memory, or a node that is gone, from a process that crashed.
- ``metric_analysis``, ``metric_n_steps``, ``last_result`` of ``Trial.run_metadata``, ``Trial.evaluated_params``, and
  ``Trial.get_json_state``: what Tune keeps of every number that a trial reported, and what it writes of each trial into a
  snapshot at the end.
- ``ray.air._internal.usage.tag_callbacks``: imports MLflow, Comet and Weights & Biases to count whose callbacks a sweep has.
- ``ray_constants.ENABLE_RAY_CLUSTER``: a Ray that is started while it is False has 127.0.0.1 as its address, and listens
  there alone. ``_node_ip_address="127.0.0.1"`` does not do it: Ray puts an address that others reach in its place.
- ``ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER`` and ``ray._private.utils.set_sigterm_handler``: how Ray takes SIGTERM.
- ``ray._private.worker._global_node.kill_all_processes``: how ``ray.shutdown`` ends the processes that ``ray.init`` started.
- ``_global_node.dead_processes()``: which of those have ended.
- ``Searcher.FINISHED`` and that a scheduler's ``on_trial_result`` is called with a trial's last report.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
import ray.cloudpickle
from ray._private import ray_constants, utils
from ray.air._internal import usage
from ray.exceptions import RayActorError


@dataclasses.dataclass(frozen=True)
class Loss:
    """Why a trial's worker is gone.

    Attributes:
        reason: for the trial's row.
        again: whether another run may go better.
        memory: whether it was ended for want of memory, so that it should then run alone.
    """

    reason: str
    again: bool = False
    memory: bool = False


class RayLostError(BaseException):
    """Ray has died: what was running will never report, and what waits will never start."""


def kill_worker(trial: Any) -> None:
    """End the process that runs ``trial``, wherever it is. It may hang in a library that never comes back to Python."""
    actor = trial.temporary_state.ray_actor
    if actor is not None:
        ray.kill(actor)


def is_starting(tune_controller: Any, trial: Any) -> bool:
    """Whether the worker that was asked for a waiting trial has its resources and is starting."""
    controller = tune_controller._tune_controller  # a scheduler is given a wrapper
    actor = controller._trial_to_actor.get(trial)
    return actor is not None and bool(controller._actor_manager.is_actor_started(actor))


@contextlib.contextmanager
def on_loopback() -> Iterator[None]:
    """Within this, a Ray that is started listens on loopback only."""
    with _set(ray_constants, "ENABLE_RAY_CLUSTER", False):
        yield


@contextlib.contextmanager
def no_signal_handlers() -> Iterator[None]:
    """Within this, ``ray.init`` leaves this process's handlers of signals as they are.

    Its own print a stack on SIGTERM, and exit.
    """
    with (
        _set(ray_constants, "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", True),
        _set(utils, "set_sigterm_handler", lambda handler: None),
    ):
        yield


@contextlib.contextmanager
def no_good_byes() -> Iterator[None]:
    """Within this, ``ray.shutdown`` kills Ray's processes on this machine instead of asking each, and waiting a second."""
    node = ray._private.worker._global_node
    if node is None:  # it did not start
        yield
        return
    kill = node.kill_all_processes
    with _set(node, "kill_all_processes", lambda **options: kill(**{**options, "allow_graceful": False})):
        yield


def has_died() -> bool:
    """Whether the Ray that this process has started is dead. It costs some microseconds.

    It is to be seen before Ray sees it: the next use of its object store would end this process at once, without a word.
    """
    node = ray._private.worker._global_node
    return node is not None and any(kind in ("raylet", "gcs_server") for kind, _ in node.dead_processes())


def is_alive_here() -> bool:
    """Whether Ray takes the machine that this process is on for alive; so it counts where Ray does not list it."""
    here = ray.get_runtime_context().get_node_id()
    return all(node["Alive"] for node in ray.nodes() if node["NodeID"] == here)


def kill_own() -> None:
    """Kill what is left of the Ray that this process has started. ``ray.shutdown`` would wait without end for what hangs."""
    node = ray._private.worker._global_node
    if node is not None:
        node.kill_all_processes(check_alive=False, allow_graceful=False)


@contextlib.contextmanager
def _set(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def count_no_callbacks() -> None:
    """Keep Ray's usage statistics, which are off, from importing every library whose callbacks they count."""
    usage.tag_callbacks = lambda callbacks: False


def forget(trial: Any) -> None:
    """Drop what Tune keeps of an ended trial for statistics and snapshots, which nobody reads: 40 kB each."""
    trial.run_metadata.metric_analysis.clear()
    trial.run_metadata.metric_n_steps.clear()
    trial.run_metadata.last_result = {}
    trial.evaluated_params = {}
    trial.get_json_state = _no_state


def _no_state() -> tuple[str, str]:
    return "{}", "{}"


def why_lost(trial: Any) -> Loss:
    """Why the worker of ``trial`` is gone."""
    try:
        error = ray.cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    except Exception:  # not written, or of a class that does not come back
        error = None
    text = " ".join(str(error or trial.get_error() or "").split())
    if error is not None and not isinstance(error, RayActorError):
        return Loss(f"{type(error).__name__}: {text[-500:]}")
    detail = re.search(r"exit detail: (.*?)(?: Some common causes|$)", text)
    told = detail[1] if detail else text[:500]
    if "running low on memory" in text:
        return Loss(f"out of memory: Ray ended its worker: {told}", again=True, memory=True)
    if "node has died" in text:
        return Loss(f"worker lost: its node is gone: {told}", again=True)
    return Loss(f"worker lost: {told}", again=True)
