"""What trials take: shares of GPUs by measured memory, none for methods without work for one, never more than there is."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from quantizers.errors import InputError
from sweeps.record.intake import Intake, Listed
from sweeps.spec.config import Resources, build
from sweeps.tune import worker
from sweeps.tune.queue import Queue
from sweeps.tune.resources import CONTEXT_BYTES, MARGIN, Policy, Share, check_fits
from sweeps.tune.worker import device_of
from trainables.memory import PeakMemory
from trainables.trial import TrialSpec

GB = 10**9


def spec(method: str, seed: int = 0, **config: Any) -> TrialSpec:
    return TrialSpec(method, config, None, seed, "pretrained", "none", "table", "", (), "code")


def test_a_method_is_measured_before_its_trials_share_a_gpu() -> None:
    policy = Policy(Resources(), gpus=2, gpu_bytes=80 * GB)
    assert policy.share(spec("pq")).gpu == 1 and policy.share(spec("pq")).gpu_bytes == 80 * GB
    assert not policy.may_start(spec("pq"), ["pq"]) and policy.may_start(spec("rq"), ["pq"])
    policy.learn("pq", 10 * GB)
    policy.learn("pq", 4 * GB)
    share = policy.share(spec("pq"))
    assert share.gpu == 0.2  # floor(80 / (1.5 * 10 + 0.6)) = 5
    assert share.gpu_bytes == 16 * GB >= MARGIN * 10 * GB + CONTEXT_BYTES
    assert policy.may_start(spec("pq"), ["pq"])
    assert policy.share(spec("pq"), alone=True).gpu == 1
    assert policy.share(spec("rq")).gpu == 1


@pytest.mark.parametrize("peak", [1, 10**8, GB, 3 * GB, 7 * GB, 20 * GB, 79 * GB, 200 * GB])
def test_shares_of_a_gpu_never_hold_more_than_it(peak: int) -> None:
    policy = Policy(Resources(), gpus=1, gpu_bytes=80 * GB)
    policy.learn("pq", peak)
    gpu = policy.share(spec("pq")).gpu
    together = int(1 / gpu + 1e-9)
    assert 0 < gpu <= 1 and together <= 16 and together * gpu <= 1
    assert together == 1 or together * (MARGIN * peak + CONTEXT_BYTES) <= 80 * GB


def test_methods_without_work_for_a_gpu_take_none() -> None:
    for resources in (Resources(), Resources(gpu=0.5)):
        assert Policy(resources, gpus=2, gpu_bytes=80 * GB).share(spec("identity")).gpu == 0
        assert Policy(resources, gpus=2, gpu_bytes=80 * GB, tasks_use_gpu=True).share(spec("identity")).gpu > 0
    assert Policy(Resources(), gpus=0, gpu_bytes=None).share(spec("pq")).gpu == 0
    assert Policy(Resources(gpu=0.25), gpus=2, gpu_bytes=80 * GB).share(spec("pq")).gpu_bytes == 20 * GB


def queue_of(trials: Iterable[TrialSpec], policy: Policy, **options: Any) -> Queue:
    intake = Intake(build({"name": "s", "table": "t", "quantizers": ["pq"]}), ("t", 10, 4))
    intake.draw_from(Listed(trials))
    return Queue(intake, policy, **options)


def suggested(feed: Queue, trial: str) -> Any:
    found = feed.suggest(trial)
    if not isinstance(found, Mapping):
        return found
    return found["spec"]["method"], found["spec"]["seed"], found["share"]["gpu"]


def test_the_feed_passes_over_a_method_that_is_being_measured() -> None:
    todo = iter([spec("pq", 0), spec("pq", 1), spec("rq", 0), spec("rq", 1), spec("cast", 0)])
    policy = Policy(Resources(), gpus=2, gpu_bytes=80 * GB)
    feed = queue_of(todo, policy)
    assert suggested(feed, "a") == ("pq", 0, 1)
    assert suggested(feed, "b") == ("rq", 0, 1)
    assert suggested(feed, "c") == ("cast", 0, 0)
    assert feed.suggest("d") is None
    policy.learn("pq", 20 * GB)
    feed.on_trial_complete("a")
    assert suggested(feed, "d") == ("pq", 1, 0.5)
    assert feed.suggest("e") is None


def test_few_trials_are_chosen_ahead_of_what_is_measured() -> None:
    asked = []

    def choose() -> Iterator[TrialSpec]:
        for seed in range(100):
            asked.append(spec("pq", seed))
            yield asked[-1]

    feed = queue_of(choose(), Policy(Resources(), gpus=2, gpu_bytes=80 * GB), look_ahead=2)
    assert suggested(feed, "a") == ("pq", 0, 1)
    for name in "bcd":
        assert feed.suggest(name) is None
    assert len(asked) == 3


def test_a_trial_that_lacked_memory_runs_alone_when_all_others_have_ended() -> None:
    todo = [spec("pq", 0), spec("pq", 1)]
    policy = Policy(Resources(gpu=0.5), gpus=2, gpu_bytes=80 * GB)
    feed = queue_of(todo, policy)
    assert suggested(feed, "a") == ("pq", 0, 0.5) and suggested(feed, "b") == ("pq", 1, 0.5)
    feed.on_trial_complete("a", error=True)
    feed.run_again(spec("pq", 0), alone=True)
    assert feed.suggest("c") is None
    feed.on_trial_complete("b")
    assert suggested(feed, "c") == ("pq", 0, 0.5) and feed.suggest("d") is None
    feed.on_trial_complete("c")
    assert feed.suggest("d") == "FINISHED"


def test_what_no_machine_has_is_refused() -> None:
    nodes = [{"CPU": 2.0, "memory": 8e9}, {"CPU": 4.0, "GPU": 1.0, "memory": 4e9}]
    check_fits(Resources(cpu=4, gpu=1, memory="8GB"), nodes)
    for resources, key in ((Resources(cpu=5), "cpu"), (Resources(gpu=2), "gpu"), (Resources(memory="9GB"), "memory")):
        with pytest.raises(InputError, match=f"resources.{key}"):
            check_fits(resources, nodes)


def test_a_share_of_a_gpu_is_on_the_first_that_the_worker_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    share = Share(cpu=1, gpu=0.5, memory_bytes=None, gpu_bytes=GB)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device = device_of(share)
    assert device == torch.device("cuda", 0)  # torch refuses to limit the memory of a device without a number
    assert device_of(dataclasses.replace(share, gpu=0)) == torch.device("cpu")


def test_peak_memory_counts_what_earlier_trials_had_freed() -> None:
    cpu, share = torch.device("cpu"), Share(cpu=1, gpu=0, memory_bytes=None, gpu_bytes=None)
    for _ in range(3):
        with worker._within(share, cpu), PeakMemory(cpu) as peak:
            rows = [np.ones(10_000) for _ in range(200)]  # 16 MB, in pieces that the allocator keeps
        del rows
        assert peak.bytes is not None and 12e6 < peak.bytes < 24e6
