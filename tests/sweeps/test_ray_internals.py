"""What is used of Ray beyond its documented interface is still there; :mod:`sweeps.tune.ray_internals` says what for."""

import inspect
import re
from importlib import metadata
from pathlib import Path

import ray.tune.execution.tune_controller as tune_controller
import ray.tune.tune
from ray.air._internal import usage
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from sweeps.tune.ray_internals import forget

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
USED = (
    "temporary_state",
    "pickled_error_file",
    "ActorDiedError",
    "run_metadata",
    "get_json_state",
    "tag_callbacks",
    "_trial_to_actor",
)


def test_ray_is_of_the_version_that_these_were_seen_in() -> None:
    assert metadata.version("ray").startswith("2.60."), (
        "run the tests of lost workers, then raise the range in pyproject.toml"
    )
    assert "ray[default,tune]>=2.60,<2.61" in PROJECT.read_text()


def test_a_trial_has_its_actor_and_the_file_of_its_error() -> None:
    trial = Trial("function", stub=True)
    assert hasattr(trial.temporary_state, "ray_actor")
    assert "pickled_error_file" in dir(trial)


def test_an_ended_trial_keeps_no_statistics_and_no_snapshot() -> None:
    trial = Trial("function", stub=True)
    trial.update_last_result({"loss": 1.0, "trial_id": "a", "fraction": 0.5})
    assert hasattr(trial, "evaluated_params")
    assert trial.metric_analysis and trial.metric_n_steps and len(trial.get_json_state()[1]) > 500
    forget(trial)
    assert not trial.metric_analysis and not trial.metric_n_steps
    assert trial.get_json_state() == ("{}", "{}")
    source = inspect.getsource(tune_controller.TuneController._get_trial_checkpoints)
    assert "trial.get_json_state()" in source


def test_ray_counts_callbacks_where_it_is_kept_from_it() -> None:
    assert "air_usage.tag_callbacks(callbacks)" in inspect.getsource(ray.tune.tune.run)
    assert ray.tune.tune.air_usage is usage and hasattr(usage, "tag_callbacks")


def test_the_last_report_goes_to_the_scheduler_before_the_callbacks() -> None:
    source = inspect.getsource(tune_controller.TuneController._process_trial_result)
    assert source.index("_scheduler_alg.on_trial_result") < source.index("_callbacks.on_trial_result")
    assert Searcher.FINISHED == "FINISHED" and TrialScheduler.STOP == "STOP"
    assert hasattr(tune_controller.TuneController, "update_max_pending_trials")


def test_the_controller_knows_which_worker_is_on_its_way() -> None:
    source = inspect.getsource(tune_controller)
    assert "self._trial_to_actor: Dict[Trial, TrackedActor] = {}" in source and "self._actor_manager = " in source
    assert hasattr(RayActorManager, "is_actor_started")
    reuse = inspect.getsource(tune_controller.TuneController._maybe_reuse_cached_actor)
    assert "original_actor = self._trial_to_actor.pop(trial)" in reuse, "it is still given up"


def test_nobody_else_uses_them() -> None:
    for path in (Path(__file__).parents[2] / "sweeps").rglob("*.py"):
        if path.name != "ray_internals.py":
            used = re.findall("|".join(USED), path.read_text(encoding="utf-8"))
            assert not used, f"{path} uses {used}: that belongs into sweeps/tune/ray_internals.py"
