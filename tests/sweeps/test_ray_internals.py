"""What is used of Ray beyond its documented interface is still there; :mod:`sweeps.tune.ray_internals` says what for."""

import inspect
import re
from importlib import metadata
from pathlib import Path

import ray.tune.execution.tune_controller as tune_controller
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
USED = ("temporary_state", "pickled_error_file", "ActorDiedError")


def test_ray_is_of_the_version_that_these_were_seen_in() -> None:
    assert metadata.version("ray").startswith("2.60."), (
        "run the tests of lost workers, then raise the range in pyproject.toml"
    )
    assert "ray[default,tune]>=2.60,<2.61" in PROJECT.read_text()


def test_a_trial_has_its_actor_and_the_file_of_its_error() -> None:
    trial = Trial("function", stub=True)
    assert hasattr(trial.temporary_state, "ray_actor")
    assert "pickled_error_file" in dir(trial)


def test_the_last_report_goes_to_the_scheduler_before_the_callbacks() -> None:
    source = inspect.getsource(tune_controller.TuneController._process_trial_result)
    assert source.index("_scheduler_alg.on_trial_result") < source.index("_callbacks.on_trial_result")
    assert Searcher.FINISHED == "FINISHED" and TrialScheduler.STOP == "STOP"
    assert hasattr(tune_controller.TuneController, "update_max_pending_trials")


def test_nobody_else_uses_them() -> None:
    for path in (Path(__file__).parents[2] / "sweeps").rglob("*.py"):
        if path.name != "ray_internals.py":
            used = re.findall("|".join(USED), path.read_text(encoding="utf-8"))
            assert not used, f"{path} uses {used}: that belongs into sweeps/tune/ray_internals.py"
