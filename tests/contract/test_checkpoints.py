"""Fits that are lost and go on from their checkpoints end as if nothing had happened, bit for bit."""

import pytest
import torch

import quantizers
from quantizers import FitStep, Quantizer, QuantizerConfig, StorageCost
from quantizers.fitting.checkpoint import saved_by


def fit(quantizer, table, saver, **options):
    """The fit's reports."""
    reports = []
    with saved_by(saver):
        for step in quantizer.fit_steps(table, **options):
            reports.append(step)
            saver.told.append({"fraction": step.fraction})
    return reports


def check_saves(seen):
    assert seen.saves or not seen.gradients, f"{seen.quantizer.name} steps along a gradient and saves no checkpoint"


def test_what_steps_along_a_gradient_saves_checkpoints(case, observed):
    check_saves(observed(case))


class Forgetful(Quantizer):
    """One vector for all rows, by gradient descent without a checkpoint."""

    name = "forgetful"
    Config = QuantizerConfig
    reference = "a test"
    iterative = True
    state_roles = {"mean": "codebook"}

    @classmethod
    def configs_for(cls, budget, stats):
        return [QuantizerConfig()]

    @classmethod
    def storage(cls, config, shape):
        return StorageCost(0, 4 * shape[1], 0)

    def _fit_steps(self, table, *, seed, weights, budget):
        with torch.enable_grad():
            mean = torch.zeros(table.embedding_dim, requires_grad=True)
            for step in range(3):
                ((table.vectors - mean) ** 2).mean().backward()
                mean = (mean.detach() - mean.grad).requires_grad_()
                yield FitStep("train", step / 3)
        self._set_state({"mean": mean.detach()})
        yield FitStep("end", 1.0)

    def reconstruct(self, ids):
        return self._state["mean"].expand(*ids.shape, -1)


def test_a_method_that_forgets_its_checkpoints_is_found(observe_fit):
    seen = observe_fit(Forgetful(QuantizerConfig()), quantizers.Table(torch.ones(20, 4)))
    assert seen.gradients == ["backward"] * 3
    with pytest.raises(AssertionError, match="forgetful steps along a gradient and saves no checkpoint"):
        check_saves(seen)


@pytest.mark.thorough
def test_a_lost_fit_goes_on_where_it_was(iterative_case, observed, repeated, same_state, saver):
    """Lost after its first save, half-way, and before its last: each attempt goes on from the one before."""
    case, seen = iterative_case, observed(iterative_case)
    same_state(seen.quantizer, repeated(case))  # a saver changes nothing
    if not seen.saves:
        pytest.skip("saves no checkpoint: it takes no steps along a gradient")
    table, reports, done = case.table("realistic"), seen.steps, 0
    for lost_after in sorted({1, seen.saves // 2, seen.saves - 1}):
        with pytest.raises(saver.Lost):
            fit(case.cls(case.config), table, saver(lost_after - done))
        done = lost_after
    quantizer, again = case.cls(case.config), saver()
    rest = fit(quantizer, table, again)
    same_state(quantizer, seen.quantizer)
    assert again.saves == seen.saves - done  # no step was done twice
    assert again.carried_seconds > 0
    assert [step["fraction"] for step in again.told] == [step.fraction for step in reports]
    trained = [step for step in rest if step.phase != "kmeans"]  # what DPQ starts from, and does again
    assert trained == reports[-len(trained) :]


@pytest.mark.slow
def test_a_weighted_fit_that_is_lost_twice(method, observed, same_state, saver):
    case = method.first
    if not observed(case).saves:
        pytest.skip("saves no checkpoint: it takes no steps along a gradient")
    table = quantizers.Table(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)))
    options = {"seed": 2, "weights": torch.arange(1.0, 301)}
    expected = case.cls(case.config).fit(table, **options)
    for _ in range(2):
        with pytest.raises(saver.Lost):
            fit(case.cls(case.config), table, saver(20), **options)
    quantizer = case.cls(case.config)
    fit(quantizer, table, saver(), **options)
    same_state(quantizer, expected)


@pytest.mark.thorough
@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "another"])
def test_a_broken_checkpoint_is_ignored(damage, same_state, saver, tmp_path):
    cls, table = quantizers.get("bin"), quantizers.Table(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(saver.Lost):
        fit(cls(cls.Config(num_bits=8)), table, saver(20))
    (path,) = (tmp_path / "checkpoints").iterdir()
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(
        {
            "cut": content[:middle],
            "changed": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            "empty": b"",
            "another": content,
        }[damage]
    )
    if damage == "another":  # of a training that keeps something else
        saver().save("bin", {"parts": {}, "seconds": 1.0, "told": "[]"})
    quantizer, again = cls(cls.Config(num_bits=8)), saver()
    fit(quantizer, table, again)
    same_state(quantizer, cls(cls.Config(num_bits=8)).fit(table))
    assert again.carried_seconds == 0


def test_trainings_of_one_name_are_kept_apart(same_state, saver):
    """A method that fits another one twice, lost in the second fit."""
    cls = quantizers.get("bin")
    tables = [quantizers.Table(torch.randn(200, 8, generator=torch.Generator().manual_seed(seed))) for seed in (0, 1)]

    def both(kept):
        made = [cls(cls.Config(num_bits=8, epochs=5, recipe="paper")) for _ in tables]
        with saved_by(kept):
            for quantizer, table in zip(made, tables, strict=True):
                quantizer.fit(table)
        return made

    watched = saver()
    expected = both(watched)
    watched.delete()
    with pytest.raises(saver.Lost):
        both(saver(watched.saves * 3 // 4))
    for quantizer, other in zip(both(saver()), expected, strict=True):
        same_state(quantizer, other)
